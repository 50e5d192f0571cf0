//! Control flow whose bodies are graphs.

mod if_;

pub(crate) use if_::IF;
