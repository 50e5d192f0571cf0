//! Probes: small functions that do one thing as fast as the instruction set can, to measure what a machine gives at best.
//!
//! They are made by the same emitters as kernels, so that a roof is that of the code which is held against it.

use onnxc_ir::DType;
use onnxc_ir::scalar::BinOp;

use crate::cpu::Target;
use crate::emitter::{Dot, Emitter, Lanes, Mem, Opd, Ty, V, alloc_many};
use crate::error::Error;
use crate::kernels::{KernelCode, with_emitter};

/// What a probe does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Fused multiply-adds of f32 in registers.
    Fma,
    /// Dot products of 8-bit integers in registers.
    Dot,
    /// Reads memory.
    Read,
    /// Reads memory and writes as much.
    Copy,
}

/// A probe's code: `fn(begin, to, words)`, i64 each, for the SystemV convention.
///
/// `begin` points at memory, aligned to 64 bytes: 4096 bytes to write results to, or for [`Probe::Read`] and [`Probe::Copy`] `words` words of 4 bytes to
/// read, a multiple of [`PROBE_WORDS`]. `to` is where copies go. [`Probe::Read`] needs `to` for 4096 bytes of results.
pub struct ProbeCode {
    /// The function.
    pub code: KernelCode,
    /// Operations of one call; a multiply-add is two. Zero for probes of memory.
    pub ops: u64,
}

/// `words` is a multiple of this.
pub const PROBE_WORDS: u64 = 1024;

/// Rounds of arithmetic in one call.
const ROUNDS: u64 = 4096;
/// Vectors that one round of a memory probe moves.
const AT_ONCE: i64 = 8;

/// Generates a probe.
///
/// # Errors
/// As [`crate::compile_kernel`].
pub fn compile_probe(probe: Probe, target: &Target) -> Result<ProbeCode, Error> {
    let mut ops = 0;
    let code = with_emitter(target, 3, |e, _| {
        ops = match probe {
            Probe::Fma => fma(e)?,
            Probe::Dot => dot(e, best_dot(target), target.desc.short_steps())?,
            Probe::Read | Probe::Copy => memory(e, probe == Probe::Copy)?,
        };
        Ok(())
    })?;
    Ok(ProbeCode { code, ops })
}

/// Stores registers, so that nothing is dead.
fn store_all(e: &mut dyn Emitter, list: &[V], dtype: DType, arg: usize) -> Result<(), Error> {
    let base = e.arg(arg)?;
    let bytes = i64::from(e.lanes()) * 4;
    list.iter().zip(0i64..).try_for_each(|(v, i)| e.store(*v, dtype, Mem { base, disp: i * bytes }, Lanes::All))
}

fn fma(e: &mut dyn Emitter) -> Result<u64, Error> {
    let (a, b) = (e.alloc(Ty::F32)?, e.alloc(Ty::F32)?);
    let base = e.arg(0)?;
    // From memory: an instruction set without fused operations might fold constants.
    e.load(a, DType::F32, Mem { base, disp: 0 }, Lanes::All)?;
    e.load(b, DType::F32, Mem { base, disp: 0 }, Lanes::All)?;
    let n = e.available().saturating_sub(2).clamp(1, 28);
    let sums = alloc_many(e, Ty::F32, n)?;
    sums.iter().try_for_each(|s| e.copy(Ty::F32, *s, Opd::Const(0)))?;
    let open = e.repeat(ROUNDS)?;
    sums.iter().try_for_each(|s| e.fma(*s, Opd::Reg(a), Opd::Reg(b), Opd::Reg(*s)))?;
    e.end(open)?;
    store_all(e, &sums, DType::F32, 0)?;
    Ok(2 * ROUNDS * sums.len() as u64 * u64::from(e.lanes()))
}

/// The fastest dot product of a target.
fn best_dot(target: &Target) -> Dot {
    match (target.desc.short_tiles.is_empty(), target.desc.i8_unsigned_a) {
        (false, _) => Dot::Short,
        (true, true) => Dot::Unsigned,
        (true, false) => Dot::Signed,
    }
}

