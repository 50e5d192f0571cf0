//! Recurrent layers `lstm`, `gru` and `rnn` (ONNX LSTM-22, GRU-22, RNN-22).
//!
//! Operands: x `[T, B, I]`, w `[D, G*H, I]`, r `[D, G*H, H]`, bias `[D, 2*G*H]` (of w, then of r) or absent, sequence_lens i32 `[B]` or absent, initial_h
//! `[D, B, H]` or absent; LSTM also initial_c `[D, B, H]` and peepholes `[D, 3*H]` (input, output, forget). D is the number of directions, G the number of
//! gates. Results: Y `[T, D, B, H]`, Y_h `[D, B, H]`, LSTM also Y_c. Batch-first layouts become transposes on import.
//!
//! Without w, x is what another operator has made of it, `[T, B, D*G*H]` with the bias of w, and the bias is that of r alone, `[D, G*H]`. A constant r may be signed
//! bytes; their scales, one for each of its rows, `[D, G*H]`, are the last operand.

mod activation;
mod cell;
mod eval;
mod gru;
mod lower;
mod lstm;
mod quantized;
mod quantized_lower;
mod rnn;
mod samples;

pub(crate) use gru::GRU;
pub(crate) use lstm::LSTM;
pub(crate) use quantized::DYNAMIC_QUANTIZE_LSTM;
pub(crate) use rnn::RNN;

use onnxc_ir::op::{ImportCx, InferCx, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, DType, Dim, TensorType, ValueId};

use cell::{Cell, Kind};

/// The operands w and r.
pub const MATRICES: [usize; 2] = [1, 2];
/// The operand that has the scales of r.
pub const SCALE: usize = 8;

/// Gates of a recurrent operator of floats; none of others.
pub fn gates(op: &str) -> Option<usize> {
    [Kind::Lstm, Kind::Gru, Kind::Rnn].into_iter().find(|kind| kind.name() == op).map(Kind::gates)
}

/// Attributes that the operators keep; `layout` and `output_sequence` are dealt with on import.
const KEPT: &[&str] = &[
    "activations",
    "activation_alpha",
    "activation_beta",
    "clip",
    "direction",
    "hidden_size",
    "input_forget",
    "linear_before_reset",
];

/// Import of all three: `layout=1` puts transposes around.
fn import(cx: &mut dyn ImportCx, kind: Kind) -> OpResult<Vec<ValueId>> {
    let given = cx.attrs().clone();
    let mut attrs = Attrs::default();
    for name in KEPT {
        if let Some(value) = given.0.get(*name) {
            attrs = attrs.with(name, value.clone());
        }
    }
    let batch_first = given.int("layout").unwrap_or(0) == 1;
    let perm = |p: &[i64]| Attrs::default().with("perm", Attr::Ints(p.to_vec()));
    let operands = if kind == Kind::Lstm { 8 } else { 6 };
    let mut inputs: Vec<Option<ValueId>> = (0..operands).map(|i| cx.opt_input(i)).collect();
    for i in 0..3 {
        cx.input(i)?;
    }
    if batch_first {
        for i in [0, 5, 6] {
            if let Some(Some(id)) = inputs.get(i).copied() {
                inputs[i] = Some(cx.node1("transpose", &[id], perm(&[1, 0, 2]))?);
            }
        }
    }
    let mut results = cx.node(kind.name(), &inputs, attrs)?;
    if batch_first {
        results[0] = cx.node1("transpose", &[results[0]], perm(&[2, 0, 1, 3]))?;
        for state in &mut results[1..] {
            *state = cx.node1("transpose", &[*state], perm(&[1, 0, 2]))?;
        }
    }
    Ok(results)
}

/// Types of the results, after checking every operand against the sizes that x, w and r give.
fn infer(cx: &InferCx, kind: Kind) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    let (x, w, r) = (cx.input(0)?, cx.opt(1), cx.input(2)?);
    if let Some(wrong) = [Some(x), w, Some(r)].into_iter().flatten().find(|t| t.rank() != 3) {
        return Err(OpError::new(format!("an operand is {wrong}; x, w and r need 3 dimensions")));
    }
    if x.dtype != DType::F32 {
        return Err(OpError::new(format!("recurrent layers of {} are not supported", x.dtype)).help("convert the model to f32"));
    }
    let hidden = r.shape[2].as_const().ok_or_else(|| OpError::new("the hidden size must be known"))?;
    let cell = Cell::of(kind, cx.attrs, hidden)?;
    let known = cell.directions.len() as u64;
    let (directions, width) = (Dim::Const(known), kind.gates() as u64 * hidden);
    let (time, batch, hidden) = (x.shape[0].clone(), x.shape[1].clone(), Dim::Const(hidden));
    let state = vec![directions.clone(), batch.clone(), hidden.clone()];
    let multiplied = vec![time.clone(), batch.clone(), Dim::Const(known * width)];
    let halves = if w.is_some() { 2 } else { 1 };
    let expected: [(usize, &str, Vec<Dim>); 9] = [
        (0, "x", if w.is_some() { x.shape.clone() } else { multiplied }),
        (1, "w", vec![directions.clone(), Dim::Const(width), x.shape[2].clone()]),
        (2, "r", vec![directions.clone(), Dim::Const(width), hidden.clone()]),
        (3, "the bias", vec![directions.clone(), Dim::Const(halves * width)]),
        (4, "sequence_lens", vec![batch.clone()]),
        (5, "initial_h", state.clone()),
        (6, "initial_c", state.clone()),
        (7, "the peepholes", vec![directions.clone(), Dim::Const(3 * cell.hidden)]),
        (SCALE, "the scales of r", vec![directions.clone(), Dim::Const(width)]),
    ];
    for (i, what, shape) in expected {
        let Some(ty) = cx.opt(i) else { continue };
        let wrong = |(a, b): (&Dim, &Dim)| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b);
        if ty.rank() != shape.len() || ty.shape.iter().zip(&shape).any(wrong) {
            return Err(OpError::new(format!("{what} is {ty}, it should be {}", TensorType::new(ty.dtype, shape))));
        }
        let dtype = match i {
            2 if cx.opt(SCALE).is_some() => DType::I8,
            4 => DType::I32,
            _ => DType::F32,
        };
        if ty.dtype != dtype {
            return Err(OpError::new(format!("{what} is {ty}, its elements should be {dtype}")));
        }
    }
    let mut results = vec![TensorType::new(x.dtype, vec![time, directions, batch, hidden])];
    results.resize(kind.results(), TensorType::new(x.dtype, state));
    Ok(results)
}
