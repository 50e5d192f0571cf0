//! `compress --ablate`: a table of what each part of the method is good for, and the recipes of its models.

use std::path::{Path, PathBuf};

use onnxc_codegen::Contents;
use onnxc_search::ablate::Ablated;
use onnxc_search::search::Search;
use serde_json::{Value, json};

use super::{Loaded, Session};
use crate::data::write_contents;
use crate::fault::{Done, Fault};

/// Writes the table to `path`, as JSON or CSV, and the recipes to the folder of the same name without the ending.
pub fn write(search: &Search, session: &Session, path: &Path) -> Done<()> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if !["json", "csv"].contains(&&*ending) {
        return Err(Fault::Usage(format!("--ablate {}: the file ends with .json or .csv", path.display())));
    }
    let (folder, mut files, mut rows): (PathBuf, Vec<(PathBuf, Contents)>, Vec<Value>) =
        (path.with_extension(""), Vec::new(), Vec::new());
    for model in search.ablate()? {
        let name = format!("{}_{:.0}.recipe", model.variant.file, 100.0 * model.density);
        let recipe = folder.join(&name);
        rows.push(row(&model, &recipe));
        files.extend(Loaded { recipe: model.assembled.recipe, arrays: model.assembled.arrays }.files(&recipe)?);
    }
    let table = if ending == "csv" {
        csv(&rows)
    } else {
        let all = json!({ "metric": search.metric(), "samples": session.samples.count, "rows": rows });
        format!("{all:#}\n")
    };
    files.push((path.to_path_buf(), table.into_bytes().into()));
    std::fs::create_dir_all(&folder).map_err(|e| Fault::file(&folder, e))?;
    files.iter().try_for_each(|(path, contents)| write_contents(path, contents))?;
    crate::pipeline::print_all(&text(&rows, search.metric()))
}

fn row(model: &Ablated, recipe: &Path) -> Value {
    let score = &model.score;
    json!({ "method": model.variant.name, "density": model.density, "lost": score.lost(), "drop": score.drop(),
        "agreement": score.agreement, "accuracy": score.accuracy.map(|a| a.compressed), "expected_loss": score.expected,
        "divergence": score.divergence, "recipe": recipe.display().to_string() })
}

const COLUMNS: [&str; 9] =
    ["method", "density", "lost", "drop", "agreement", "accuracy", "expected_loss", "divergence", "recipe"];

fn csv(rows: &[Value]) -> String {
    let mut out = COLUMNS.join(",") + "\n";
    for row in rows {
        let cell = |c: &str| match &row[c] {
            Value::Null => String::new(),
            Value::String(text) if text.contains(',') => format!("\"{text}\""),
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        out += &(COLUMNS.map(cell).join(",") + "\n");
    }
    out
}

/// What is lost, a line for each method.
fn text(rows: &[Value], metric: &str) -> String {
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or(0.0);
    let mut out = format!("lost in points of {metric}, on the samples held out\n  {:<44}", "share of positions that is left");
    let width = rows.iter().position(|r| r["method"] != rows[0]["method"]).unwrap_or(rows.len()).max(1);
    rows.iter().take(width).for_each(|r| out += &format!("{:>9}", number(r, "density")));
    for method in rows.chunks(width) {
        out += &format!("\n  {:<44}", method[0]["method"].as_str().unwrap_or(""));
        method.iter().for_each(|r| out += &format!("{:>9.2}", 100.0 * number(r, "lost")));
    }
    out + "\n"
}
