//! The operator record: everything that onnxc knows of an operator, defined once, in one file of `compiler/ops`.

use std::fmt;

use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Attrs, Graph, TensorType, ValueId};
use crate::lower::LowerCx;
use crate::scalar::ScalarProgram;
use crate::tensor::Tensor;

/// Why an operator refuses its operands; becomes an error on the ONNX node.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct OpError {
    /// What is wrong, in terms of the ONNX operator.
    pub reason: String,
    /// What the user can do.
    pub help: Option<String>,
    /// Only sizes that depend on data stand in the way: with sizes declared by the model there may be another form.
    pub unknown_size: bool,
}

impl OpError {
    /// An error without a remedy.
    pub fn new(reason: impl Into<String>) -> OpError {
        OpError { reason: reason.into(), help: None, unknown_size: false }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> OpError {
        self.help = Some(help.into());
        self
    }
}

/// What operators' functions return.
pub type OpResult<T> = Result<T, OpError>;

/// How one ONNX operator becomes nodes of the graph.
pub struct Import {
    /// `""` for ai.onnx, `"com.microsoft"`, `"ai.onnx.ml"`.
    pub domain: &'static str,
    /// ONNX operator type.
    pub name: &'static str,
    /// First and last opset version (of the domain) whose meaning `build` implements. Leave the last at [`NEWEST`] where later opsets only add types.
    pub opsets: (i64, i64),
    /// Adds nodes and returns one value per ONNX output (absent trailing ones may be left out).
    pub build: fn(&mut dyn ImportCx) -> OpResult<Vec<ValueId>>,
}

/// "And all later opsets".
pub const NEWEST: i64 = i64::MAX;

/// What an [`Import`] sees: the ONNX node and the graph so far. Types of all operands are inferred already.
pub trait ImportCx {
    /// Version of the node's opset.
    fn opset(&self) -> i64;
    /// Attributes as the model gives them (defaults are not filled in: they depend on the opset, which `build` knows).
    fn attrs(&self) -> &Attrs;
    /// Operands; `None` for absent ones. Shorter than the schema when trailing ones are absent.
    fn inputs(&self) -> &[Option<ValueId>];
    /// Number of outputs that the node names (including empty names before the last named one).
    fn n_outputs(&self) -> usize;
    /// The shape that the model declares for output `i`, where it declares all extents. It may be wrong.
    fn declared(&self, i: usize) -> Option<&[u64]>;
    /// The largest extents that the user expects output `i` to have, where data decides on them (`--bound`).
    fn bound(&self, i: usize) -> Option<&[u64]>;
    /// The largest value of an extent, if it has one.
    fn largest(&self, extent: &Dim) -> Option<u64>;
    /// A symbol for the extent of output `i` along `axis`, which data decides on and which is at most `bound`.
    fn counted(&mut self, i: usize, axis: usize, bound: u64) -> OpResult<String>;
    /// The graph built so far.
    fn graph(&self) -> &Graph;
    /// Adds a node of the operator called `op`, infers its result types, folds it if all operands are constants (and folding is
    /// within its limits), and returns its results.
    fn node(&mut self, op: &str, inputs: &[Option<ValueId>], attrs: Attrs) -> OpResult<Vec<ValueId>>;
    /// Adds a constant.
    fn constant(&mut self, tensor: Tensor) -> ValueId;
    /// Whether the node has a graph as its attribute `name`.
    fn has_body(&self, name: &str) -> bool;
    /// Adds the nodes of that graph, its inputs being `inputs`, and returns the values of its outputs.
    fn body(&mut self, name: &str, inputs: &[ValueId]) -> OpResult<Vec<ValueId>>;
}

impl dyn ImportCx + '_ {
    /// Operand `i`, which must be present.
    pub fn input(&self, i: usize) -> OpResult<ValueId> {
        self.opt_input(i).ok_or_else(|| OpError::new(format!("input {i} is missing")))
    }

    /// Operand `i` if present.
    pub fn opt_input(&self, i: usize) -> Option<ValueId> {
        self.inputs().get(i).copied().flatten()
    }

