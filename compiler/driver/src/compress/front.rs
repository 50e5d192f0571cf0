//! `compress --front`: the front of a model, from exact to small and fast, as files: a recipe for each point, tables, a picture.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use onnxc_codegen::Contents;
use onnxc_search::Taken;
use onnxc_search::baseline::UNIFORM;
use onnxc_search::metric::Score;
use serde_json::{Value, json};

use super::{Loaded, Session};
use crate::cli::Compress;
use crate::data::write_contents;
use crate::fault::Done;

/// `onnxc compress`.
pub fn compress(args: &Compress) -> Done<()> {
    let target = crate::commands::target(&args.machine, "", 1)?;
    let session = Session::open(&args.model, &target, &args.freedom, &args.budget)?;
    session.with(|search, seconds| {
        if let Some(path) = &args.ablate {
            super::ablate::write(search, &session, path)?;
        }
        let Some(folder) = &args.front else { return Ok(()) };
        let all: f64 = search.layers().iter().map(|l| l.macs() as f64).sum();
        let found = search.front(args.points as usize)?;
        let dense = Timed { taken: search.dense()?, measured: seconds(search.graph())? };
        let (mut rows, mut files): (Vec<Value>, Vec<(PathBuf, Contents)>) = (Vec::new(), Vec::new());
        for (n, point) in found.iter().enumerate() {
            let name = format!("point_{n:02}.recipe");
            let mut recipe = point.assembled.recipe.clone();
            search.describe(&mut recipe, point);
            recipe.report = Some(search.report(point, false)?);
            files.extend(Loaded { recipe, arrays: point.assembled.arrays.clone() }.files(&folder.join(&name))?);
            let timed = Timed { taken: search.taken(point)?, measured: seconds(&point.assembled.graph)? };
            let mut row = row(&point.score, &timed, &dense);
            row["recipe"] = name.into();
            row["macs_removed"] = (all / search.macs(&point.assembled.recipe).max(1.0)).into();
            row["optimality_gap"] = point.gap.into();
            rows.push(row);
        }
        let mut others = Vec::new();
        for point in if args.budget.no_baselines { Vec::new() } else { search.uniform_points()? } {
            let timed = Timed { taken: point.taken, measured: seconds(&point.assembled.graph)? };
            let mut row = row(&point.score, &timed, &dense);
            (row["baseline"], row["density"]) = (point.name.into(), point.density.into());
            others.push(row);
        }
        let title = args.model.model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let samples = &session.samples;
        let inputs = if session.samples.are_generated() { "generated" } else { "given" };
        let front = json!({ "model": title, "metric": search.metric(), "inputs": inputs, "target": target.desc.triple, "cpu": target.desc.cpu,
            "samples": { "fit": samples.fit().len(), "held_out": samples.held_out().len() }, "points": rows, "baselines": others });
        files.push((folder.join("front.json"), format!("{front:#}\n").into_bytes().into()));
        files.push((folder.join("front.csv"), csv(&rows, &others).into_bytes().into()));
        files.push((folder.join("front.svg"), svg(&title, &rows, &others, search.metric()).into_bytes().into()));
        std::fs::create_dir_all(folder).map_err(|e| crate::fault::Fault::file(folder, e))?;
        files.iter().try_for_each(|(path, contents)| write_contents(path, contents))?;
        crate::pipeline::print_all(&table(&rows, &others, folder))
    })
}

/// What a model takes on the target, and the seconds that were measured, if this machine is the target.
struct Timed {
    taken: Taken,
    measured: Option<f64>,
}

fn row(score: &Score, timed: &Timed, dense: &Timed) -> Value {
    let taken = &timed.taken;
    let speed = match (dense.measured, timed.measured) {
        (Some(a), Some(b)) => a / b,
        _ => dense.taken.seconds / taken.seconds,
    };
    json!({ "drop": score.drop(), "agreement": score.agreement, "accuracy": score.accuracy, "expected_loss": score.expected,
        "bound_90": score.bound, "divergence": score.divergence, "sqnr_db": score.sqnr, "cosine": score.cosine,
        "predicted_ms": taken.seconds * 1e3, "measured_ms": timed.measured.map(|s| s * 1e3), "speedup": speed,
        "energy_uj": taken.joules * 1e6, "weight_bytes": taken.weight_bytes, "arena_bytes": taken.arena_bytes,
        "smaller": dense.taken.weight_bytes as f64 / taken.weight_bytes.max(1) as f64 })
}

const COLUMNS: [&str; 16] = [
    "recipe",
    "baseline",
    "density",
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
    "energy_uj",
    "weight_bytes",
    "arena_bytes",
];

fn csv(rows: &[Value], others: &[Value]) -> String {
    let mut out = COLUMNS.join(",") + "\n";
    for row in rows.iter().chain(others) {
        let cell = |c: &str| match &row[c] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        out += &(COLUMNS.map(cell).join(",") + "\n");
    }
    out
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(0.0)
}

fn table(rows: &[Value], others: &[Value], folder: &Path) -> String {
    let mut out = "  drop %  agree %  divergence   speed-up  MACs/      weights  recipe\n".to_string();
    for row in rows.iter().chain(others) {
        let name = match row["recipe"].as_str() {
            Some(recipe) => folder.join(recipe).display().to_string(),
            None => format!("({} at {})", row["baseline"].as_str().unwrap_or(""), row["density"]),
        };
        let macs = row["macs_removed"].as_f64().map_or("      ".to_string(), |m| format!("{m:5.2}x"));
        let _ = writeln!(
            out,
            "{:8.2} {:8.2} {:11.1e} {:9.2}x {macs} {:12}  {name}",
            100.0 * number(row, "drop"),
            100.0 * number(row, "agreement"),
            number(row, "divergence"),
            number(row, "speedup"),
            row["weight_bytes"].to_string()
        );
    }
    out
}

/// Size of the picture, and the edges of the plot: left, right, top, bottom.
const SIZE: (f64, f64) = (820.0, 520.0);
const PLOT: (f64, f64, f64, f64) = (70.0, 790.0, 50.0, 460.0);

/// Colours of the ways without a choice.
const COLOURS: [&str; UNIFORM.len()] = ["#c63", "#2a7", "#7b2", "#a3a", "#64c", "#999", "#0aa"];

/// Speed-up against drop; a point's area is its size, squares are models in which all layers are alike.
fn svg(title: &str, rows: &[Value], others: &[Value], metric: &str) -> String {
    let fastest = rows.iter().chain(others).map(|r| number(r, "speedup")).fold(1.0, f64::max) * 1.05;
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
        metric
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
    for r in others {
        let (x, y) = (x(number(r, "speedup")), y(100.0 * number(r, "drop")));
        let name = r["baseline"].as_str().unwrap_or("");
        let colour = COLOURS[UNIFORM.iter().position(|w| w.name == name).unwrap_or(0)];
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"6\" height=\"6\" fill=\"{colour}\"><title>{name} at {}: {:.2}x, {:.2} % lost</title></rect>",
            x - 3.0,
            y - 3.0,
            r["density"],
            number(r, "speedup"),
            100.0 * number(r, "drop")
        );
    }
    let shown = UNIFORM.iter().zip(COLOURS).filter(|(way, _)| others.iter().any(|r| r["baseline"] == way.name));
    for (n, (way, colour)) in shown.enumerate() {
        let y = PLOT.2 + 14.0 + 16.0 * n as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"6\" height=\"6\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            PLOT.1 - 220.0,
            y - 6.0,
            colour,
            PLOT.1 - 208.0,
            y,
            way.name
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
