//! Operators that are built for constant operands: built for each value that can lead to the declared shape, the one that turns up is taken.

use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{Attrs, DType, Dim, Graph, Tensor, ValueId};

use super::{everywhere, impossible, integers, require};
use crate::composed::Build;

/// Most values that are tried, and most of them that may fit.
const MOST_TRIED: usize = 512;
const MOST: usize = 32;

/// The value that operand `operand` is taken to have.
#[derive(Clone, Debug)]
pub(crate) struct Guess {
    pub operand: usize,
    /// Entries; `None` where any value will do.
    pub values: Vec<Option<i64>>,
    /// Values that differ by a multiple of this mean the same: axes.
    pub modulus: Option<i64>,
}

impl Guess {
    pub(crate) fn new(operand: usize, values: impl IntoIterator<Item = u64>) -> Guess {
        Guess { operand, values: values.into_iter().map(|v| Some(v as i64)).collect(), modulus: None }
    }
}

/// What `build` makes of operands that have the values of one of `cases`, each of which says all that is not known.
pub(crate) fn assume(
    b: &mut Build,
    build: impl Fn(&mut dyn ImportCx) -> OpResult<Vec<ValueId>>,
    to: &[u64],
    cases: Vec<Vec<Guess>>,
) -> OpResult<Vec<ValueId>> {
    let mut fitting: Vec<(ValueId, Vec<ValueId>)> = Vec::new();
    for case in cases.into_iter().take(MOST_TRIED) {
        let mut inputs = b.0.inputs().to_vec();
        for guess in &case {
            inputs[guess.operand] = Some(value(b, guess)?);
        }
        let results = build(&mut Assumed { cx: &mut *b.0, inputs });
        if let Ok(results) = results.and_then(|r| if b.shape(r[0])? == to { Ok(r) } else { Err(impossible(b, r[0], to)) }) {
            fitting.push((holds(b, &case)?, results));
        }
    }
    if fitting.len() > MOST {
        return Err(OpError::new(format!("{} values of the operands lead to the declared shape {to:?}", fitting.len()))
            .help("make the operand a constant in the model (--const for an input)"));
    }
    let Some((mut any, mut chosen)) = fitting.pop() else {
        let x = b.0.input(0)?;
        return Err(impossible(b, x, to));
    };
    for (right, results) in fitting {
        any = b.op("or", &[any, right])?;
        for (all, one) in chosen.iter_mut().zip(results) {
            *all = b.op("where", &[right, one, *all])?;
        }
    }
    chosen.into_iter().map(|y| require(b, y, &[any])).collect()
}

/// The guess as a constant in the shape and type of the operand.
fn value(b: &mut Build, guess: &Guess) -> OpResult<ValueId> {
    let ty = b.ty(b.0.input(guess.operand)?);
    let shape = ty.const_shape().unwrap_or_default();
    if shape.iter().product::<u64>() != guess.values.len() as u64 {
        return Err(OpError::new(format!("operand {} is {ty}, {} values are needed", guess.operand, guess.values.len())));
    }
    let values: Vec<i64> = guess.values.iter().map(|v| v.unwrap_or(1)).collect();
    let constant = b.0.constant(Tensor::from_vec(&shape, values));
    b.cast(constant, ty.dtype)
}

/// Whether the operands have these values.
fn holds(b: &mut Build, case: &[Guess]) -> OpResult<ValueId> {
    let mut all = b.0.constant(Tensor::scalar(true));
    for guess in case {
        let given = b.0.input(guess.operand)?;
        let (mut given, _) = integers(b, given)?;
        if let Some(modulus) = guess.modulus {
            let (low, high, size) = (b.int(-modulus), b.int(modulus), b.int(modulus));
            for (op, bound) in [("greater_or_equal", low), ("less", high)] {
                let inside = b.op(op, &[given, bound])?;
                let inside = everywhere(b, inside)?;
                all = b.op("and", &[all, inside])?;
            }
            given = b.op("mod", &[given, size])?;
        }
        let wanted = b.ints(&guess.values.iter().map(|v| v.unwrap_or(0)).collect::<Vec<_>>());
        let any: Vec<bool> = guess.values.iter().map(Option::is_none).collect();
        let any = super::flags(b, any);
        let same = b.op("equal", &[given, wanted])?;
        let same = b.op("or", &[same, any])?;
        let same = everywhere(b, same)?;
        all = b.op("and", &[all, same])?;
    }
    debug_assert_eq!(b.dtype(all), DType::Bool);
    Ok(all)
}

/// The node with other operands.
struct Assumed<'a, 'b> {
    cx: &'a mut (dyn ImportCx + 'b),
    inputs: Vec<Option<ValueId>>,
}

impl ImportCx for Assumed<'_, '_> {
    fn opset(&self) -> i64 {
        self.cx.opset()
    }

    fn attrs(&self) -> &Attrs {
        self.cx.attrs()
    }

    fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    fn n_outputs(&self) -> usize {
        self.cx.n_outputs()
    }

    fn declared(&self, i: usize) -> Option<&[u64]> {
        self.cx.declared(i)
    }

    fn bound(&self, i: usize) -> Option<&[u64]> {
        self.cx.bound(i)
    }

    fn largest(&self, extent: &Dim) -> Option<u64> {
        self.cx.largest(extent)
    }

    fn counted(&mut self, i: usize, axis: usize, bound: u64) -> OpResult<String> {
        self.cx.counted(i, axis, bound)
    }

    fn graph(&self) -> &Graph {
        self.cx.graph()
    }

    fn node(&mut self, op: &str, inputs: &[Option<ValueId>], attrs: Attrs) -> OpResult<Vec<ValueId>> {
        self.cx.node(op, inputs, attrs)
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.cx.constant(tensor)
    }

    fn has_body(&self, name: &str) -> bool {
        self.cx.has_body(name)
    }

    fn body(&mut self, name: &str, inputs: &[ValueId]) -> OpResult<Vec<ValueId>> {
        self.cx.body(name, inputs)
    }
}