/// Of short weights the products of `together` steps are added in 16 bits first.
fn dot(e: &mut dyn Emitter, of: Dot, together: u32) -> Result<u64, Error> {
    let together = together.max(1);
    let parts = e.dot_parts(of);
    let (a, b) = (alloc_many(e, Ty::I32, parts)?, alloc_many(e, Ty::I32, parts)?);
    let at = Mem { base: e.arg(0)?, disp: 0 };
    e.dot_splat_a(&a, at, of)?;
    e.dot_load_b(&b, at, of)?;
    let temps = if together == 1 { e.dot_temps(of) } else { 2 };
    let n = e.available().saturating_sub(temps + 1).clamp(1, 24);
    let sums = alloc_many(e, Ty::I32, n)?;
    sums.iter().try_for_each(|s| e.copy(Ty::I32, *s, Opd::Const(0)))?;
    let open = e.repeat(ROUNDS)?;
    if together == 1 {
        sums.iter().try_for_each(|s| e.dot(*s, &a, &b, of))?;
    } else {
        let words = alloc_many(e, Ty::I32, 2)?;
        for sum in &sums {
            e.dot_words(words[0], a[0], b[0])?;
            for _ in 1..together {
                e.dot_words(words[1], a[0], b[0])?;
                e.add_words(words[0], words[1])?;
            }
            e.add_pairs(*sum, words[0])?;
        }
    }
    e.end(open)?;
    store_all(e, &sums, DType::I32, 0)?;
    Ok(2 * 4 * ROUNDS * sums.len() as u64 * u64::from(together * e.lanes()))
}

fn memory(e: &mut dyn Emitter, copy: bool) -> Result<u64, Error> {
    let (from, to, words) = (e.arg(0)?, e.arg(1)?, e.arg(2)?);
    let (from, to_moving, words) = (e.copy_ptr(from)?, e.copy_ptr(to)?, e.copy_ptr(words)?);
    let bytes = i64::from(e.lanes()) * 4;
    let loaded = alloc_many(e, Ty::I32, 4)?;
    let sums = alloc_many(e, Ty::I32, if copy { 0 } else { 4 })?;
    sums.iter().try_for_each(|s| e.copy(Ty::I32, *s, Opd::Const(0)))?;
    let open = e.while_at_least(words, (AT_ONCE * bytes / 4) as u32)?;
    for i in 0..AT_ONCE {
        let v = loaded[i as usize % loaded.len()];
        e.load(v, DType::I32, Mem { base: from, disp: i * bytes }, Lanes::All)?;
        match sums.get(i as usize % 4) {
            Some(s) => e.bin(BinOp::Xor, Ty::I32, *s, Opd::Reg(*s), Opd::Reg(v))?,
            None => e.store(v, DType::I32, Mem { base: to_moving, disp: i * bytes }, Lanes::All)?,
        }
    }
    e.advance(from, AT_ONCE * bytes)?;
    e.advance(to_moving, AT_ONCE * bytes)?;
    e.end(open)?;
    store_all(e, &sums, DType::I32, 1)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{describe, targets};

    #[test]
    fn every_cpu_has_every_probe() {
        for (triple, cpus, _) in targets() {
            for cpu in cpus.iter().filter(|c| **c != "native") {
                let target = describe(triple, cpu, 1).unwrap();
                for probe in [Probe::Fma, Probe::Dot, Probe::Read, Probe::Copy] {
                    let made = compile_probe(probe, &target).unwrap_or_else(|e| panic!("{triple} {cpu} {probe:?}: {e}"));
                    assert_eq!(made.ops > 0, matches!(probe, Probe::Fma | Probe::Dot));
                    assert!(PROBE_WORDS.is_multiple_of(AT_ONCE as u64 * u64::from(target.desc.lanes)));
                }
            }
        }
    }
}
