//! What ends a command early, and how it is told: rendered with ariadne, or one JSON object per line.

use std::io::Write;
use std::sync::OnceLock;

use ariadne::{Config, IndexType, Label, Report, ReportKind, Source};
use onnxc_onnx::{Problem, Report as ImportReport};
use onnxc_passes::plan::PlanError;
use serde::Serialize;

use crate::cli::MessageFormat;

/// How messages look: the command line says it once.
static LOOK: OnceLock<(MessageFormat, bool)> = OnceLock::new();

/// Says how warnings look.
pub fn set_look(format: MessageFormat, color: bool) {
    // Set once for a process.
    let _ = LOOK.set((format, color));
}

/// Does a message end the command?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
}

/// Why a command ends without success.
#[derive(Debug)]
pub enum Fault {
    /// The model or the data is at fault: exit code 1.
    Model(Vec<Diagnostic>),
    /// The command line is: exit code 2.
    Usage(String),
    /// We are: exit code 3.
    Internal(String),
    /// `--stop-after` and `--print-passes`: all is well, nothing more to do.
    Stop,
}

/// What commands return.
pub type Done<T> = Result<T, Fault>;

/// One message about a model or its data.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diagnostic {
    /// Stable code, `import::operator`.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// ONNX node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// ONNX operator or mnemonic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// Operator set version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opset: Option<i64>,
    /// Operands with types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operands: Vec<String>,
    /// What the user can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Text that the message points into, and where: for `.nir` files.
    #[serde(skip)]
    pub source: Option<(String, usize)>,
}

impl Diagnostic {
    /// A message about the whole model.
    pub fn new(code: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic { code: code.to_string(), message: message.into(), ..Diagnostic::default() }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// What the message points at: the text, and the range in it.
    fn snippet(&self) -> Option<(String, std::ops::Range<usize>)> {
        if let Some((text, at)) = &self.source {
            let rest = &text[(*at).min(text.len())..];
            let width = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len()).max(1);
            return Some((text.clone(), *at..*at + width));
        }
        let node = self.node.as_ref()?;
        let op = self.op.as_deref().unwrap_or("node");
        let opset = self.opset.map_or(String::new(), |n| format!("  (opset {n})"));
        let operands: String = self.operands.iter().map(|o| format!("\n  input {o}")).collect();
        Some((format!("{op} {node:?}{opset}{operands}"), 0..op.chars().count()))
    }

    /// The message as a warning, in the form that the command line asks for. `file` is the model's path.
    pub fn warning(&self, file: &str) -> String {
        let (format, color) = LOOK.get().copied().unwrap_or((MessageFormat::Human, false));
        let mut out = Vec::new();
        self.write(Level::Warning, file, (format, color), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn write(&self, level: Level, file: &str, (format, color): (MessageFormat, bool), out: &mut Vec<u8>) {
        match format {
            MessageFormat::Human => self.render(level, file, color, out),
            MessageFormat::Json => {
                let mut json = serde_json::to_value(self).unwrap_or_default();
                json["level"] = if level == Level::Error { "error" } else { "warning" }.into();
                out.extend(format!("{json}\n").into_bytes());
            }
        }
    }

    /// Renders for people. `file` is the model's path.
    fn render(&self, level: Level, file: &str, color: bool, out: &mut Vec<u8>) {
        let (text, range) = self.snippet().unwrap_or((String::new(), 0..0));
        let points_at_something = !text.is_empty();
        let config = Config::default().with_color(color).with_compact(false).with_index_type(IndexType::Byte);
        let file = file.to_string();
        let kind = if level == Level::Error { ReportKind::Error } else { ReportKind::Warning };
        let mut report = Report::build(kind, (file.clone(), range.clone()))
            .with_config(config)
            .with_code(&self.code)
            .with_message(&self.message);
        if points_at_something {
            report = report.with_label(Label::new((file.clone(), range)));
        }
        if let Some(help) = &self.help {
            report = report.with_help(help);
        }
        // Writing to memory does not fail.
        let _ = report.finish().write((file, Source::from(text)), &mut *out);
        // Remedies are printed below what a message points at, and not at all where that is nothing.
        if let Some(help) = self.help.as_ref().filter(|_| !points_at_something) {
            out.extend(format!("  Help: {help}\n").into_bytes());
        }
    }
}

impl From<&Problem> for Diagnostic {
    fn from(p: &Problem) -> Diagnostic {
        Diagnostic {
            code: p.code.to_string(),
            message: p.op.as_ref().map_or(p.reason.clone(), |op| match p.domain.as_str() {
                "" => format!("{op}: {}", p.reason),
                domain => format!("{domain}.{op}: {}", p.reason),
            }),
            node: p.node.clone(),
            op: p.op.clone(),
            opset: p.opset,
            operands: p.operands.clone(),
            help: p.help.clone(),
            source: None,
        }
    }
}

impl From<ImportReport> for Fault {
    fn from(report: ImportReport) -> Fault {
        Fault::Model(report.problems.iter().map(Diagnostic::from).collect())
    }
}

impl From<&PlanError> for Diagnostic {
    fn from(e: &PlanError) -> Diagnostic {
        Diagnostic {
            code: "lower::unsupported".to_string(),
            message: format!("{}: {}", e.op, e.reason),
            node: Some(e.origins.join(", ")),
            op: Some(e.op.clone()),
            help: e.help.clone(),
            ..Diagnostic::default()
        }
    }
}

impl Fault {
    /// A single message about the model or the data.
    pub fn model(code: &str, message: impl Into<String>) -> Fault {
        Fault::Model(vec![Diagnostic::new(code, message)])
    }

    /// A file that cannot be read or written.
    pub fn file(path: &std::path::Path, error: impl std::fmt::Display) -> Fault {
        Fault::model("file", format!("{}: {error}", path.display()))
    }

    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Fault::Stop => 0,
            Fault::Model(_) => 1,
            Fault::Usage(_) => 2,
            Fault::Internal(_) => 3,
        }
    }

    /// Prints the messages.
    pub fn print(&self, file: &str, format: MessageFormat, color: bool) {
        let mut out = Vec::new();
        let list = match self {
            Fault::Stop => return,
            Fault::Model(list) => list.clone(),
            Fault::Usage(text) => vec![Diagnostic::new("usage", text)],
            Fault::Internal(text) => vec![Diagnostic::new("internal", text)],
        };
        list.iter().for_each(|diagnostic| diagnostic.write(Level::Error, file, (format, color), &mut out));
        if format == MessageFormat::Human && list.len() > 1 {
            out.extend(format!("{} problems\n", list.len()).into_bytes());
        }
        // Nobody is left to be told when stderr is closed.
        let _ = std::io::stderr().write_all(&out);
    }
}
