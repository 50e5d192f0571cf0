//! What can go wrong between a plan and machine code.

/// Errors of code generation. A verified plan compiles: apart from [`Error::Unsupported`], these are faults of the compiler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The step uses something that this version cannot generate code for.
    #[error("{what} (in step {step:?})")]
    Unsupported {
        /// What is not supported.
        what: String,
        /// Function of the step.
        step: String,
    },
    /// Cranelift refused a function.
    #[error("internal: code generation of {name}: {reason}")]
    Backend {
        /// The function.
        name: String,
        /// Cranelift's words.
        reason: String,
    },
    /// The plan contradicts itself.
    #[error("internal: plan: {0}")]
    Plan(String),
    /// The object file could not be written.
    #[error("internal: object file: {0}")]
    Object(String),
    /// The compiled model answered with a status, or was called with wrong buffers.
    #[error("{0}")]
    Run(String),
}

impl Error {
    /// An unsupported construct; the step is filled in by the caller.
    pub(crate) fn unsupported(what: impl Into<String>) -> Error {
        Error::Unsupported { what: what.into(), step: String::new() }
    }

    /// The same error, knowing where it happened.
    pub(crate) fn in_step(self, name: &str) -> Error {
        match self {
            Error::Unsupported { what, step } if step.is_empty() => Error::Unsupported { what, step: name.to_string() },
            other => other,
        }
    }
}

/// What functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;
