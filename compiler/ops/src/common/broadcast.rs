//! numpy's broadcasting over dimensions that may be symbolic.

use onnxc_ir::op::{InferCx, OpError, OpResult};
use onnxc_ir::{Dim, TensorType};

/// The common shape of all `shapes`.
pub(crate) fn broadcast(shapes: &[&[Dim]]) -> OpResult<Vec<Dim>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::Const(1); rank];
    for shape in shapes {
        let lead = rank - shape.len();
        for (d, dim) in shape.iter().enumerate() {
            let so_far = &mut out[lead + d];
            *so_far = pair(so_far, dim).ok_or_else(|| {
                let names: Vec<String> = shapes.iter().map(|s| text(s)).collect();
                OpError::new(format!("shapes {} do not broadcast together", names.join(" and ")))
            })?;
        }
    }
    Ok(out)
}

fn pair(a: &Dim, b: &Dim) -> Option<Dim> {
    match (a, b) {
        (a, b) if a == b => Some(a.clone()),
        (a, b) if a.is_one() => Some(b.clone()),
        (a, b) if b.is_one() => Some(a.clone()),
        (Dim::Const(_), Dim::Const(_)) => None,
        // A known extent other than 1 decides: the symbol can only be it or 1.
        (Dim::Const(n), _) | (_, Dim::Const(n)) => Some(Dim::Const(*n)),
        (a, b) => Some(a.max_of(b)),
    }
}

/// `[2,N,3]`.
pub(crate) fn text(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(|d| d.to_string()).collect();
    format!("[{}]", dims.join(","))
}

/// The common shape of all operands that are present, and the type of operand 0.
pub(crate) fn infer_broadcast(cx: &InferCx) -> OpResult<TensorType> {
    let dtype = cx.input(0)?.dtype;
    let present: Vec<&TensorType> = cx.inputs.iter().flatten().collect();
    let shapes: Vec<&[Dim]> = present.iter().map(|t| &t.shape[..]).collect();
    Ok(TensorType::new(dtype, broadcast(&shapes)?))
}

/// Refuses operands of different types.
pub(crate) fn same_dtype(cx: &InferCx, operands: std::ops::Range<usize>) -> OpResult<()> {
    let mut types = operands.filter_map(|i| cx.opt(i)).map(|t| t.dtype);
    let first = types.next();
    match types.find(|t| Some(*t) != first) {
        None => Ok(()),
        Some(t) => Err(OpError::new(format!("operands have different types: {} and {t}", first.unwrap_or(t)))
            .help("insert a Cast, or export the model again")),
    }
}
