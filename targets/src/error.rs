//! Errors of this crate.

/// Why a target or a kernel cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The triple does not parse or names an architecture without a code generator.
    #[error("target `{triple}` is not supported: {reason}")]
    Triple {
        /// As given.
        triple: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The CPU specification is wrong.
    #[error("--cpu={cpu}: {reason}")]
    Cpu {
        /// As given.
        cpu: String,
        /// What is wrong with it, with the names that exist.
        reason: String,
    },
    /// A kernel needs more registers than there are; a smaller tile or the scalar loop is the answer.
    #[error("the kernel does not fit in the registers ({0})")]
    Registers(&'static str),
    /// This target has no code for the request.
    #[error("no kernel: {0}")]
    Unsupported(String),
    /// Cranelift or the assembler refused.
    #[error("internal: targets: {0}")]
    Internal(String),
}

impl From<iced_x86::IcedError> for Error {
    fn from(e: iced_x86::IcedError) -> Error {
        Error::Internal(format!("assembler: {e}"))
    }
}
