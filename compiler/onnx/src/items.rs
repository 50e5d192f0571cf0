//! Operands and results that need not be tensors: how lists of tensors pass between nodes, bodies, functions and the graphs around them.

use std::rc::Rc;

use onnxc_ir::list::{Item, List};
use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{DType, Graph, ValueId};

use crate::import::Importer;
use crate::node::{Fault, coded};
use crate::scope::Binding;

/// What a result consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A tensor.
    Tensor,
    /// A sequence.
    List(DType, usize),
    /// An empty optional.
    Empty,
}

impl Form {
    /// The form of an item.
    pub fn of(item: &Option<Item>) -> Form {
        match item {
            Some(Item::Tensor(_)) => Form::Tensor,
            Some(Item::List(list)) => Form::List(list.dtype, list.elements.len()),
            None => Form::Empty,
        }
    }

    /// How many tensors it is.
    pub fn tensors(self) -> usize {
        match self {
            Form::Tensor => 1,
            Form::List(_, n) => n,
            Form::Empty => 0,
        }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Form::Tensor => f.write_str("a tensor"),
            Form::List(dtype, n) => write!(f, "a sequence of length {n} of {dtype} tensors"),
            Form::Empty => f.write_str("an empty optional"),
        }
    }
}

/// An item as messages show it.
pub fn shown(item: &Item, graph: &Graph) -> String {
    match item {
        Item::Tensor(id) => match graph.ty(*id) {
            ty if ty.dtype == DType::Str => format!("string {ty}"),
            ty => ty.to_string(),
        },
        Item::List(list) => format!("sequence of length {} of {}", list.elements.len(), list.dtype),
    }
}

/// Tensors as items.
pub fn items(ids: Vec<ValueId>) -> Vec<Option<Item>> {
    ids.into_iter().map(|id| Some(Item::Tensor(id))).collect()
}

/// Operands of an operator that takes tensors.
pub fn tensors(inputs: &[Option<Item>]) -> Result<Vec<Option<ValueId>>, Fault> {
    let tensor = |(i, item): (usize, &Option<Item>)| match item {
        None => Ok(None),
        Some(Item::Tensor(id)) => Ok(Some(*id)),
        Some(Item::List(_)) => {
            let error = OpError::new(format!("input {i} is a sequence, the operator takes tensors"));
            let error = error.help("take a tensor out of it with SequenceAt, or join all of them with ConcatFromSequence");
            Err(Fault { code: "import::operands", error })
        }
    };
    inputs.iter().enumerate().map(tensor).collect()
}

/// All tensors of some items, one after the other.
pub fn flatten(items: &[Option<Item>]) -> OpResult<Vec<ValueId>> {
    let mut all = Vec::new();
    for item in items.iter().flatten() {
        match item {
            Item::Tensor(id) => all.push(*id),
            Item::List(list) => all.extend(list.all()?),
        }
    }
    Ok(all)
}

/// Tensors put together again. There must be as many as the forms take.
pub fn regroup(forms: &[Form], ids: &[ValueId]) -> Vec<Option<Item>> {
    let mut rest = ids;
    let mut take = |form: &Form| {
        let (mine, others) = rest.split_at(form.tensors());
        rest = others;
        match form {
            Form::Tensor => Some(Item::Tensor(mine[0])),
            Form::List(dtype, _) => {
                Some(Item::List(Rc::new(List { dtype: *dtype, elements: mine.iter().copied().map(Some).collect() })))
            }
            Form::Empty => None,
        }
    };
    forms.iter().map(&mut take).collect()
}

/// What a name stands for from now on.
pub fn binding<'m>(item: Option<Item>) -> Binding<'m> {
    match item {
        Some(Item::Tensor(id)) => Binding::Value(id),
        Some(Item::List(list)) => Binding::List(list),
        None => Binding::Absent,
    }
}

impl Importer<'_> {
    /// The item that a name stands for. The outer `None`: it could not be built.
    pub fn item(&mut self, name: &str) -> Option<Option<Item>> {
        match self.lookup(name) {
            Some(Binding::Value(id)) => Some(Some(Item::Tensor(id))),
            Some(Binding::List(list)) => Some(Some(Item::List(list))),
            Some(Binding::Absent) => Some(None),
            _ => None,
        }
    }

    /// May a list have this length? All lists together are limited too: each is a copy.
    pub fn fits(&self, length: u64) -> OpResult<()> {
        let limit = self.options.limits.sequence as u64;
        if length > limit {
            return Err(OpError::new(format!("a sequence of {length} elements is too long: the limit is {limit}"))
                .help("raise it with --limit sequence=N"));
        }
        if length > self.list_elements_left as u64 {
            let all = self.options.limits.sequence_total;
            return Err(OpError::new(format!("all sequences together have more than {all} elements, which is the limit")));
        }
        Ok(())
    }

    /// A new list, if it fits.
    pub fn list(&mut self, dtype: DType, elements: Vec<Option<ValueId>>) -> OpResult<Item> {
        self.fits(elements.len() as u64)?;
        self.list_elements_left -= elements.len();
        Ok(Item::List(Rc::new(List { dtype, elements })))
    }

    /// Pays for building a body once more. What a message has in it, bytes bound: nodes, initialisers, names; and no body is free.
    pub fn again(&mut self, body: &onnx_protobuf::GraphProto) -> Result<(), Fault> {
        const SCOPE: u64 = 1024;
        let bytes = SCOPE + onnx_protobuf::Message::compute_size(body);
        let left = self.unroll_left.checked_sub(bytes);
        let left = left.ok_or_else(|| {
            let limit = self.options.limits.unroll_bytes;
            OpError::new(format!("the body is too large to be repeated so often: the limit is {limit} bytes in all"))
                .help("raise it with --limit unroll-bytes=N")
        });
        self.unroll_left = left.map_err(coded("import::limit"))?;
        Ok(())
    }
}
