//! ONNX's operators on sequences and optionals. They make no code of their own: a sequence is a list of tensors when compiling.

mod list;
mod optional;

use std::rc::Rc;

use onnxc_ir::ValueId;
use onnxc_ir::list::{Item, List, ListCx, ListImport};
use onnxc_ir::op::{NEWEST, OpError, OpResult};

/// All of them, sorted by name.
pub static LISTS: &[ListImport] = &[
    ListImport { name: "ConcatFromSequence", opsets: (11, NEWEST), build: list::concat },
    ListImport { name: "Identity", opsets: (14, NEWEST), build: |cx| Ok(vec![cx.items().first().cloned().flatten()]) },
    ListImport { name: "Optional", opsets: (15, NEWEST), build: |cx| Ok(vec![cx.items().first().cloned().flatten()]) },
    ListImport { name: "OptionalGetElement", opsets: (15, NEWEST), build: optional::get },
    ListImport { name: "OptionalHasElement", opsets: (15, NEWEST), build: optional::has },
    ListImport { name: "SequenceAt", opsets: (11, NEWEST), build: list::at },
    ListImport { name: "SequenceConstruct", opsets: (11, NEWEST), build: list::construct },
    ListImport { name: "SequenceEmpty", opsets: (11, NEWEST), build: list::empty },
    ListImport { name: "SequenceErase", opsets: (11, NEWEST), build: list::erase },
    ListImport { name: "SequenceInsert", opsets: (11, NEWEST), build: list::insert },
    ListImport { name: "SequenceLength", opsets: (11, NEWEST), build: list::length },
    ListImport { name: "SequenceMap", opsets: (17, NEWEST), build: list::map },
    ListImport { name: "SplitToSequence", opsets: (11, NEWEST), build: list::split },
];

/// Operand `i`, which must be a tensor.
fn tensor(cx: &dyn ListCx, i: usize) -> OpResult<ValueId> {
    match cx.items().get(i) {
        Some(Some(Item::Tensor(id))) => Ok(*id),
        Some(Some(Item::List(_))) => Err(OpError::new(format!("input {i} is a sequence, a tensor is needed"))),
        _ => Err(OpError::new(format!("input {i} is missing"))),
    }
}

/// Operand `i`, which must be a sequence.
fn sequence(cx: &dyn ListCx, i: usize) -> OpResult<Rc<List>> {
    match cx.items().get(i) {
        Some(Some(Item::List(list))) => Ok(list.clone()),
        Some(Some(Item::Tensor(_))) => Err(OpError::new(format!("input {i} is a tensor, a sequence is needed"))),
        _ => Err(OpError::new(format!("input {i} is missing"))),
    }
}
