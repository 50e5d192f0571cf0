//! Backend tests and zoo models through import and interpreter, or through all of the compiler.
//!
//! ```text
//! node_interp [FILTER]        backend tests whose kind/name contains FILTER: a table by operator, then each failure
//! node_interp --brief         only the table
//! node_interp --zoo [ID]      zoo models against ONNX Runtime's outputs
//! node_interp --cpu=CPU ...   compiled for CPU instead of interpreted
//! ```

use std::collections::BTreeMap;

use onnxc_testsuite::data;
use onnxc_testsuite::interpret::{self, Engine};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let filter = args.iter().find(|a| !a.starts_with("--")).cloned().unwrap_or_default();
    let flag = |name: &str| args.iter().any(|a| a == name);
    let engine = args.iter().find_map(|a| a.strip_prefix("--cpu=")).map_or(Engine::Interpreter, Engine::Compiled);
    if flag("--zoo") {
        return zoo(&filter, engine);
    }
    // Failures print their message once; the hook would print it again among the table.
    std::panic::set_hook(Box::new(|_| {}));
    let folders = interpret::backend_tests(&["node", "simple", "pytorch-operator", "pytorch-converted"], &filter);
    let outcomes = interpret::backend_run(&folders, engine);
    let mut table: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for o in &outcomes {
        let row = table.entry(&o.op).or_default();
        row.0 += usize::from(o.error.is_none());
        row.1 += 1;
    }
    if !flag("--brief") {
        for o in outcomes.iter() {
            if let Some(error) = &o.error {
                println!("{}  {}", o.test, error.trim_end().replace('\n', "\n    "));
            }
        }
    }
    for (op, (passed, all)) in &table {
        println!("{op:32} {passed:4} of {all:4}{}", if passed < all { "  <" } else { "" });
    }
    let passed = outcomes.iter().filter(|o| o.error.is_none()).count();
    println!("{passed} of {} pass", outcomes.len());
}

fn zoo(filter: &str, engine: Engine) {
    for model in data::zoo().iter().filter(|m| m.id.contains(filter)) {
        let begin = std::time::Instant::now();
        let result = interpret::zoo_model(model, 1e-4, engine);
        let text = result.map_or_else(|e| format!("FAIL {}", e.trim_end().replace('\n', "\n    ")), |e| format!("ok   {e:.1e}"));
        println!("{:20} {:6.1} s  {text}", model.id, begin.elapsed().as_secs_f64());
    }
}
