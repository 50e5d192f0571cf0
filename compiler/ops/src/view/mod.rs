//! Operators that only look at their operand in another way: `Lower::View`.

mod expand;
mod identity;
mod reshape;
mod slice;
mod split;
mod transpose;

pub(crate) use expand::EXPAND;
pub(crate) use identity::IDENTITY;
pub(crate) use reshape::{FLATTEN, RESHAPE, SQUEEZE, UNSQUEEZE};
pub(crate) use slice::SLICE;
pub(crate) use split::SPLIT;
pub(crate) use transpose::TRANSPOSE;