    /// Type of operand `i`.
    pub fn ty(&self, i: usize) -> OpResult<TensorType> {
        Ok(self.graph().ty(self.input(i)?).clone())
    }

    /// Operand `i` as a constant, if it is present and one.
    pub fn const_input(&self, i: usize) -> Option<Tensor> {
        self.opt_input(i).and_then(|id| self.graph().constant(id).cloned())
    }

    /// A node with one result whose operands are all present.
    pub fn node1(&mut self, op: &str, inputs: &[ValueId], attrs: Attrs) -> OpResult<ValueId> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.node(op, &inputs, attrs)?[0])
    }

    /// The common case: the same operands and attributes under our operator's name.
    pub fn forward(&mut self, op: &str) -> OpResult<Vec<ValueId>> {
        let (inputs, attrs) = (self.inputs().to_vec(), self.attrs().clone());
        self.node(op, &inputs, attrs)
    }
}

/// What shape inference sees.
pub struct InferCx<'a> {
    /// Attributes.
    pub attrs: &'a Attrs,
    /// Operand types.
    pub inputs: &'a [Option<TensorType>],
    /// Operand values where they are constants.
    pub constants: &'a [Option<Tensor>],
    /// Operand values as dimensions, where an integer operand was computed from shapes (`shape`, `gather`, `concat`, ...).
    pub dims: &'a [Option<Vec<Dim>>],
    /// Number of results wanted.
    pub n_outputs: usize,
}

impl InferCx<'_> {
    /// Type of operand `i`, which must be present.
    pub fn input(&self, i: usize) -> OpResult<&TensorType> {
        self.opt(i).ok_or_else(|| OpError::new(format!("input {i} is missing")))
    }

    /// Type of operand `i` if present.
    pub fn opt(&self, i: usize) -> Option<&TensorType> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    /// Constant value of operand `i`.
    pub fn constant(&self, i: usize) -> Option<&Tensor> {
        self.constants.get(i).and_then(Option::as_ref)
    }

    /// Integer operand `i` as dimensions: from a constant or from shapes.
    pub fn as_dims(&self, i: usize) -> Option<Vec<Dim>> {
        self.as_sizes(i).filter(|dims| !dims.iter().any(Dim::is_rest))
    }

    /// The same where entries may be -1 ([`Dim::rest`]): for operators that only move them about, and for those that know what it means.
    pub fn as_sizes(&self, i: usize) -> Option<Vec<Dim>> {
        self.dims.get(i).cloned().flatten()
    }
}

/// Evaluation in the reference interpreter.
pub struct EvalCx<'a> {
    /// Attributes.
    pub attrs: &'a Attrs,
    /// Operands.
    pub inputs: &'a [Option<&'a Tensor>],
    /// Result types with constant extents, as inferred.
    pub outputs: &'a [TensorType],
}

impl EvalCx<'_> {
    /// Operand `i`; inference has shown that it is there.
    pub fn input(&self, i: usize) -> &Tensor {
        self.opt(i).expect("internal: inference accepts a missing operand")
    }

    /// Operand `i` if present.
    pub fn opt(&self, i: usize) -> Option<&Tensor> {
        self.inputs.get(i).copied().flatten()
    }

    /// Extents of result `i`.
    pub fn out_shape(&self, i: usize) -> Vec<u64> {
        self.outputs[i].const_shape().expect("internal: evaluation with unknown extents")
    }
}

/// An extent: a number, or a size that comes with the call and its largest value.
#[derive(Clone, PartialEq, Debug)]
pub struct Extent {
    /// The largest value; the value where the extent is not open.
    pub bound: u64,
    /// The expression of an open extent.
    pub open: Option<Dim>,
}

impl Extent {
    /// True for the number 1.
    pub fn is_one(&self) -> bool {
        self.open.is_none() && self.bound == 1
    }

    /// As a dimension.
    pub fn dim(&self) -> Dim {
        self.open.clone().unwrap_or(Dim::Const(self.bound))
    }

