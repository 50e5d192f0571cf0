//! The graph: SSA values of typed tensors, nodes in topological order.

use std::collections::BTreeMap;
use std::fmt;

use crate::dim::{Dim, DimBounds};
use crate::dtype::DType;
use crate::op::OpDef;
use crate::scalar::ScalarProgram;
use crate::tensor::Tensor;

/// Element type and extents of a tensor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type with these extents.
    pub fn new(dtype: DType, shape: Vec<Dim>) -> TensorType {
        TensorType { dtype, shape }
    }

    /// A type with constant extents.
    pub fn fixed(dtype: DType, shape: &[u64]) -> TensorType {
        TensorType { dtype, shape: shape.iter().map(|d| Dim::Const(*d)).collect() }
    }

    /// The extents if all of them are known.
    pub fn const_shape(&self) -> Option<Vec<u64>> {
        self.shape.iter().map(Dim::as_const).collect()
    }

    /// Bytes of a tensor whose unknown extents and extents of zero are one; none when their number overflows. No extent is larger.
    pub fn least_bytes(&self) -> Option<u64> {
        let known = self.shape.iter().filter_map(Dim::as_const);
        known.map(|n| n.max(1)).try_fold(1u64, u64::checked_mul).and_then(|n| self.dtype.bytes_for(n))
    }

    /// The largest extents within bounds, if there are any.
    pub fn bound_shape(&self, bounds: &DimBounds) -> Option<Vec<u64>> {
        let largest = |d: &Dim| Some(d.range(bounds).1).filter(|n| *n < u64::MAX);
        self.shape.iter().map(largest).collect()
    }

    /// The extents that are no numbers, by dimension.
    pub fn open(&self) -> Vec<Option<Dim>> {
        self.shape.iter().map(|d| d.as_const().is_none().then(|| d.clone())).collect()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(|d| d.to_string()).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(","))
    }
}

/// Names a value of its graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ValueId(pub u32);

/// An attribute of a node.
#[derive(Clone, PartialEq, Debug)]
pub enum Attr {
    /// Integer.
    Int(i64),
    /// Float (kept as f32, as ONNX does).
    Float(f32),
    /// Text.
    Str(String),
    /// List of integers.
    Ints(Vec<i64>),
    /// List of sizes.
    Dims(Vec<Dim>),
    /// List of floats.
    Floats(Vec<f32>),
    /// List of texts.
    Strs(Vec<String>),
    /// An element type.
    Type(DType),
    /// A constant.
    Tensor(Tensor),
    /// A body (of `if`, `loop`, `scan`). Outer values come in as parameters: the node's inputs after its own.
    Graph(Box<Graph>),
    /// A scalar program (of `map` and epilogues).
    Program(ScalarProgram),
}

/// Attributes by name, in the order of the names.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Attrs(pub BTreeMap<String, Attr>);

impl Attrs {
    /// Builder style: the same attributes and one more.
    #[must_use]
    pub fn with(mut self, name: &str, attr: Attr) -> Attrs {
        self.0.insert(name.to_string(), attr);
        self
    }

    /// The attribute, whatever its kind.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.get(name)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(Attr::Int(i)) => Some(*i),
            _ => None,
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.get(name) {
            Some(Attr::Float(x)) => Some(*x),
            _ => None,
        }
    }

    /// A text attribute.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Attr::Str(s)) => Some(s),
            _ => None,
        }
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.get(name) {
            Some(Attr::Ints(v)) => Some(v),
            _ => None,
        }
    }

    /// A list of floats.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        match self.get(name) {
            Some(Attr::Floats(v)) => Some(v),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn strs(&self, name: &str) -> Option<&[String]> {
        match self.get(name) {
            Some(Attr::Strs(v)) => Some(v),
            _ => None,
        }
    }

    /// A list of dimensions.
    pub fn dims(&self, name: &str) -> Option<&[Dim]> {
        match self.get(name) {
            Some(Attr::Dims(v)) => Some(v),
            _ => None,
        }
    }

    /// An element type.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        match self.get(name) {
            Some(Attr::Type(t)) => Some(*t),
            _ => None,
        }
    }

    /// A constant.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.get(name) {
            Some(Attr::Tensor(t)) => Some(t),
            _ => None,
        }
    }

    /// A body.
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        match self.get(name) {
            Some(Attr::Graph(g)) => Some(g),
            _ => None,
        }
    }

    /// A scalar program.
    pub fn program(&self, name: &str) -> Option<&ScalarProgram> {
        match self.get(name) {
            Some(Attr::Program(p)) => Some(p),
            _ => None,
        }
    }
}

