//! Measures the roofs of this machine with probes that the target's emitter makes.
//!
//! Each figure is the best of several short runs: what else happens on a machine only takes away.

#![expect(unsafe_code, reason = "calls machine code that this crate has just generated")]

use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::FuncId;
use onnxc_ir::workload::roof::Roofs;
use onnxc_targets::{KernelCode, PROBE_WORDS, Probe, Target};

use crate::error::{Error, Result};
use crate::generate::Machine;
use crate::jit::{Line, lines};
use crate::machine::{self, Code, FuncIx, Unit};
use crate::object::{Home, define};

/// Sizes in bytes at which bandwidth is measured, all threads together.
const SIZES: [u64; 8] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 160 << 20];
/// How often each figure is measured, least and most, and seconds that it may take if that leaves the least.
const TAKES: (f64, f64) = (3.0, 12.0);
const PATIENCE: f64 = 0.03;
/// Lines that results of a probe take.
const RESULTS: usize = 64;
/// Least duration of one measurement.
const TAKE: Duration = Duration::from_micros(600);

/// The convention of kernels.
#[cfg(target_arch = "x86_64")]
type Function = unsafe extern "sysv64" fn(*mut u8, *mut u8, u64);
/// The convention of kernels.
#[cfg(not(target_arch = "x86_64"))]
type Function = unsafe extern "C" fn(*mut u8, *mut u8, u64);

/// The probes of a target, compiled.
struct Probes {
    /// Behind a lock only because it is not `Sync` by itself.
    module: Mutex<Option<JITModule>>,
    /// Code and operations of one call.
    functions: Vec<(Function, u64)>,
}

const PROBES: [Probe; 4] = [Probe::Fma, Probe::Dot, Probe::Read, Probe::Copy];

impl Probes {
    fn new(target: &Target) -> Result<Probes> {
        let (mut functions, mut ops) = (Vec::new(), Vec::new());
        for (i, probe) in PROBES.into_iter().enumerate() {
            let made = onnxc_targets::compile_probe(probe, target).map_err(|e| Error::unsupported(e.to_string()))?;
            let code = match made.code {
                KernelCode::Bytes(assembled) => Code::Bytes(assembled.alone()),
                KernelCode::Clif(f) => Code::Clif(f),
            };
            let unit = Unit { name: format!("probe{i}"), export: false, code };
            functions.push((unit.name.clone(), false, machine::compile(&*target.isa, i as FuncIx, unit, false)?));
            ops.push(made.ops);
        }
        let machine = Machine { functions, stack_bytes: 0, unpack: None, points: vec![], kernels: vec![], clif: String::new() };
        let mut module = JITModule::new(JITBuilder::with_isa(target.isa.clone(), cranelift_module::default_libcall_names()));
        define(&mut module, &machine, "probe", Home::Memory(&[]))?;
        module.finalize_definitions().map_err(|e| Error::Object(e.to_string()))?;
        let function = |(i, ops): (usize, u64)| {
            let code = module.get_finalized_function(FuncId::from_u32(i as u32));
            // SAFETY: probes are functions of three words without result in this convention; the module lives as long as the pointers.
            (unsafe { std::mem::transmute::<*const u8, Function>(code) }, ops)
        };
        let functions = ops.into_iter().enumerate().map(function).collect();
        Ok(Probes { module: Mutex::new(Some(module)), functions })
    }

    /// Calls a probe on a thread's memory: `bytes` of it, for copies half of that to the other half.
    fn call(&self, probe: usize, memory: &mut [Line], bytes: u64) {
        let (function, _) = self.functions[probe];
        let copy = PROBES[probe] == Probe::Copy;
        // Results of reads lie behind what is read.
        let (from, to) = memory.split_at_mut(if copy { memory.len() / 2 } else { memory.len() - RESULTS });
        let wanted = match PROBES[probe] {
            Probe::Fma | Probe::Dot => 0,
            Probe::Read => bytes / 4,
            Probe::Copy => bytes / 8,
        };
        let words = wanted.min(from.len() as u64 * 16) / PROBE_WORDS * PROBE_WORDS;
        // SAFETY: both pointers are into `memory`, which nobody else has; `words` words fit behind each, and results where there are none.
        unsafe { function(from.as_mut_ptr().cast(), to.as_mut_ptr().cast(), words) };
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        if let Some(module) = self.module.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            // SAFETY: `&mut self` proves that no probe is running, and the pointers die with it.
            unsafe { module.free_memory() };
        }
    }
}