    /// The product of two extents.
    pub fn times(&self, other: &Extent) -> Extent {
        let open = (self.open.is_some() || other.open.is_some()).then(|| self.dim().mul(&other.dim()));
        Extent { bound: self.bound.saturating_mul(other.bound), open }
    }
}

impl From<u64> for Extent {
    fn from(n: u64) -> Extent {
        Extent { bound: n, open: None }
    }
}

/// Lists of extents: shapes of numbers, and those of views.
pub trait Extents {
    /// The extents.
    fn extents(&self) -> Vec<Extent>;
}

impl Extents for [u64] {
    fn extents(&self) -> Vec<Extent> {
        self.iter().copied().map(Extent::from).collect()
    }
}

impl Extents for Vec<u64> {
    fn extents(&self) -> Vec<Extent> {
        self.as_slice().extents()
    }
}

impl<const N: usize> Extents for [u64; N] {
    fn extents(&self) -> Vec<Extent> {
        self.as_slice().extents()
    }
}

impl Extents for [Extent] {
    fn extents(&self) -> Vec<Extent> {
        self.to_vec()
    }
}

impl Extents for Vec<Extent> {
    fn extents(&self) -> Vec<Extent> {
        self.clone()
    }
}

impl Extents for View {
    fn extents(&self) -> Vec<Extent> {
        View::extents(self)
    }
}

/// A strided view of an operand: how a data movement becomes no movement. Strides and offset are in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Extents; where they are open, the largest ones, which the strides are made for.
    pub shape: Vec<u64>,
    /// For each dimension the extent as an expression, where it is open; empty when all extents are numbers.
    pub open: Vec<Option<Dim>>,
    /// Elements between neighbours along each dimension; may be 0 (broadcast) or negative.
    pub strides: Vec<i64>,
    /// Elements from the start of the buffer.
    pub offset: i64,
}

impl View {
    /// Row-major.
    pub fn contiguous(shape: &[u64]) -> View {
        let mut strides = vec![1i64; shape.len()];
        for d in (1..shape.len()).rev() {
            // Only a tensor without elements has extents whose product overflows: its strides lead nowhere.
            strides[d - 1] = strides[d].wrapping_mul(shape[d].max(1) as i64);
        }
        View { shape: shape.to_vec(), open: Vec::new(), strides, offset: 0 }
    }

    /// The extent of dimension `d` where it is open.
    pub fn open(&self, d: usize) -> Option<&Dim> {
        self.open.get(d).and_then(Option::as_ref)
    }

    /// True when all extents are numbers.
    pub fn is_fixed(&self) -> bool {
        self.open.iter().all(Option::is_none)
    }

    /// Extent of dimension `d`.
    pub fn extent(&self, d: usize) -> Extent {
        Extent { bound: self.shape[d], open: self.open(d).cloned() }
    }

    /// All extents.
    pub fn extents(&self) -> Vec<Extent> {
        (0..self.shape.len()).map(|d| self.extent(d)).collect()
    }

    /// Extents as a type has them.
    pub fn dims(&self) -> Vec<Dim> {
        (0..self.shape.len()).map(|d| self.open(d).cloned().unwrap_or(Dim::Const(self.shape[d]))).collect()
    }

    /// The same view with these extents open.
    #[must_use]
    pub fn with_open(mut self, open: Vec<Option<Dim>>) -> View {
        self.open = if open.iter().all(Option::is_none) { Vec::new() } else { open };
        self
    }

    /// True when elements lie row-major without gaps (extents of 1 do not matter).
    pub fn is_contiguous(&self) -> bool {
        let dense = View::contiguous(&self.shape);
        self.shape.iter().zip(&self.strides).zip(&dense.strides).all(|((n, a), b)| *n <= 1 || a == b)
    }
}

/// Expresses a result as a view of operand 0: from attributes, the operand's view, the result's extents and the constant operands.
pub type ViewFn = fn(&Attrs, &View, &[Extent], &[Option<Tensor>]) -> Option<View>;

/// Values of an integer result as dimensions.
pub type DimsFn = fn(&InferCx) -> Option<Vec<Dim>>;