/// A value: a graph input, a constant, or an output of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique within the graph; from the model where possible.
    pub name: String,
    /// Type.
    pub ty: TensorType,
    /// The constant, if it is one.
    pub constant: Option<Tensor>,
}

/// An application of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator.
    pub op: &'static OpDef,
    /// Operands; `None` is an optional operand that is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// Results, at least one.
    pub outputs: Vec<ValueId>,
    /// Attributes.
    pub attrs: Attrs,
    /// Names of the ONNX nodes that this node does the work of.
    pub origins: Vec<String>,
}

/// A graph. `nodes` are in topological order: every operand is an input, a constant or an earlier result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    /// Values, indexed by [`ValueId`].
    pub values: Vec<Value>,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// Graph inputs.
    pub inputs: Vec<ValueId>,
    /// Graph outputs; may name inputs, constants and the same value twice.
    pub outputs: Vec<ValueId>,
    /// Smallest and largest values of open dimensions, where they are stated; bodies of nodes have those of the graph around them.
    pub bounds: DimBounds,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.to_string(), ..Graph::default() }
    }

    /// States bounds of open dimensions beside those that are stated already, and what follows from them for all types.
    pub fn set_bounds(&mut self, mut bounds: DimBounds) {
        bounds.extend(std::mem::take(&mut self.bounds));
        for value in &mut self.values {
            value.ty.shape.iter_mut().for_each(|d| *d = d.within(&bounds));
        }
        for attr in self.nodes.iter_mut().flat_map(|n| n.attrs.0.values_mut()) {
            match attr {
                Attr::Graph(body) => body.set_bounds(bounds.clone()),
                Attr::Dims(dims) => dims.iter_mut().for_each(|d| *d = d.within(&bounds)),
                _ => {}
            }
        }
        self.bounds = bounds;
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The type of value `id`.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.value(id).ty
    }

    /// The constant that `id` is, if it is one.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id).constant.as_ref()
    }

    /// Adds a value; a name that is taken gets a suffix.
    pub fn add_value(&mut self, name: &str, ty: TensorType, constant: Option<Tensor>) -> ValueId {
        self.values.push(Value { name: name.to_string(), ty, constant });
        ValueId((self.values.len() - 1) as u32)
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let id = self.add_value(name, ty, None);
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let ty = TensorType::fixed(tensor.dtype(), tensor.shape());
        self.add_value(name, ty, Some(tensor))
    }

    /// Gives every value a name that no other has, keeping the first holder's; names only depend on the graph.
    pub fn make_names_unique(&mut self) {
        let mut taken = std::collections::BTreeSet::new();
        for value in &mut self.values {
            let base = if value.name.is_empty() { "v".to_string() } else { value.name.clone() };
            let mut name = base.clone();
            let mut n = 1;
            while !taken.insert(name.clone()) {
                name = format!("{base}.{n}");
                n += 1;
            }
            value.name = name;
        }
    }

    /// Users of every value: (node index, operand index), in node order; graph outputs are not counted.
    pub fn uses(&self) -> Vec<Vec<(usize, usize)>> {
        let mut uses = vec![Vec::new(); self.values.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            for (i, input) in node.inputs.iter().enumerate() {
                if let Some(id) = input {
                    uses[id.0 as usize].push((n, i));
                }
            }
        }
        uses
    }
}
