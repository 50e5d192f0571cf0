//! `bench`: latency of a model on this machine, and where the time goes.

use std::collections::BTreeMap;
use std::time::Instant;

use onnxc_codegen::JitModel;
use onnxc_ir::plan::{Plan, Step};
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Tensor};
use serde_json::json;

use super::engine::{self, codegen_fault};
use super::run::with_shapes;
use crate::cli::Bench;
use crate::data::{self, Slot};
use crate::fault::{Done, Fault};

/// `onnxc bench`.
pub fn bench(args: &Bench) -> Done<()> {
    let model = match &args.inputs {
        Some(inputs) => with_shapes(&args.model, inputs)?,
        None => args.model.clone(),
    };
    let target = super::this_machine(&args.machine, args.threads)?;
    let (engine, compiled) = engine::jit(&model, &target, &args.freedom, &args.debugging)?;
    let inputs = match &args.inputs {
        Some(path) => data::read(path, "input", &engine.inputs)?.0,
        None => random(&engine.inputs.slots)?,
    };
    let jit = engine.compiled().ok_or_else(|| Fault::Internal("no compiled model".to_string()))?;
    let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let times = measure(jit, &bytes, args.threads, args.seconds)?;
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    let (median, p10, min) = (at(0.5), at(0.1), at(0.0));
    let layers = if args.profile { profile(jit, &bytes, args.threads, &compiled.plan)? } else { Vec::new() };
    if args.json {
        let mut out = json!({ "median_ms": median, "p10_ms": p10, "min_ms": min, "runs": times.len(), "threads": args.threads,
            "arena_bytes": jit.arena_bytes(), "weights_bytes": compiled.plan.weights_bytes });
        if args.profile {
            let rows: Vec<_> = layers.iter().map(|l| json!({ "op": l.op, "origins": l.origins, "ms": l.ms })).collect();
            out["layers"] = rows.into();
        }
        return crate::pipeline::print_all(&format!("{out}\n"));
    }
    let runs = times.len();
    let mut text = format!("median {median:.4} ms, p10 {p10:.4} ms, min {min:.4} ms  ({runs} runs, {} threads)\n", args.threads);
    if args.profile {
        table(&layers, &mut text);
    }
    crate::pipeline::print_all(&text)
}

/// Milliseconds of each run, ascending.
fn measure(jit: &JitModel, inputs: &[&[u8]], threads: u32, seconds: f64) -> Done<Vec<f64>> {
    let _progress = crate::progress::Progress::start("measuring");
    let mut outputs = Vec::new();
    let mut once = || -> Done<f64> {
        let start = Instant::now();
        jit.run(inputs, &mut outputs, threads).map_err(codegen_fault)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    // The first runs touch the memory and wake the threads.
    let first = once()?;
    for _ in 0..((200.0 / first.max(1e-3)) as usize).clamp(1, 50) {
        once()?;
    }
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || begin.elapsed().as_secs_f64() < seconds {
        times.push(once()?);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Seeded values: the same on every machine. Integers are 0 and 1, so that they are valid indices more often than not.
fn random(slots: &[Slot]) -> Done<Vec<Tensor>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        // xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    };
    let mut tensor = |(name, ty): &Slot| -> Done<Tensor> {
        let shape = ty.const_shape().unwrap_or_default();
        let n = shape.iter().product::<u64>() as usize;
        let unit = |bits: u64| bits as f64 / (1u64 << 30) as f64 - 1.0;
        let refuse = || Fault::model("data::type", format!("input {name:?} has type {}; pass --inputs", ty.dtype));
        match ty.dtype {
            DType::F32 => Ok(Tensor::from_vec(&shape, (0..n).map(|_| unit(next()) as f32).collect())),
            DType::F64 => Ok(Tensor::from_vec(&shape, (0..n).map(|_| unit(next())).collect())),
            t if t.bits() >= 8 && (t.is_int() || t == DType::Bool) => {
                let size = t.bytes() as usize;
                let mut bytes = vec![0; n * size];
                bytes.chunks_exact_mut(size).for_each(|b| b[0] = (next() % 2) as u8);
                Tensor::from_bytes(t, shape, Bytes::new(bytes)).ok_or_else(refuse)
            }
            t => Tensor::zeros(t, &shape).ok_or_else(refuse),
        }
    };
    slots.iter().map(&mut tensor).collect()
}

/// One step of the plan and the time that it takes.
struct Layer {
    op: String,
    origins: Vec<String>,
    ms: f64,
}

/// Median time of each step over some runs.
fn profile(jit: &JitModel, inputs: &[&[u8]], threads: u32, plan: &Plan) -> Done<Vec<Layer>> {
    let mut outputs = Vec::new();
    let mut runs = Vec::new();
    for _ in 0..15 {
        runs.push(jit.run_profiled(inputs, &mut outputs, threads).map_err(codegen_fault)?);
    }
    let mut layers = Vec::new();
    list_steps(&plan.steps, &mut layers);
    for (i, layer) in layers.iter_mut().enumerate() {
        let mut ns: Vec<u64> = runs.iter().map(|r| r.get(i).copied().unwrap_or(0)).collect();
        ns.sort_unstable();
        layer.ms = ns[ns.len() / 2] as f64 * 1e-6;
    }
    Ok(layers)
}

fn list_steps(steps: &[Step], out: &mut Vec<Layer>) {
    for step in steps {
        if let Step::Call { op, origins, .. } = step {
            out.push(Layer { op: op.clone(), origins: origins.clone(), ms: 0.0 });
        }
        step.inner().for_each(|list| list_steps(list, out));
    }
}

/// Slowest layers first, then the sums by operator.
fn table(layers: &[Layer], out: &mut String) {
    let total: f64 = layers.iter().map(|l| l.ms).sum::<f64>().max(f64::MIN_POSITIVE);
    let line = |name: &str, ms: f64, rest: &str| format!("{ms:>10.4} ms {:>5.1} %  {name:<24} {rest}\n", ms / total * 100.0);
    let mut sorted: Vec<&Layer> = layers.iter().collect();
    sorted.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    for l in sorted {
        let mut origins = l.origins.join(", ");
        if origins.chars().count() > 80 {
            origins = origins.chars().take(77).collect::<String>() + "...";
        }
        *out += &line(&l.op, l.ms, &origins);
    }
    let mut by_op: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for l in layers {
        let sum = by_op.entry(&l.op).or_default();
        *sum = (sum.0 + l.ms, sum.1 + 1);
    }
    let mut by_op: Vec<_> = by_op.into_iter().collect();
    by_op.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    *out += "by operator\n";
    for (op, (ms, n)) in by_op {
        *out += &line(op, ms, &format!("x{n}"));
    }
}