/// How an operator becomes code.
#[derive(Clone, Copy)]
pub enum Lower {
    /// One scalar program per result element over operands broadcast together; fused into `map` and epilogues.
    Elementwise(fn(&Attrs, &[DType]) -> OpResult<ScalarProgram>),
    /// The result is a view of operand 0 if the function can express it for the operand's strides; otherwise a strided copy is made
    /// from what it answers for a contiguous operand (for which it must answer).
    View(ViewFn),
    /// A view where strides can express it for all sizes; else a loop nest, which takes extents as they come.
    ViewOrNest(ViewFn, fn(&mut LowerCx) -> OpResult<()>),
    /// A loop nest over extents that are numbers.
    Nest(fn(&mut LowerCx) -> OpResult<()>),
    /// A loop nest that takes extents as they come: numbers, or open ones from the views.
    OpenNest(fn(&mut LowerCx) -> OpResult<()>),
    /// Always expanded into other operators on import or by a pass; or control flow that the planner handles itself.
    None,
}

impl Lower {
    /// The view that the result is, where it can be one.
    pub fn view(&self) -> Option<ViewFn> {
        match self {
            Lower::View(view) | Lower::ViewOrNest(view, _) => Some(*view),
            _ => None,
        }
    }
}

/// How far compiled results may be from the interpreter's: `|a-b| <= abs + rel*|b|`, with the reason.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative part.
    pub rel: f64,
    /// Absolute part.
    pub abs: f64,
    /// Why it is not zero.
    pub why: &'static str,
}

impl Tolerance {
    /// Bit for bit (NaN payloads aside).
    pub const EXACT: Tolerance = Tolerance { rel: 0.0, abs: 0.0, why: "exact" };
    /// Sums in another order.
    pub const SUMS: Tolerance = Tolerance { rel: 1e-4, abs: 1e-5, why: "order of summation" };
    /// Polynomial approximations of a few ulp.
    pub const POLY: Tolerance = Tolerance { rel: 4e-6, abs: 1e-6, why: "polynomial approximation" };
}

/// A small valid application of an operator, for tests: attributes, operand types (or constants), number of results.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Attributes.
    pub attrs: Attrs,
    /// Operands.
    pub inputs: Vec<Option<SampleInput>>,
    /// Number of results.
    pub n_outputs: usize,
}

/// An operand of a [`Sample`].
#[derive(Clone, Debug)]
pub enum SampleInput {
    /// Passed at run time; the harness fills random values between the bounds.
    Data(TensorType, f64, f64),
    /// A graph constant.
    Const(Tensor),
}

/// The record of an operator.
pub struct OpDef {
    /// Mnemonic in text IR and rules, snake_case.
    pub name: &'static str,
    /// ONNX operators that `build` maps here.
    pub onnx: &'static [Import],
    /// Result types; called with symbolic extents too.
    pub infer: fn(&InferCx) -> OpResult<Vec<TensorType>>,
    /// Values of an integer result as dimensions, for operators that compute shapes. `None` where it cannot tell.
    pub infer_dims: Option<DimsFn>,
    /// Reference semantics: plain loops, never optimised.
    pub eval: fn(&EvalCx) -> OpResult<Vec<Tensor>>,
    /// Code.
    pub lower: Lower,
    /// Distance allowed between `eval` and compiled code.
    pub tolerance: Tolerance,
    /// Small valid cases covering dtypes, attributes, tails and edge shapes.
    pub samples: fn() -> Vec<Sample>,
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for OpDef {
    fn eq(&self, other: &OpDef) -> bool {
        self.name == other.name
    }
}

impl Eq for OpDef {}

/// All operators, for the crates that must not know them (parser, importer, e-graph).
#[derive(Clone, Copy, Debug)]
pub struct OpSet(pub &'static [&'static OpDef]);

impl OpSet {
    /// The operator called `name`.
    pub fn get(&self, name: &str) -> Option<&'static OpDef> {
        self.0.iter().copied().find(|op| op.name == name)
    }
}
