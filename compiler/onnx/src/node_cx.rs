//! One ONNX node as its operator's import function sees it.

use std::collections::BTreeMap;

use onnx_protobuf::GraphProto;
use onnxc_ir::list::{Item, ListCx};
use onnxc_ir::op::{ImportCx, OpError, OpResult};
use onnxc_ir::{Attrs, DType, Dim, Graph, Tensor, ValueId};

use crate::builder::Builder;
use crate::import::Importer;
use crate::items::{items, tensors};
use crate::node::Fault;

/// The node and the graph so far.
pub struct NodeCx<'b, 'm> {
    /// The import.
    pub importer: &'b mut Importer<'m>,
    /// Name of the ONNX node.
    pub origin: String,
    /// Version of the operator set.
    pub opset: i64,
    /// Attributes that are no graphs.
    pub attrs: Attrs,
    /// Attributes that are.
    pub bodies: BTreeMap<&'m str, &'m GraphProto>,
    /// Operands that are tensors.
    pub inputs: Vec<Option<ValueId>>,
    /// All operands.
    pub items: Vec<Option<Item>>,
    /// Results that the node names.
    pub n_outputs: usize,
    /// Their names.
    pub outputs: Vec<&'m str>,
    /// The shapes that the model declares for them.
    pub declared: Vec<Option<Vec<u64>>>,
    /// Whether something in a body failed, which has been reported.
    pub reported: bool,
}

impl<'m> NodeCx<'_, 'm> {
    fn builder(&self) -> &Builder<'m> {
        let scope = self.importer.scopes.last().expect("internal: a scope is open");
        &self.importer.frames[scope.frame].builder
    }
}

impl NodeCx<'_, '_> {
    /// Builds a body.
    fn built(&mut self, name: &str, inputs: &[Option<Item>]) -> OpResult<Vec<Option<Item>>> {
        let proto = self.bodies.get(name).copied().ok_or_else(|| OpError::new(format!("attribute {name} is missing")))?;
        match self.importer.inline(proto, inputs) {
            Ok(Some(results)) => Ok(results),
            Ok(None) => {
                self.reported = true;
                Err(OpError::new(format!("{name} cannot be built")))
            }
            Err(fault) => Err(inside(name, fault)),
        }
    }
}

impl ImportCx for NodeCx<'_, '_> {
    fn opset(&self) -> i64 {
        self.opset
    }

    fn attrs(&self) -> &Attrs {
        &self.attrs
    }

    fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    fn declared(&self, i: usize) -> Option<&[u64]> {
        self.declared.get(i)?.as_deref()
    }

    fn bound(&self, i: usize) -> Option<&[u64]> {
        self.importer.options.bounds.get(*self.outputs.get(i)?).map(Vec::as_slice)
    }

    fn largest(&self, extent: &Dim) -> Option<u64> {
        self.importer.largest(extent)
    }

    fn counted(&mut self, i: usize, axis: usize, bound: u64) -> OpResult<String> {
        let output = self.outputs.get(i).copied().unwrap_or_default();
        Ok(self.importer.counted(output, axis, Some(bound)))
    }

    fn graph(&self) -> &Graph {
        &self.builder().graph
    }

    fn node(&mut self, op: &str, inputs: &[Option<ValueId>], attrs: Attrs) -> OpResult<Vec<ValueId>> {
        let missing = || OpError::new(format!("internal: onnxc has no operator {op:?}"));
        let def = self.builder().ops.get(op).ok_or_else(missing)?;
        self.importer.builder().add(def, inputs, attrs, self.n_outputs.max(1), &self.origin)
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.importer.add_const(&self.origin, tensor)
    }

    fn has_body(&self, name: &str) -> bool {
        self.bodies.contains_key(name)
    }

    fn body(&mut self, name: &str, inputs: &[ValueId]) -> OpResult<Vec<ValueId>> {
        let results = self.built(name, &items(inputs.to_vec()))?;
        let missing = || OpError::new(format!("{name}: an output is an empty optional"));
        let results = tensors(&results).map_err(|fault| inside(name, fault))?;
        results.into_iter().collect::<Option<_>>().ok_or_else(missing)
    }
}

impl ListCx for NodeCx<'_, '_> {
    fn items(&self) -> &[Option<Item>] {
        &self.items
    }

    fn fits(&self, length: u64) -> OpResult<()> {
        self.importer.fits(length)
    }

    fn list(&mut self, dtype: DType, elements: Vec<Option<ValueId>>) -> OpResult<Item> {
        self.importer.list(dtype, elements)
    }

    fn body_items(&mut self, name: &str, inputs: &[Option<Item>]) -> OpResult<Vec<Option<Item>>> {
        if let Some(body) = self.bodies.get(name) {
            self.importer.again(body).map_err(|fault| fault.error)?;
        }
        self.built(name, inputs)
    }
}

/// An error of a body as one of the node.
fn inside(name: &str, fault: Fault) -> OpError {
    OpError { reason: format!("{name}: {}", fault.error.reason), ..fault.error }
}
