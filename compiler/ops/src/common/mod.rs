//! What many operators share: broadcasting, axes, constant operands, element access, import of old attribute forms, loop and row helpers, samples.

mod ahead;
pub(crate) mod axes;
mod blocks;
pub(crate) mod broadcast;
pub(crate) mod coded;
pub(crate) mod convolution;
pub(crate) mod depthwise;
pub(crate) mod elements;
pub(crate) mod epilogue;
pub(crate) mod float;
pub(crate) mod forest;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod nest;
pub(crate) mod open;
pub(crate) mod panels;
pub(crate) mod rows;
pub(crate) mod sample;
pub(crate) mod small_float;
pub(crate) mod strassen;
pub(crate) mod thin;
pub(crate) mod tile;
pub(crate) mod views;
pub(crate) mod window;
