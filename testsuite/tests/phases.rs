//! Graphs at every phase: each prints and parses back and is well-formed; small ones are snapshots in full, zoo models as summaries.
//!
//! Small graphs are `phases/*.nir`; adding one needs no Rust. After a change that is meant: `INSTA_UPDATE=always cargo test -p onnxc-testsuite
//! --test phases`, then read the difference.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use onnxc_ir::graph::{Attr, Graph};
use onnxc_ir::op::OpSet;
use onnxc_ir::plan::{Plan, Step};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{parse, text, verify};
use onnxc_onnx::{Options, import};
use onnxc_passes::{Math, Phase, choose, plan, row_chain, winograd};
use onnxc_testsuite::{data, pb};

/// One machine for all snapshots, whatever runs the test.
fn target() -> TargetDesc {
    onnxc_targets::describe("x86_64-unknown-linux-gnu", "x86-64-v3", 1).expect("a known machine").desc
}

/// The graph after each phase, with the phase's name, and the plan.
fn phases(graph: Graph, target: &TargetDesc) -> (Vec<(&'static str, Graph)>, Plan) {
    let mut all = vec![("import", graph)];
    for phase in [Phase::Canonicalize, Phase::Fuse] {
        let (next, _) = onnxc_passes::run(phase, &all[all.len() - 1].1, target);
        all.push((phase.name(), next));
    }
    all.push(("winograd", choose::by_costs(&all[all.len() - 1].1, target, winograd::GROWTH, Math::Fast)));
    all.push(("row-chain", row_chain::run(&all[all.len() - 1].1, target)));
    let last = plan::schedule(&all[all.len() - 1].1);
    let planned = plan::plan(&last, target).unwrap_or_else(|e| panic!("{e:?}\n{}", text::print(&last)));
    all.push(("schedule", last));
    (all, planned)
}

/// Prints, parses, prints again; the second text must be the first, and the graph well-formed.
fn round_trip(what: &str, graph: &Graph) -> String {
    verify::verify(graph).unwrap_or_else(|all| panic!("{what}: {}", all.join("\n")));
    let (printed, blobs) = (text::print(graph), text::blobs(graph).into_iter().collect::<BTreeMap<_, _>>());
    let parsed = parse::parse(&printed, OpSet(onnxc_ops::ALL), &|hash| blobs.get(&hash).cloned());
    let parsed = parsed.unwrap_or_else(|e| panic!("{what}: {e}"));
    verify::verify(&parsed).unwrap_or_else(|all| panic!("{what}: after parsing: {}", all.join("\n")));
    let again = text::print(&parsed);
    let differ = printed.lines().zip(again.lines()).find(|(a, b)| a != b);
    assert!(printed == again, "{what}: printed, parsed and printed again, a line differs: {differ:?}");
    printed
}

fn snapshot(name: &str, body: &str) {
    let settings = || {
        let mut s = insta::Settings::clone_current();
        s.set_snapshot_path("snapshots");
        s.set_prepend_module_to_snapshot(false);
        s.set_omit_expression(true);
        s
    };
    settings().bind(|| insta::assert_snapshot!(name, body));
}

fn small_graphs() -> Vec<PathBuf> {
    let folder = data::repository().join("testsuite/tests/phases");
    let entries = std::fs::read_dir(folder).expect("the folder of graphs");
    let mut all: Vec<PathBuf> =
        entries.map(|e| e.expect("entry").path()).filter(|p| p.extension().is_some_and(|e| e == "nir")).collect();
    all.sort();
    all
}

#[test]
fn small_graphs_at_every_phase() {
    let target = target();
    for path in small_graphs() {
        let name = path.file_stem().expect("a name").to_str().expect("UTF-8");
        let (all, plan) = phases(read(&path), &target);
        let mut body = String::new();
        let mut before = String::new();
        for (phase, graph) in &all {
            let printed = round_trip(&format!("{name} after {phase}"), graph);
            let shown = if printed == before { "(unchanged)\n" } else { &printed };
            writeln!(body, "; {phase}\n{shown}").expect("string");
            before = printed;
        }
        write!(body, "; plan\n{}", onnxc::plan_text::plan(&plan)).expect("string");
        snapshot(&format!("phases-{name}"), &body);
    }
}

fn read(path: &Path) -> Graph {
    let source = std::fs::read_to_string(path).expect("readable");
    parse::parse(&source, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Number of nodes by operator, most frequent first; bodies count with a dot before their operator.
fn operators(graph: &Graph) -> String {
    fn count(graph: &Graph, dots: &str, counts: &mut BTreeMap<String, usize>) {
        for node in &graph.nodes {
            let algorithm = node.attrs.str(onnxc_ops::winograd::ATTR).map(|a| format!(" ({a})")).unwrap_or_default();
            *counts.entry(format!("{dots}{}{algorithm}", node.op.name)).or_default() += 1;
            for attr in node.attrs.0.values() {
                if let Attr::Graph(body) = attr {
                    count(body, &format!("{dots}."), counts);
                }
            }
        }
    }
    let mut counts = BTreeMap::new();
    count(graph, "", &mut counts);
    let mut list: Vec<(String, usize)> = counts.into_iter().collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    list.iter().map(|(op, n)| format!("{n} {op}")).collect::<Vec<_>>().join(", ")
}

fn steps(list: &[Step]) -> usize {
    let one = |s: &Step| if let Step::If { then, otherwise, .. } = s { steps(then) + steps(otherwise) } else { 1 };
    list.iter().map(one).sum()
}

fn zoo_graph(model: &data::Model) -> Graph {
    let names = pb::model_inputs(&std::fs::read(&model.path).expect("readable")).expect("well-formed");
    let shape = |t: &onnxc_testsuite::tensor::Tensor| t.dims.iter().map(|d| onnxc_ir::Dim::Const(*d as u64)).collect::<Vec<_>>();
    let shapes = names.into_iter().zip(model.inputs().iter().map(shape)).collect();
    let imported = import(&model.path, &Options { shapes, ..Options::default() });
    imported.unwrap_or_else(|report| panic!("{}: {report}", model.id)).graph
}

/// One test for each model, so that they run beside each other and fail by name.
macro_rules! zoo {
    ($($id:ident)*) => {
        mod zoo {
            pub const IDS: &[&str] = &[$(stringify!($id)),*];
            $(#[test] fn $id() { super::zoo_model_at_every_phase(stringify!($id)); })*
        }
    };
}

zoo! {
    silero_vad silero_vad_if ppocr4_det ppocr4_rec ppocr2_cls magika opennsfw basic_pitch minilm_l3 layout_cdla orientation ddddocr_det
    ddddocr_rec_int8 dtln_1 dtln_2 oww_embedding oww_melspec oww_hey_jarvis
}

#[test]
fn every_zoo_model_is_here() {
    let ids: Vec<String> = data::zoo().into_iter().map(|m| m.id).collect();
    assert_eq!(ids, zoo::IDS);
}

fn zoo_model_at_every_phase(id: &str) {
    let (all, plan) = phases(zoo_graph(&data::zoo_model(id)), &target());
    let mut body = String::new();
    for (phase, graph) in &all {
        round_trip(&format!("{id} after {phase}"), graph);
        writeln!(body, "{phase}: {} nodes: {}", graph.nodes.len(), operators(graph)).expect("string");
    }
    let (shared, scratch) = (&plan.arena_shared, &plan.scratch_per_worker);
    writeln!(body, "plan: {} steps, arena {shared} + {scratch} per worker, weights {}", steps(&plan.steps), plan.weights_bytes)
        .expect("string");
    snapshot(&format!("zoo-{id}"), &body);
}

/// The example of `docs/ir.md` is a graph.
#[test]
fn the_example_of_the_text_form_parses() {
    let doc = std::fs::read_to_string(data::repository().join("docs/ir.md")).expect("docs/ir.md");
    let example = doc.split("```text\n").find(|part| part.starts_with("graph @")).and_then(|p| p.split("```").next());
    let example = example.expect("docs/ir.md has an example");
    let weights = |_| Some(onnxc_ir::Tensor::from_vec(&[4, 3, 3, 3], vec![0.5f32; 108]));
    let graph = parse::parse(example, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"));
    verify::verify(&graph).unwrap_or_else(|all| panic!("{}", all.join("\n")));
    let hash = |text: &str| text.split("blob(").nth(1).map(|rest| rest[..16].to_string()).expect("a large constant");
    let printed = text::print(&graph);
    assert_eq!(printed.replace(&hash(&printed), &hash(example)), example);
}
