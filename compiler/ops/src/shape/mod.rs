//! Operators about shapes, and those that make tensors from nothing. Known extents make all of them constants when compiling.

mod constant;
mod extents;
mod range;
mod sizes;

pub(crate) use constant::{CONSTANT_OF_SHAPE, EYE_LIKE};
pub(crate) use extents::{SHAPE, SIZE};
pub(crate) use range::RANGE;
pub(crate) use sizes::SIZES;
