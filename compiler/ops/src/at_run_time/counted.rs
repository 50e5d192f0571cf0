//! Results whose extents only data knows: computed in the largest size that they can have, then cut by `prefix` to the one that turns out.

use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, DType, TensorType, ValueId};

use super::require;
use crate::common::sample::int_attrs;
use crate::composed::Build;

/// How large the first result of a node is.
#[derive(Clone, Debug)]
pub(crate) enum Sized {
    /// The model declares its shape, which the data must keep to.
    Declared(Vec<u64>),
    /// These are the largest extents (`--bound`).
    Bounded(Vec<u64>),
    /// Nobody says.
    Open,
}

impl Sized {
    /// The extents to compute, given the largest that the operator's operands admit.
    pub(crate) fn or(&self, most: Vec<u64>) -> OpResult<Vec<u64>> {
        let shape = match self {
            Sized::Declared(shape) | Sized::Bounded(shape) => shape,
            Sized::Open => return Ok(most),
        };
        if shape.len() != most.len() {
            return Err(OpError::new(format!("a result of {} dimensions has the stated shape {shape:?}", most.len())));
        }
        // A bound may be generous, a declared shape is what it is.
        let stated = |(n, most): (&u64, &u64)| if matches!(self, Sized::Bounded(_)) { *n.min(most) } else { *n };
        Ok(shape.iter().zip(&most).map(stated).collect())
    }

    /// The extents, which somebody must have stated because operands tell nothing.
    pub(crate) fn stated(&self) -> OpResult<Vec<u64>> {
        match self {
            Sized::Declared(shape) | Sized::Bounded(shape) => Ok(shape.clone()),
            Sized::Open => Err(OpError::new("the size of the result depends on data, and nothing says how large it can be")
                .help("state the largest shape with --bound NAME=DIMS, or make the operand a constant (--const for an input)")),
        }
    }
}

/// The import `usual`; where it fails for a size that depends on data, `form` with what is stated of the first result.
pub(crate) fn or_counted(
    cx: &mut dyn ImportCx,
    usual: impl FnOnce(&mut dyn ImportCx) -> OpResult<Vec<ValueId>>,
    form: impl FnOnce(&mut Build, &Sized) -> OpResult<Vec<ValueId>>,
) -> OpResult<Vec<ValueId>> {
    match usual(cx) {
        Err(error) if error.unknown_size => {}
        other => return other,
    }
    let size = match (cx.bound(0), cx.declared(0)) {
        (Some(bound), _) => Sized::Bounded(bound.to_vec()),
        (None, Some(shape)) => Sized::Declared(shape.to_vec()),
        (None, None) => Sized::Open,
    };
    if let Sized::Declared(shape) | Sized::Bounded(shape) = &size
        && TensorType::fixed(DType::U8, shape).least_bytes().is_none()
    {
        return Err(OpError::new(format!("the stated shape {shape:?} is too large")));
    }
    form(&mut Build(cx), &size)
}

/// The first `count` elements of values along dimensions; all of them share the number, which is called after a result and its dimension. A declared
/// extent is required to be the number; otherwise the number becomes the extent.
pub(crate) fn cut(
    b: &mut Build,
    size: &Sized,
    (of, along): (usize, usize),
    results: Vec<(ValueId, usize)>,
    count: ValueId,
) -> OpResult<Vec<ValueId>> {
    let Some((first, axis)) = results.first().copied() else { return Ok(Vec::new()) };
    let extent = b.shape_of(first, axis)?;
    if matches!(size, Sized::Declared(_)) {
        let wanted = b.int(extent as i64);
        let same = b.op("equal", &[count, wanted])?;
        return results.into_iter().map(|(x, _)| require(b, x, &[same])).collect();
    }
    let symbol = b.0.counted(of, along, extent)?;
    let prefix = |(x, axis): (ValueId, usize)| {
        let attrs = int_attrs(&[("axis", axis as i64), ("bound", extent as i64)]).with("count", Attr::Str(symbol.clone()));
        b.with("prefix", &[x, count], attrs)
    };
    results.into_iter().map(prefix).collect()
}
