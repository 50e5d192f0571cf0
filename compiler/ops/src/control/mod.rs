//! Control flow whose bodies are graphs.

mod if_;
mod require;

pub(crate) use if_::IF;
pub(crate) use require::REQUIRE;
