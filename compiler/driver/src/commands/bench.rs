//! `bench`: latency of a model on this machine, and where the time goes.

use std::time::Instant;

use onnxc_codegen::{JitModel, Profile};
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Tensor};
use serde_json::json;

use super::engine::{self, codegen_fault};
use super::run::with_shapes;
use crate::cli::Bench;
use crate::data::{self, Slot};
use crate::fault::{Done, Fault};
use crate::profile::{self, Report, roofline, table};

/// Most profiled runs: medians do not get better, only memory fuller.
const PROFILES: usize = 2000;

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
    let profiled = args.profile || args.roofline.is_some();
    let report = |runs: &[Profile], roofs| {
        Report::new(profile::layers(&compiled.plan, &compiled.graph, &target), runs, roofs, compiled.plan.touched_bytes())
    };
    // Before the runs: the processor has the clock then that it has under load.
    let roofs = if profiled { Some(onnxc_codegen::measure_roofs(&target, args.threads).map_err(codegen_fault)?) } else { None };
    let (times, runs) = measure(jit, &bytes, args, profiled)?;
    let report = roofs.map(|roofs| report(&runs, roofs));
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    let (median, p10, min) = (at(0.5), at(0.1), at(0.0));
    if let (Some(path), Some(report)) = (&args.roofline, &report) {
        let name = args.model.model.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        let title = format!("{name}: median {median:.4} ms, {}, {}", table::threads(args.threads), target.desc.cpu);
        data::write_file(path, roofline::svg(&title, report).as_bytes())?;
    }
    if args.json {
        let mut out = json!({ "median_ms": median, "p10_ms": p10, "min_ms": min, "runs": times.len(), "threads": args.threads,
            "arena_bytes": jit.arena_bytes(), "weights_bytes": compiled.plan.weights_bytes });
        if let Some(u) = &jit.unpacked {
            (out["coded_weights_bytes"], out["unpack_ms"]) = (u.coded_bytes.into(), (1e3 * u.seconds).into());
        }
        for (key, value) in report.iter().flat_map(Report::json) {
            out[key] = value;
        }
        return crate::pipeline::print_all(&format!("{out}\n"));
    }
    let runs = times.len();
    let mut text =
        format!("median {median:.4} ms, p10 {p10:.4} ms, min {min:.4} ms  ({runs} runs, {})\n", table::threads(args.threads));
    if let Some(u) = &jit.unpacked {
        text += &format!(
            "weights unpacked in {:.3} ms: {} bytes from {}, {:.0} MB/s\n",
            1e3 * u.seconds,
            u.bytes,
            u.coded_bytes,
            u.bytes as f64 / u.seconds.max(1e-9) / 1e6
        );
    }
    if let Some(report) = report.as_ref().filter(|_| args.profile) {
        text += &table::report(report);
    }
    crate::pipeline::print_all(&text)
}

/// Milliseconds of each run, ascending, and profiles of as many other runs in between if they are wanted.
fn measure(jit: &JitModel, inputs: &[&[u8]], args: &Bench, profiled: bool) -> Done<(Vec<f64>, Vec<Profile>)> {
    let _progress = crate::progress::Progress::start("measuring");
    let mut outputs = Vec::new();
    let mut once = || -> Done<f64> {
        let start = Instant::now();
        jit.run(inputs, &mut outputs, args.threads).map_err(codegen_fault)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    // The first runs touch the memory and wake the threads.
    let first = once()?;
    for _ in 0..((200.0 / first.max(1e-3)) as usize).clamp(1, 50) {
        once()?;
    }
    let (begin, mut times, mut profiles, mut unused) = (Instant::now(), Vec::new(), Vec::new(), Vec::new());
    while times.len() < 5 || begin.elapsed().as_secs_f64() < args.seconds {
        times.push(once()?);
        if profiled && profiles.len() < PROFILES {
            profiles.push(jit.run_profiled(inputs, &mut unused, args.threads).map_err(codegen_fault)?);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok((times, profiles))
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
