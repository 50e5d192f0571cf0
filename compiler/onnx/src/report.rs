//! What is wrong with a model, all of it at once.

use std::fmt;

use onnx_protobuf::NodeProto;

use crate::order::label;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `import::operator`, `import::attribute`, ...: stable, for tools.
    pub code: &'static str,
    /// ONNX node name (or its first output where it has none); `None` when the problem is not a node's.
    pub node: Option<String>,
    /// `Resize`, `QGemm`, ...
    pub op: Option<String>,
    /// Domain of the operator; empty for ai.onnx.
    pub domain: String,
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
        let domain = String::new();
        Problem { code, node: None, op: None, domain, opset: None, reason: reason.into(), help: None, operands: Vec::new() }
    }

    /// A problem of a node.
    pub fn node(code: &'static str, node: &NodeProto, reason: impl Into<String>) -> Problem {
        let domain = if node.domain == "ai.onnx" { String::new() } else { node.domain.clone() };
        Problem { node: Some(label(node).to_string()), op: Some(node.op_type.clone()), domain, ..Problem::model(code, reason) }
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
            let dot = if self.domain.is_empty() { "" } else { "." };
            write!(f, "{}{dot}{op}: ", self.domain)?;
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

/// Problems that are kept; a model with more is shown the first ones and their number.
pub const MAX_PROBLEMS: usize = 100;

/// All problems of a model, in the order of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The problems; never empty when import fails.
    pub problems: Vec<Problem>,
    /// Further problems that are not listed.
    pub more: usize,
}

impl Report {
    /// Adds a problem, unless the same is there already (a function that is expanded twice).
    pub fn add(&mut self, problem: Problem) {
        if self.problems.contains(&problem) {
            return;
        }
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }
}

impl From<Problem> for Report {
    fn from(problem: Problem) -> Report {
        Report { problems: vec![problem], more: 0 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let gap = if i > 0 { "\n" } else { "" };
            writeln!(f, "{gap}{problem}")?;
        }
        if self.more > 0 {
            writeln!(f, "\nand {} more problems", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
