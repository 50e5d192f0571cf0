//! Operators about shapes, and those that make tensors from nothing. Known extents make all of them constants when compiling.

mod constant;
mod range;
mod shape;

pub(crate) use constant::{CONSTANT_OF_SHAPE, EYE_LIKE};
pub(crate) use range::RANGE;
pub(crate) use shape::{SHAPE, SIZE};
