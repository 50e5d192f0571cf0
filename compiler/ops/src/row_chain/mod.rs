//! `row_chain`: convolutions one behind the other, each result needed by the next one only, computed some rows at a time.
//!
//! Operands: those of the attribute `body`, a graph whose first input is the image, the operand 0 of its first node; each further node has the result of
//! the one before it as operand 0 and inputs of the body as the others. The result is that of the last node. It means what the body means.
//!
//! Lowering: of the values in between only the rows exist that the next step needs, in scratch memory of a worker that stays in the second-level cache
//! (Alwani, Chen, Ferdman and Milder, "Fused-Layer CNN Accelerators", 2016). Every node's own lowering computes its rows.

mod lower;
mod rows;
mod samples;

use onnxc_ir::graph::Node;
use onnxc_ir::op::{EvalCx, InferCx, Lower, OpDef, OpError, OpResult, Tolerance};
use onnxc_ir::{Attrs, DType, Graph, Tensor, TensorType, ValueId, interp};

use crate::conv::Geometry;
pub use rows::{Rows, Window};

/// The record.
pub static ROW_CHAIN: OpDef = OpDef {
    name: "row_chain",
    onnx: &[],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::Nest(lower::lower),
    tolerance: Tolerance::SUMS,
    samples: samples::samples,
};

/// The attribute.
pub const BODY: &str = "body";

/// Operators that can be links: the number of the operand that is the weights, of the one that is the zero point of the image, and of the first one that
/// belongs to the epilogue.
const LINKS: &[(&str, usize, Option<usize>, usize)] =
    &[("conv", 1, None, 3), ("conv_integer", 1, Some(2), 4), ("qlinear_conv", 3, Some(2), 9)];

/// What is known of a node that can be a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its window over rows.
    pub window: Window,
    /// Columns of padding before the first and behind the last column.
    pub columns: (u64, u64),
    /// The weights.
    pub weights: ValueId,
    /// The zero point of the image, where it has one.
    pub zero: Option<ValueId>,
    /// The number of the first operand that belongs to the epilogue.
    pub own: usize,
}

/// A node of a graph as a link, if it can be one: a convolution of images whose size is known, by weights of known size.
pub fn link(graph: &Graph, node: &Node) -> Option<Link> {
    let (_, w, zero, own) = *LINKS.iter().find(|l| l.0 == node.op.name)?;
    let operand = |i: usize| node.inputs.get(i).copied().flatten();
    let (x, w, y) = (operand(0)?, operand(w)?, *node.outputs.first()?);
    let shape = |id: ValueId| graph.ty(id).const_shape().filter(|s| s.len() == 4 && !s.contains(&0));
    let (_, w_shape, _) = (shape(x)?, shape(w)?, shape(y)?);
    let explicit = node.attrs.str("auto_pad").is_none_or(|mode| matches!(mode, "" | "NOTSET"));
    let g = Geometry::of(&node.attrs, 2);
    if !explicit || g.pads.iter().any(|p| *p < 0) || node.attrs.str(crate::winograd::ATTR).is_some() {
        return None;
    }
    let window = Window { span: (w_shape[2] as i64 - 1) * g.dilations[0] + 1, step: g.strides[0], before: g.pads[0] };
    let zero = zero.and_then(operand);
    let columns = (g.pads[1] as u64, g.pads[3] as u64);
    // Between windows with rows in between there would be rows that nobody needs.
    (window.step <= window.span).then_some(Link { window, columns, weights: w, zero, own })
}

/// A body as a chain.
pub(crate) struct Chain<'g> {
    pub body: &'g Graph,
    pub links: Vec<Link>,
    pub rows: Rows,
}

impl Chain<'_> {
    /// The chain of a node's attributes, if its body is one.
    pub fn of(attrs: &Attrs) -> OpResult<Chain<'_>> {
        let body = attrs.graph(BODY).ok_or_else(|| OpError::new("the body is missing"))?;
        let broken = || OpError::new("the body is no chain of convolutions with an input as their image");
        let links: Vec<Link> = body.nodes.iter().map(|n| link(body, n)).collect::<Option<_>>().ok_or_else(broken)?;
        let mut image = body.inputs.first().copied();
        for node in &body.nodes {
            let others = || node.inputs.iter().skip(1).flatten();
            if node.inputs[0] != image || others().any(|id| !body.inputs.contains(id)) {
                return Err(broken());
            }
            image = node.outputs.first().copied();
        }
        if links.is_empty() || body.outputs.len() != 1 || body.outputs.first().copied() != image {
            return Err(broken());
        }
        let values = body.inputs.first().into_iter().chain(body.nodes.iter().map(|n| &n.outputs[0]));
        let height = |id: &ValueId| body.ty(*id).shape[2].as_const().map(|n| n as i64);
        let heights = values.map(height).collect::<Option<_>>().ok_or_else(broken)?;
        let rows = Rows { windows: links.iter().map(|l| l.window).collect(), heights };
        Ok(Chain { body, links, rows })
    }

    /// Bytes of the weights of all links.
    pub fn weight_bytes(&self) -> u64 {
        self.links.iter().filter_map(|l| self.body.ty(l.weights).least_bytes()).sum()
    }

    /// Value `j` of the chain, the operand first.
    pub fn value(&self, j: usize) -> ValueId {
        if j == 0 { self.body.inputs[0] } else { self.body.nodes[j - 1].outputs[0] }
    }
}

/// Bytes of a row of an image, channels last, with so many columns around it.
pub fn row_bytes(dtype: DType, shape: &[u64], columns: (u64, u64)) -> u64 {
    pixel(dtype, shape[1]) * (shape[3] + columns.0 + columns.1) * dtype.bytes()
}

/// Bytes after which first-level caches map addresses to the same sets again, or a large part of it.
const CACHE_PERIOD: u64 = 2048;

/// Elements from one pixel to the next, of so many channels: a cache line more where that keeps them out of the same cache sets.
fn pixel(dtype: DType, channels: u64) -> u64 {
    let aliased = (channels * dtype.bytes()).is_multiple_of(CACHE_PERIOD);
    channels + if aliased { 64 / dtype.bytes() } else { 0 }
}

/// Bytes that rows between links may take, beside weights of so many bytes: what stays in a second-level cache through which images come and go.
pub fn room(l2_bytes: u64, weights: u64) -> u64 {
    (l2_bytes / 4 * 3).saturating_sub(weights)
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let chain = Chain::of(cx.attrs)?;
    let formal = &chain.body.inputs;
    if formal.len() != cx.inputs.len() {
        return Err(OpError::new(format!("the body takes {} operands, there are {}", formal.len(), cx.inputs.len())));
    }
    for (i, id) in formal.iter().enumerate() {
        let (want, got) = (chain.body.ty(*id), cx.input(i)?);
        if want != got {
            return Err(OpError::new(format!("operand {i} is {got}, the body takes {want}")));
        }
    }
    Ok(vec![chain.body.ty(chain.body.outputs[0]).clone()])
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let chain = Chain::of(cx.attrs)?;
    let operands: Vec<Tensor> = cx.inputs.iter().flatten().map(|t| (*t).clone()).collect();
    interp::run(chain.body, &operands).map_err(|e| OpError::new(e.to_string()))
}
