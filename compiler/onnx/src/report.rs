//! What is wrong with a model, all of it at once.

use std::fmt;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `import::operator`, `import::attribute`, ...: stable, for tools.
    pub code: &'static str,
    /// ONNX node name (or its first output where it has none); `None` when the problem is not a node's.
    pub node: Option<String>,
    /// `Resize`, `com.microsoft.QGemm`, ...
    pub op: Option<String>,
    /// Version of the operator set.
    pub opset: Option<i64>,
    /// What is wrong.
    pub reason: String,
    /// What the user can do.
    pub help: Option<String>,
    /// Operands with types, for the message.
    pub operands: Vec<String>,
}

impl Problem {
    /// A problem of the whole model.
    pub fn model(code: &'static str, reason: impl Into<String>) -> Problem {
        Problem { code, node: None, op: None, opset: None, reason: reason.into(), help: None, operands: Vec::new() }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: ", self.code)?;
        if let Some(op) = &self.op {
            write!(f, "{op}: ")?;
        }
        f.write_str(&self.reason)?;
        if let Some(node) = &self.node {
            write!(f, "\n  node  {node:?}")?;
        }
        if let Some(opset) = self.opset {
            write!(f, "  (opset {opset})")?;
        }
        for operand in &self.operands {
            write!(f, "\n  input {operand}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help  {help}")?;
        }
        Ok(())
    }
}

/// All problems of a model, in the order of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The problems; never empty when import fails.
    pub problems: Vec<Problem>,
}

impl From<Problem> for Report {
    fn from(problem: Problem) -> Report {
        Report { problems: vec![problem] }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let gap = if i > 0 { "\n" } else { "" };
            writeln!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