/// Measures this machine with so many threads at a time.
///
/// # Errors
/// When the target's code does not run here.
pub fn measure_roofs(target: &Target, threads: u32) -> Result<Roofs> {
    if target.isa.triple().architecture != target_lexicon::Triple::host().architecture {
        return Err(Error::Run(format!("code for {} does not run on this machine", target.isa.triple())));
    }
    let probes = Probes::new(target)?;
    let threads = threads.max(1);
    let each = |bytes: u64| bytes.div_ceil(u64::from(threads));
    let mut memory: Vec<Vec<Line>> = (0..threads).map(|_| lines(each(SIZES[SIZES.len() - 1]) + (16 << 10))).collect();
    // Zeros would be one page of the operating system's, read again and again.
    memory.iter_mut().flatten().for_each(|line| line.0 = [1; 64]);
    let mut rate = |probe: usize, bytes: u64, count: u64| best(&probes, probe, &mut memory, bytes, count);
    let ops = |probe: usize| probes.functions[probe].1 * u64::from(threads);
    let flops = rate(0, 0, ops(0));
    let int8_ops = rate(1, 0, ops(1));
    let mut curve = |probe: usize| {
        let usable = SIZES.into_iter().filter(|n| each(*n) >= 8 * PROBE_WORDS);
        let mut points: Vec<(u64, f64)> = usable.map(|n| (n, rate(probe, each(n), n))).collect();
        // What is true of more bytes is true of fewer.
        for i in (1..points.len()).rev() {
            points[i - 1].1 = points[i - 1].1.max(points[i].1);
        }
        points
    };
    let (read, copy) = (curve(2), curve(3));
    Ok(Roofs { threads, flops, int8_ops, read, copy })
}

/// The best of several takes: units in a second, of which one call on all threads does `count`.
fn best(probes: &Probes, probe: usize, memory: &mut [Vec<Line>], bytes: u64, count: u64) -> f64 {
    // Two calls bring the memory near; the second one says how many a take needs.
    probes.call(probe, &mut memory[0], bytes);
    let begin = Instant::now();
    probes.call(probe, &mut memory[0], bytes);
    let one = begin.elapsed().as_secs_f64().max(1e-9);
    let calls = (TAKE.as_secs_f64() / one).clamp(1.0, 1e6) as u32;
    let takes = (PATIENCE / (one * f64::from(calls))).clamp(TAKES.0, TAKES.1) as usize;
    let barrier = Barrier::new(memory.len());
    let worker = |memory: &mut Vec<Line>| {
        probes.call(probe, memory, bytes);
        let take = |_| {
            barrier.wait();
            let begin = Instant::now();
            (0..calls).for_each(|_| probes.call(probe, memory, bytes));
            (begin, Instant::now())
        };
        (0..takes).map(take).collect()
    };
    let times: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let (first, others) = memory.split_first_mut().expect("internal: a thread");
        let worker = &worker;
        let handles: Vec<_> = others.iter_mut().map(|m| scope.spawn(move || worker(m))).collect();
        let own = worker(first);
        std::iter::once(own).chain(handles.into_iter().map(|h| h.join().expect("internal: a probe does not panic"))).collect()
    });
    let take = |i: usize| {
        let begin = times.iter().map(|t| t[i].0).min();
        let end = times.iter().map(|t| t[i].1).max();
        begin.zip(end).map_or(Duration::MAX, |(b, e)| e.duration_since(b))
    };
    let seconds = (0..takes).map(take).min().unwrap_or(Duration::MAX).as_secs_f64().max(1e-9);
    count as f64 * f64::from(calls) / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roofs_are_finite_and_caches_are_not_slower_than_memory() {
        let host = target_lexicon::Triple::host();
        let cpu = if cfg!(target_arch = "x86_64") { "native" } else { "" };
        let target = onnxc_targets::describe(&host.to_string(), cpu, 2).unwrap();
        for threads in [1, 2] {
            let roofs = measure_roofs(&target, threads).unwrap();
            assert!(roofs.flops > 1e8 && roofs.flops < 1e15, "{roofs:?}");
            assert!(roofs.int8_ops > 1e8 && roofs.int8_ops < 1e16, "{roofs:?}");
            for curve in [&roofs.read, &roofs.copy] {
                assert!(curve.len() > 4 && curve.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 >= w[1].1), "{roofs:?}");
                assert!(curve.iter().all(|p| p.1 > 1e7 && p.1 < 1e14), "{roofs:?}");
            }
        }
    }
}
