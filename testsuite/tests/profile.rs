//! `onnxc bench --profile`, `--roofline` and `onnxc inspect --layers`: numbers that can be computed in another way, and a picture that is XML.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use onnxc_ir::{Attr, Graph, ValueId};
use onnxc_testsuite::data::{self, Model};
use onnxc_testsuite::run;
use serde_json::Value;

fn onnxc(command: &str, model: &Path, flags: &[String]) -> String {
    let mut c = Command::new(run::onnxc());
    run::run(c.arg(command).arg(model).args(flags), Duration::from_secs(300)).expect_ok(&format!("onnxc {command} {flags:?}"))
}

fn json(command: &str, model: &Path, flags: &[String]) -> Value {
    let said = onnxc(command, model, &[flags, &["--json".to_string()]].concat());
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"))
}

fn zoo(id: &str) -> Model {
    data::zoo_model(id)
}

fn rows(facts: &Value) -> &[Value] {
    facts["layers"].as_array().expect("layers")
}

fn sum(facts: &Value, key: &str) -> f64 {
    rows(facts).iter().map(|l| l[key].as_f64().unwrap_or_else(|| panic!("{key} of {l}"))).sum()
}

/// Multiplications and additions of the convolutions and matrix products of a model, from its graph with shapes.
fn products(model: &Model) -> f64 {
    let shapes = model.shape_args();
    let shape = |flag: &String| {
        let (name, dims) = flag.strip_prefix("--shape=")?.rsplit_once('=')?;
        let dims: Option<Vec<u64>> = dims.split(',').map(|d| d.parse().ok()).collect();
        Some((name.to_string(), dims?.into_iter().map(onnxc_ir::Dim::Const).collect()))
    };
    let mut options = onnxc_onnx::Options::default();
    options.shapes.extend(shapes.iter().filter_map(shape));
    let graph = onnxc_onnx::import(&model.path, &options).expect("imports").graph;
    let shape = |id: ValueId| graph.ty(id).const_shape().expect("a shape");
    let elements = |id: ValueId| shape(id).iter().product::<u64>();
    let flops = |g: &Graph| -> u64 {
        let of = |n: &onnxc_ir::Node| match n.op.name {
            "conv" => {
                let w = shape(n.inputs[1].expect("weights"));
                2 * elements(n.outputs[0]) * w[1..].iter().product::<u64>()
            }
            "matmul" | "gemm" => {
                let a = shape(n.inputs[0].expect("a"));
                assert!(!matches!(n.attrs.0.get("trans_a"), Some(Attr::Int(1))), "not in these models");
                2 * elements(n.outputs[0]) * a[a.len() - 1]
            }
            _ => 0,
        };
        g.nodes.iter().map(of).sum()
    };
    flops(&graph) as f64
}

#[test]
fn operations_are_those_of_the_onnx_graph_on_every_target() {
    let model = zoo("opennsfw");
    let wanted = products(&model);
    assert!(wanted > 1e9, "{wanted}");
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu"] {
        // Winograd's algorithm needs fewer.
        let flags = vec!["--layers".into(), "--target".into(), target.into(), "--math=strict".into()];
        let facts = json("inspect", &model.path, &[model.shape_args(), flags].concat());
        let counted = sum(&facts, "product_flops");
        // The last matrix product has two columns and is plain loops, whose multiply-adds are no products of a kernel.
        assert!((counted / wanted - 1.0).abs() < 1e-4, "{target}: {counted} counted, {wanted} in the graph");
        // Epilogues, pooling and softmax are small beside.
        let all = sum(&facts, "flops");
        assert!(all >= counted && all < 1.02 * wanted, "{target}: {all}");
        // Every weight is read once, and packing adds little.
        let weights = facts["weights_bytes"].as_f64().expect("bytes");
        let read = sum(&facts, "weight_bytes");
        assert!(read > 0.9 * weights && read <= weights, "{target}: {read} of {weights} bytes of weights are read");
        for l in rows(&facts) {
            assert!(l["exact"] == true && l["kernel"].as_str().is_some_and(|k| !k.is_empty()), "{l}");
            assert!(l["op"] != "conv" || l["kernel"].as_str().is_some_and(|k| k.starts_with("tile f32 ")), "{l}");
        }
    }
}

#[test]
fn products_of_bytes_are_counted_as_such() {
    let model = data::require("bench/dscnn_kws.int8.onnx");
    let (int8, float) = (json("inspect", &model, &["--layers".into()]), data::require("bench/dscnn_kws.onnx"));
    let float = json("inspect", &float, &["--layers".into()]);
    assert_eq!(sum(&float, "int8_ops"), 0.0);
    let (dots, products) = (sum(&int8, "int8_ops"), sum(&float, "product_flops"));
    // Rows of windows are filled up to groups of four bytes.
    assert!(dots >= products && dots < 1.5 * products, "{dots} {products}");
}

