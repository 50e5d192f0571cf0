//! What a name of an ONNX graph can stand for besides a tensor: a sequence, or an optional. The graph has neither: they resolve while a model is
//! imported, a sequence to the tensors that it holds and an optional to what it holds or to nothing.

use std::rc::Rc;

use crate::dtype::DType;
use crate::graph::ValueId;
use crate::op::{ImportCx, OpError, OpResult};

/// A sequence of tensors, its length known.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// Element type of all its tensors.
    pub dtype: DType,
    /// The tensors. `None` where the extents of one are known at run time only: such a list can be counted, but not read.
    pub elements: Vec<Option<ValueId>>,
}

impl List {
    /// Element `i`, which must have extents.
    pub fn element(&self, i: usize) -> OpResult<ValueId> {
        self.elements[i].ok_or_else(|| {
            OpError::new(format!("element {i} of the sequence has extents that would depend on data"))
                .help("make the operand that splits the tensor a constant; --const does so for an input of the model")
        })
    }

    /// All elements.
    pub fn all(&self) -> OpResult<Vec<ValueId>> {
        (0..self.elements.len()).map(|i| self.element(i)).collect()
    }
}

/// What a name stands for; an optional without a value is `None` of an `Option<Item>`.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A value of the graph.
    Tensor(ValueId),
    /// Several.
    List(Rc<List>),
}

/// How an ONNX operator on sequences or optionals is resolved. Its operands may be tensors too; where an operator has an
/// [`Import`](crate::op::Import) as well, that one is asked when all operands are tensors.
pub struct ListImport {
    /// ONNX operator type in ai.onnx.
    pub name: &'static str,
    /// First and last version of the operator set.
    pub opsets: (i64, i64),
    /// Gives one item per ONNX output.
    pub build: fn(&mut dyn ListCx) -> OpResult<Vec<Option<Item>>>,
}

/// What a [`ListImport`] sees. `inputs()` gives the operands that are tensors.
pub trait ListCx: ImportCx {
    /// Operands; `None` for absent ones and empty optionals.
    fn items(&self) -> &[Option<Item>];
    /// Fails where a list of so many elements would be too long.
    fn fits(&self, length: u64) -> OpResult<()>;
    /// A new list, if it fits.
    fn list(&mut self, dtype: DType, elements: Vec<Option<ValueId>>) -> OpResult<Item>;
    /// Like [`ImportCx::body`], for any operands and results.
    fn body_items(&mut self, name: &str, inputs: &[Option<Item>]) -> OpResult<Vec<Option<Item>>>;
}
