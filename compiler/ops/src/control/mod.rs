//! Control flow whose bodies are graphs.

mod if_;
mod loop_;
mod require;

pub(crate) use if_::IF;
pub(crate) use loop_::LOOP;
pub(crate) use require::REQUIRE;