#[test]
fn a_profile_has_times_and_roofs_for_every_layer() {
    let folder = tempfile::tempdir().expect("folder");
    for (id, threads) in [("opennsfw", 1), ("silero_vad", 1), ("ppocr2_cls", 2)] {
        let model = zoo(id);
        let svg = folder.path().join(format!("{id}.svg"));
        let more = ["--profile", "--seconds", "1", "--threads", &threads.to_string(), "--roofline", &svg.display().to_string()];
        let flags =
            [model.shape_args(), vec!["--inputs".into(), model.data.display().to_string()], more.map(String::from).to_vec()]
                .concat();
        let facts = json("bench", &model.path, &flags);
        check_profile(id, &facts, threads);
        check_picture(id, &std::fs::read_to_string(&svg).expect("picture"), &facts);
    }
}

fn check_profile(id: &str, facts: &Value, threads: u64) {
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("{id}: {v} is no number"));
    let roofs = &facts["roofs"];
    assert_eq!(roofs["threads"], threads, "{id}");
    assert!(number(&roofs["f32_gflops"]) > 0.1 && number(&roofs["int8_gops"]) > 0.1, "{id}: {roofs}");
    let curves = [&roofs["read"], &roofs["copy"]].map(|c| c.as_array().expect("points"));
    assert!(curves.iter().all(|c| c.len() > 3 && c.iter().all(|p| number(&p["gb_per_s"]) > 0.01)), "{id}: {roofs}");
    // Layers are parts of the whole. Other programs of the machine may slow down either.
    let (all, parts) = (number(&facts["median_ms"]), number(&facts["layers_ms"]));
    assert!(parts < 3.0 * all && parts > all / 3.0, "{id}: {parts} ms in layers, {all} ms in all");
    assert!(number(&facts["profiled_runs"]) >= 1.0);
    for l in rows(facts) {
        assert!(l["kernel"].as_str().is_some_and(|k| !k.is_empty()), "{id}: {l}");
        assert!(l["op"].is_string() && l["origins"].is_array() && number(&l["roof_ms"]) >= 0.0, "{id}: {l}");
        assert!(number(&l["calls"]) == 1.0 && number(&l["ms"]) > 0.0, "{id}: {l}");
    }
}

#[test]
fn branches_that_are_not_taken_do_nothing() {
    let model = data::repository().join("testsuite/tests/phases/branch.nir");
    let facts = json("bench", &model, &["--profile".into(), "--seconds".into(), "0.1".into()]);
    let [then, otherwise] = rows(&facts) else { panic!("two layers: {facts}") };
    assert!(then["calls"] == 1.0 && then["flops"] == 24.0, "{then}");
    assert!(otherwise["calls"] == 0.0 && otherwise["ms"] == 0.0 && otherwise["written_bytes"] == 0.0, "{otherwise}");
}

fn check_picture(id: &str, svg: &str, facts: &Value) {
    let doc = roxmltree::Document::parse(svg).unwrap_or_else(|e| panic!("{id}: {e}\n{svg}"));
    let dots: Vec<_> = doc.descendants().filter(|n| n.has_tag_name("circle")).collect();
    let counted = rows(facts).iter().filter(|l| l["gops"].as_f64().is_some_and(|g| g > 0.0)).count();
    assert!(dots.len() == counted && counted > 2, "{id}: {} dots for {counted} layers", dots.len());
    let size: Vec<f64> =
        doc.root_element().attribute("viewBox").expect("size").split(' ').map(|n| n.parse().expect("a number")).collect();
    for dot in dots {
        let at = |name: &str| dot.attribute(name).and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN);
        assert!((0.0..size[2]).contains(&at("cx")) && (0.0..size[3]).contains(&at("cy")) && at("r") > 1.0, "{id}: {dot:?}");
        let title = dot.children().find(|n| n.has_tag_name("title")).and_then(|n| n.text()).unwrap_or_default();
        assert!(title.contains(" ms, ") && title.contains("roof"), "{id}: {title:?}");
    }
}

#[test]
fn open_sizes_give_bounds_and_say_so() {
    let model = zoo("magika");
    let one = json("inspect", &model.path, &[model.shape_args(), vec!["--layers".into()]].concat());
    let text = "bytes=N,2048".to_string();
    let flags = ["--shape".to_string(), text, "--dim".into(), "N=1..4".into(), "--layers".into()];
    let four = json("inspect", &model.path, &flags);
    assert!(rows(&one).iter().all(|l| l["exact"] == true));
    assert!(rows(&four).iter().any(|l| l["exact"] == false));
    let ratio = sum(&four, "product_flops") / sum(&one, "product_flops");
    assert!((3.9..4.5).contains(&ratio), "{ratio}");
    assert!(onnxc("inspect", &model.path, &flags).contains(" ~"), "bounds are marked in the table");
}
