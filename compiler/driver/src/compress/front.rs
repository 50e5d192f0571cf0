//! `compress`: the front of a model, from exact to small and fast, as files: a recipe for each point, tables, a picture.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use onnxc_codegen::Contents;
use onnxc_search::metric::Metric;
use onnxc_search::search::{Found, describe};
use serde_json::{Value, json};

use super::{Loaded, Session};
use crate::cli::Compress;
use crate::data::write_contents;
use crate::fault::Done;

/// `onnxc compress`.
pub fn compress(args: &Compress) -> Done<()> {
    let target = crate::commands::target(&args.machine, "", 1)?;
    let session = Session::open(&args.model, &target, &args.freedom, &args.budget)?;
    session.with(|search, samples, cost| {
        let found = search.front(args.points as usize)?;
        let dense = cost(&found[found.len() - 1])?;
        let (mut rows, mut files): (Vec<Value>, Vec<(PathBuf, Contents)>) = (Vec::new(), Vec::new());
        for (n, point) in found.iter().enumerate() {
            let name = format!("point_{n:02}.recipe");
            let mut recipe = point.assembled.recipe.clone();
            describe(&mut recipe, point, search.metric(), samples);
            files.extend(Loaded { recipe, arrays: point.assembled.arrays.clone() }.files(&args.front.join(&name))?);
            rows.push(row(&name, point, &cost(point)?, &dense, search.layers()));
        }
        let title = args.model.model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let all = json!({ "model": title, "metric": search.metric().name(), "target": target.desc.triple, "cpu": target.desc.cpu,
            "samples": { "fit": samples.fit().len(), "held_out": samples.held_out().len() }, "points": rows });
        files.push((args.front.join("front.json"), format!("{all:#}\n").into_bytes().into()));
        files.push((args.front.join("front.csv"), csv(&rows).into_bytes().into()));
        files.push((args.front.join("front.svg"), svg(&title, &rows, search.metric()).into_bytes().into()));
        std::fs::create_dir_all(&args.front).map_err(|e| crate::fault::Fault::file(&args.front, e))?;
        files.iter().try_for_each(|(path, contents)| write_contents(path, contents))?;
        crate::pipeline::print_all(&table(&rows, &args.front))
    })
}

/// What a point takes on the target: predicted and, on this machine, measured seconds, bytes.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Predicted seconds.
    pub predicted: f64,
    /// Measured seconds.
    pub measured: Option<f64>,
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
}

fn row(
    recipe: &str,
    point: &Found,
    taken: &Taken,
    dense: &Taken,
    layers: &[onnxc_passes::compress::weighted::Weighted],
) -> Value {
    let macs = onnxc_search::price::macs(layers, &point.picks);
    let all: f64 = layers.iter().map(|l| l.macs() as f64).sum();
    let speed = match (dense.measured, taken.measured) {
        (Some(a), Some(b)) => a / b,
        _ => dense.predicted / taken.predicted,
    };
    json!({ "recipe": recipe, "drop": point.score.drop(), "agreement": point.score.agreement, "expected_loss": point.score.expected,
        "bound_90": point.score.bound, "divergence": point.score.divergence, "sqnr_db": point.score.sqnr, "cosine": point.score.cosine,
        "predicted_ms": taken.predicted * 1e3, "measured_ms": taken.measured.map(|s| s * 1e3), "speedup": speed,
        "macs_removed": all / macs.max(1.0), "weight_bytes": taken.weight_bytes, "arena_bytes": taken.arena_bytes,
        "smaller": dense.weight_bytes as f64 / taken.weight_bytes.max(1) as f64, "optimality_gap": point.gap })
}

const COLUMNS: [&str; 13] = [
    "recipe",
    "drop",
    "agreement",
    "expected_loss",
    "bound_90",
    "divergence",
    "sqnr_db",
    "predicted_ms",
    "measured_ms",
    "speedup",
    "macs_removed",
    "weight_bytes",
    "arena_bytes",
];

