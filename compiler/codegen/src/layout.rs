//! Sizes of arena and buffers, from a plan for code that has them as constants.

use onnxc_ir::Dim;
use onnxc_ir::plan::Plan;

use crate::error::{Error, Result};
use crate::generate::Source;

/// Sizes that code needs as constants.
pub(crate) struct Layout {
    /// Shared arena bytes, a multiple of 64.
    pub arena_shared: u64,
    /// Scratch bytes of a worker, a multiple of 64.
    pub scratch: u64,
    /// All of the arena.
    pub arena_bytes: u64,
    /// Bytes of each input.
    pub input_bytes: Vec<Dim>,
    /// Bytes of each output.
    pub output_bytes: Vec<Dim>,
}

impl Layout {
    /// Sizes that are enough for every plan.
    pub fn bound(source: &Source, threads: u32) -> Result<Layout> {
        let mut layouts = source.plans.iter().map(|(_, plan)| Layout::of(plan, threads));
        let mut bound = layouts.next().unwrap_or_else(|| Err(Error::Plan("nothing to compile".into())))?;
        for layout in layouts {
            let layout = layout?;
            bound.arena_shared = bound.arena_shared.max(layout.arena_shared);
            bound.scratch = bound.scratch.max(layout.scratch);
        }
        bound.arena_bytes = bound.arena_shared + bound.scratch * u64::from(threads);
        Ok(bound)
    }

    /// Evaluates the plan's sizes.
    pub fn of(plan: &Plan, threads: u32) -> Result<Layout> {
        let constant = |d: &Dim| d.as_const().ok_or_else(|| Error::Plan("a size is not constant".into()));
        let round = |n: u64| n.next_multiple_of(64);
        let (arena_shared, scratch) = (round(constant(&plan.arena_shared)?), round(constant(&plan.scratch_per_worker)?));
        let bytes = |io: &onnxc_ir::plan::Io| {
            // Buffers have room for whatever data decides on.
            let room = |d: &Dim| {
                if plan.counts.iter().any(|c| d.mentions(&c.name)) { Dim::Const(d.range(&plan.bounds).1) } else { d.clone() }
            };
            let elements = io.ty.shape.iter().fold(Dim::Const(1), |n, d| n.mul(&room(d)));
            let bytes = match elements {
                Dim::Const(n) => io.ty.dtype.bytes_for(n).map(Dim::Const),
                open if io.ty.dtype.is_packed() => Some(open.div_ceil(&Dim::Const(8 / io.ty.dtype.bits()))),
                open => Some(open.mul(&Dim::Const(io.ty.dtype.bytes()))),
            };
            bytes.ok_or_else(|| Error::Plan(format!("size of {:?}", io.name)))
        };
        Ok(Layout {
            arena_shared,
            scratch,
            arena_bytes: arena_shared + scratch * u64::from(threads),
            input_bytes: plan.inputs.iter().map(bytes).collect::<Result<_>>()?,
            output_bytes: plan.outputs.iter().map(bytes).collect::<Result<_>>()?,
        })
    }
}
