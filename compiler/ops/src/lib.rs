//! Every operator of onnxc, one file each

use onnxc_ir::op::OpDef;

/// Every operator.
pub static ALL: &[&OpDef] = &[];
