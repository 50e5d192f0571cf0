//! What the ONNX standard says of each operator and version: numbers of operands, attributes. A table, so that a model that breaks
//! the standard is told so precisely before any operator's own code sees it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use onnx_protobuf::attribute_proto::AttributeType;
use onnxc_ir::op::OpError;

static TEXT: &str = include_str!("schemas.txt");

/// Versions by domain and name, in rising order.
type Table = BTreeMap<&'static str, BTreeMap<&'static str, Vec<Schema>>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let mut table = Table::new();
    for ((domain, name), schema) in TEXT.lines().filter(|l| !l.starts_with('#')).map(parse) {
        table.entry(domain).or_default().entry(name).or_default().push(schema);
    }
    table
});

/// Newest version of ai.onnx that the table knows.
pub const NEWEST_OPSET: i64 = 28;
/// Newest version of ai.onnx.ml that the table knows.
const NEWEST_ML: i64 = 5;

/// An operator from one version of its operator set on.
#[derive(Debug)]
pub struct Schema {
    /// First version.
    since: i64,
    /// The operator ends with this version.
    gone: bool,
    inputs: (usize, usize),
    outputs: (usize, usize),
    /// Name, kind, required.
    attributes: Vec<(&'static str, AttributeType, bool)>,
}

/// Newest version of a domain that has one.
pub fn newest(domain: &str) -> Option<i64> {
    match domain {
        "" => Some(NEWEST_OPSET),
        "ai.onnx.ml" => Some(NEWEST_ML),
        _ => None,
    }
}

fn parse(line: &'static str) -> ((&'static str, &'static str), Schema) {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("internal: schemas.txt");
    let key = (word().trim_start_matches('-'), word());
    let since = word();
    let mut count = || {
        let w = word();
        if w == "*" { usize::MAX } else { w.parse().expect("internal: schemas.txt") }
    };
    let (inputs, outputs) = ((count(), count()), (count(), count()));
    let attributes = words.map(attribute).collect();
    let version = since.trim_end_matches('x').parse().expect("internal: schemas.txt");
    (key, Schema { since: version, gone: since.ends_with('x'), inputs, outputs, attributes })
}

fn attribute(word: &'static str) -> (&'static str, AttributeType, bool) {
    let (name, kind) = word.split_once(':').expect("internal: schemas.txt");
    let required = kind.ends_with('!');
    let kind = match kind.trim_end_matches('!') {
        "f" => AttributeType::FLOAT,
        "i" => AttributeType::INT,
        "s" => AttributeType::STRING,
        "t" => AttributeType::TENSOR,
        "g" => AttributeType::GRAPH,
        "F" => AttributeType::FLOATS,
        "I" => AttributeType::INTS,
        "S" => AttributeType::STRINGS,
        "T" => AttributeType::TENSORS,
        "G" => AttributeType::GRAPHS,
        "p" => AttributeType::SPARSE_TENSOR,
        "P" => AttributeType::SPARSE_TENSORS,
        "y" => AttributeType::TYPE_PROTO,
        _ => AttributeType::TYPE_PROTOS,
    };
    (name, kind, required)
}

/// The schema that version `opset` of `domain` gives to an operator. `Ok(None)` for domains that the table does not hold.
pub fn find(domain: &str, name: &str, opset: i64) -> Result<Option<&'static Schema>, OpError> {
    let Some(versions) = TABLE.get(domain).and_then(|d| d.get(name)) else {
        return match newest(domain) {
            None => Ok(None),
            Some(_) => Err(OpError::new(format!("ONNX has no operator called {name}"))
                .help("if it is a custom operator, the export must give its domain and, for import, a function body")),
        };
    };
    let convert = "export again with a fitting opset, or convert the model with onnx.version_converter";
    match versions.iter().rfind(|s| s.since <= opset) {
        Some(s) if s.gone => {
            Err(OpError::new(format!("{name} ended with opset {}; the model says opset {opset}", s.since - 1)).help(convert))
        }
        Some(s) => Ok(Some(s)),
        None => {
            let first = versions[0].since;
            Err(OpError::new(format!("{name} exists from opset {first} on; the model says opset {opset}")).help(convert))
        }
    }
}

fn range((least, most): (usize, usize)) -> String {
    match (least, most) {
        (a, b) if a == b => a.to_string(),
        (a, usize::MAX) => format!("at least {a}"),
        (a, b) => format!("{a} to {b}"),
    }
}

impl Schema {
    /// Are these numbers of inputs and outputs allowed?
    pub fn check_operands(&self, inputs: usize, outputs: usize) -> Result<(), OpError> {
        for (what, n, verb, allowed) in [("inputs", inputs, "takes", self.inputs), ("outputs", outputs, "gives", self.outputs)] {
            if n < allowed.0 || n > allowed.1 {
                return Err(OpError::new(format!("the node has {n} {what}, the operator {verb} {}", range(allowed))));
            }
        }
        Ok(())
    }

    /// Is `name` an attribute, and of this kind?
    pub fn check_attribute(&self, name: &str, kind: AttributeType) -> Result<(), OpError> {
        match self.attributes.iter().find(|(n, _, _)| *n == name) {
            Some((_, k, _)) if *k == kind => Ok(()),
            Some((_, k, _)) => Err(OpError::new(format!("attribute {name} must be {k:?}, it is {kind:?}"))),
            None => {
                let known: Vec<&str> = self.attributes.iter().map(|(n, _, _)| *n).collect();
                let help = if known.is_empty() { "it has none".to_string() } else { format!("it has {}", known.join(", ")) };
                Err(OpError::new(format!("the operator has no attribute called {name:?}")).help(help))
            }
        }
    }

    /// The first required attribute that `has` does not know.
    pub fn missing_attribute(&self, has: impl Fn(&str) -> bool) -> Option<&'static str> {
        self.attributes.iter().find(|(name, _, required)| *required && !has(name)).map(|(name, _, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        assert!(find("", "Mish", 17).expect_err("too early").reason.contains("opset 18"));
        assert!(find("", "Upsample", 10).expect_err("gone").reason.contains("opset 9"));
        assert!(find("", "Frobnicate", 17).is_err());
        assert!(find("com.acme", "Relu", 1).expect("unknown domain").is_none());
        let relu = find("", "Relu", 13).expect("known").expect("known");
        assert!(relu.check_operands(1, 1).is_ok() && relu.check_operands(2, 1).is_err() && relu.check_operands(1, 2).is_err());
        let concat = find("", "Concat", 13).expect("known").expect("known");
        assert!(concat.check_attribute("axis", AttributeType::INT).is_ok());
        assert!(concat.check_attribute("axis", AttributeType::STRING).is_err());
        assert_eq!(concat.missing_attribute(|_| false), Some("axis"));
    }

    #[test]
    fn the_whole_table_parses() {
        let operators: usize = TABLE.values().map(BTreeMap::len).sum();
        assert!(operators > 180, "{operators}");
    }
}