fn csv(rows: &[Value]) -> String {
    let mut out = COLUMNS.join(",") + "\n";
    for row in rows {
        let cells = COLUMNS.map(|c| row[c].as_str().map_or_else(|| row[c].to_string(), str::to_string));
        out += &(cells.join(",") + "\n");
    }
    out
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(0.0)
}

fn table(rows: &[Value], folder: &Path) -> String {
    let mut out = "  drop %  agree %  divergence   speed-up  MACs/      weights  recipe\n".to_string();
    for row in rows {
        let _ = writeln!(
            out,
            "{:8.2} {:8.2} {:11.1e} {:9.2}x {:5.2}x {:12}  {}",
            100.0 * number(row, "drop"),
            100.0 * number(row, "agreement"),
            number(row, "divergence"),
            number(row, "speedup"),
            number(row, "macs_removed"),
            row["weight_bytes"].to_string(),
            folder.join(row["recipe"].as_str().unwrap_or("")).display()
        );
    }
    out
}

/// Size of the picture, and the edges of the plot: left, right, top, bottom.
const SIZE: (f64, f64) = (820.0, 520.0);
const PLOT: (f64, f64, f64, f64) = (70.0, 790.0, 50.0, 460.0);

/// Speed-up against drop; a point's area is its size.
fn svg(title: &str, rows: &[Value], metric: Metric) -> String {
    let fastest = rows.iter().map(|r| number(r, "speedup")).fold(1.0, f64::max) * 1.05;
    let worst = rows.iter().map(|r| 100.0 * number(r, "drop")).fold(1.0, f64::max).min(20.0) * 1.05;
    let x = |speed: f64| PLOT.0 + speed / fastest * (PLOT.1 - PLOT.0);
    let y = |drop: f64| PLOT.2 + (drop / worst).min(1.0) * (PLOT.3 - PLOT.2);
    let (width, height) = SIZE;
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"{}\" y=\"24\" font-size=\"17\">{}</text>\n<text x=\"{}\" y=\"40\" fill=\"#666\">loss of {}, on held-out samples</text>\n",
        PLOT.0,
        crate::profile::roofline::escape(title),
        PLOT.0,
        metric.name()
    );
    for n in 0..=10 {
        let (speed, drop) = (fastest * f64::from(n) / 10.0, worst * f64::from(n) / 10.0);
        let _ = writeln!(
            out,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#eee\"/><text x=\"{0:.1}\" y=\"{3}\" text-anchor=\"middle\">{speed:.1}x</text>",
            x(speed),
            PLOT.2,
            PLOT.3,
            PLOT.3 + 16.0
        );
        let _ = writeln!(
            out,
            "<line x1=\"{1}\" x2=\"{2}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#eee\"/><text x=\"{3}\" y=\"{0:.1}\" text-anchor=\"end\">-{drop:.1} %</text>",
            y(drop),
            PLOT.0,
            PLOT.1,
            PLOT.0 - 6.0
        );
    }
    let path: Vec<String> =
        rows.iter().map(|r| format!("{:.1},{:.1}", x(number(r, "speedup")), y(100.0 * number(r, "drop")))).collect();
    let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"#9bd\"/>", path.join(" "));
    let largest = rows.iter().map(|r| number(r, "weight_bytes")).fold(1.0, f64::max);
    for r in rows {
        let radius = 3.0 + 9.0 * (number(r, "weight_bytes") / largest).sqrt();
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\" fill=\"#37a\" fill-opacity=\"0.6\"><title>{}: {:.2}x, {:.2} % lost, {} bytes of weights</title></circle>",
            x(number(r, "speedup")),
            y(100.0 * number(r, "drop")),
            r["recipe"].as_str().unwrap_or(""),
            number(r, "speedup"),
            100.0 * number(r, "drop"),
            r["weight_bytes"]
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">faster than the dense model; area: bytes of weights</text>",
        PLOT.1,
        height - 12.0
    );
    out + "</svg>\n"
}
