//! What operators do when a part of their channels is chosen: which channels of which operands the chosen ones come from.

use onnxc_ir::graph::Node;
use onnxc_ir::op::{Lower, OpDef};
use onnxc_ir::{Attr, Attrs, Graph, Tensor, TensorType, ValueId};

/// What becomes of an operand when some channels of the result are chosen.
#[derive(Clone, PartialEq, Debug)]
pub enum Part {
    /// It stays.
    Whole,
    /// The same channels of it, along this dimension.
    Chosen(usize),
    /// These integers take its place.
    Ints(Vec<i64>),
}

/// An operator with its operands, in whichever form of the graph.
pub struct Site<'a> {
    /// The operator.
    pub op: &'a OpDef,
    /// Its attributes.
    pub attrs: &'a Attrs,
    /// Types of its operands.
    pub inputs: Vec<Option<&'a TensorType>>,
    /// Operands that are constant.
    pub constants: Vec<Option<&'a Tensor>>,
    /// Type of its result.
    pub output: &'a TensorType,
}

impl<'a> Site<'a> {
    /// A node of a graph with its first result.
    pub fn of(graph: &'a Graph, node: &'a Node) -> Site<'a> {
        let ty = |id: &Option<ValueId>| id.map(|id| graph.ty(id));
        let constant = |id: &Option<ValueId>| id.and_then(|id| graph.constant(id));
        let (inputs, constants) = (node.inputs.iter().map(ty).collect(), node.inputs.iter().map(constant).collect());
        Site { op: node.op, attrs: &node.attrs, inputs, constants, output: graph.ty(node.outputs[0]) }
    }

    fn rank(&self, i: usize) -> Option<usize> {
        Some(self.inputs.get(i).copied().flatten()?.rank())
    }

    fn extent(&self, i: usize, axis: usize) -> Option<u64> {
        self.inputs.get(i).copied().flatten()?.shape.get(axis)?.as_const()
    }

    /// `first` for the first operand, nothing else changes.
    fn first(&self, first: Part) -> Vec<Part> {
        let others = (1..self.inputs.len()).map(|_| Part::Whole);
        std::iter::once(first).chain(others).collect()
    }

    /// What becomes of the operands, and the attributes of the operator, when `count` channels of dimension `axis` of the result are chosen; `None` where the
    /// choice cannot be made before the operator.
    pub fn chosen(&self, axis: usize, count: u64) -> Option<(Vec<Part>, Attrs)> {
        let same = |parts: Vec<Part>| Some((parts, self.attrs.clone()));
        match self.op.name {
            _ if matches!(self.op.lower, Lower::Elementwise(_)) => same(self.broadcast(axis)?),
            "conv" if axis == 1 && self.inputs.len() <= 3 && self.attrs.get("epilogue").is_none() => self.conv(count),
            "max_pool" | "average_pool" | "lp_pool" if axis < 2 => same(self.first(Part::Chosen(axis))),
            "reduce_mean" | "reduce_sum" | "reduce_max" | "reduce_min" => same(self.first(Part::Chosen(self.reduced(axis)?))),
            "transpose" => {
                let from = *self.attrs.ints("perm")?.get(axis)?;
                same(self.first(Part::Chosen(usize::try_from(from).ok()?)))
            }
            "reshape" => {
                let mut shape: Vec<i64> = self.output.const_shape()?.iter().map(|n| *n as i64).collect();
                shape[axis] = count as i64;
                let attrs = Attrs::default().with("allowzero", Attr::Int(1));
                Some((vec![Part::Chosen(self.unreshaped(axis)?), Part::Ints(shape)], attrs))
            }
            "flatten" | "squeeze" | "unsqueeze" => same(self.first(Part::Chosen(self.unreshaped(axis)?))),
            "quantize_linear" | "dequantize_linear" => self.quantized(axis).and_then(same),
            "matmul" if self.rank(1) == Some(2) && axis + 1 == self.output.rank() => same(vec![Part::Whole, Part::Chosen(1)]),
            "gemm" if axis == 1 => {
                let of_weights = if self.attrs.int("transB").unwrap_or(0) != 0 { 0 } else { 1 };
                let parts = [Part::Whole, Part::Chosen(of_weights), self.spread(2, axis)?];
                same(parts.into_iter().take(self.inputs.len()).collect())
            }
            _ => None,
        }
    }

    /// An operand that broadcasts to the result; `None` where it is not known whether it does along this dimension.
    fn spread(&self, i: usize, axis: usize) -> Option<Part> {
        let own = self.rank(i).and_then(|rank| (axis + rank).checked_sub(self.output.rank()));
        let Some(own) = own else { return Some(Part::Whole) };
        match (self.extent(i, own)?, self.output.shape[axis].as_const()?) {
            (own_extent, all) if own_extent == all => Some(Part::Chosen(own)),
            (1, _) => Some(Part::Whole),
            _ => None,
        }
    }

    fn broadcast(&self, axis: usize) -> Option<Vec<Part>> {
        (0..self.inputs.len()).map(|i| self.spread(i, axis)).collect()
    }

    fn conv(&self, count: u64) -> Option<(Vec<Part>, Attrs)> {
        let groups = self.attrs.int("group").unwrap_or(1);
        let (x, attrs) = match groups {
            1 => (Part::Whole, self.attrs.clone()),
            // Depthwise: each channel has its own filter.
            n if n as u64 == self.extent(0, 1)? && n as u64 == self.extent(1, 0)? => {
                (Part::Chosen(1), self.attrs.clone().with("group", Attr::Int(count as i64)))
            }
            _ => return None,
        };
        Some(([x, Part::Chosen(0), Part::Chosen(0)].into_iter().take(self.inputs.len()).collect(), attrs))
    }

    /// Which dimension of what is reduced is this one of the result.
    fn reduced(&self, axis: usize) -> Option<usize> {
        let rank = self.rank(0)?;
        let axes = match self.inputs.get(1).copied().flatten() {
            Some(_) => self.constants[1]?.to_i64s()?,
            None => return None,
        };
        let gone = |d: usize| axes.iter().any(|a| *a == d as i64 || *a + rank as i64 == d as i64);
        if axes.is_empty() || (0..rank).all(gone) {
            return None;
        }
        let kept = |d: &usize| self.attrs.int("keepdims").unwrap_or(1) != 0 || !gone(*d);
        (0..rank).filter(kept).nth(axis).filter(|d| !gone(*d))
    }

    /// Which dimension of what is reshaped is this one of the result: elements of a channel stay together, in their order.
    fn unreshaped(&self, axis: usize) -> Option<usize> {
        let (from, to) = (self.inputs[0]?.const_shape()?, self.output.const_shape()?);
        let before = |shape: &[u64], axis: usize| shape[..axis].iter().product::<u64>();
        (0..from.len()).find(|d| from[*d] == to[axis] && before(&from, *d) == before(&to, axis))
    }

    /// Scales and zero points are one, or one for each channel of a dimension.
    fn quantized(&self, axis: usize) -> Option<Vec<Part>> {
        let along = self.attrs.int("axis").unwrap_or(1);
        let own = if along < 0 { along + self.output.rank() as i64 } else { along };
        let param = |i: usize| match self.rank(i) {
            Some(1) if self.extent(i, 0) != Some(1) => (own == axis as i64).then_some(Part::Chosen(0)).or(Some(Part::Whole)),
            None | Some(0 | 1) => Some(Part::Whole),
            Some(_) => None,
        };
        std::iter::once(Some(Part::Chosen(axis))).chain((1..self.inputs.len()).map(param)).collect()
    }
}
