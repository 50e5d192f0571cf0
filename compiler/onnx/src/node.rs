//! One node: operands by name, attributes, then the operator's own import, or an expansion.

use std::collections::BTreeMap;

use onnx_protobuf::{AttributeProto, NodeProto, attribute_proto::AttributeType};
use onnxc_ir::Attrs;
use onnxc_ir::list::{Item, ListImport};
use onnxc_ir::op::{Import, OpError};

use crate::attribute;
use crate::import::Importer;
use crate::items::{binding, shown, tensors};
use crate::node_cx::NodeCx;
use crate::order::label;
use crate::refused;
use crate::report::Problem;
use crate::schema;
use crate::scope::{Binding, domain};

/// Why a node cannot be built.
pub struct Fault {
    pub code: &'static str,
    pub error: OpError,
}

/// A fault with this code.
pub fn fault<T>(code: &'static str, reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { code, error: OpError::new(reason) })
}

/// Turns an operator's error into a fault.
pub fn coded(code: &'static str) -> impl Fn(OpError) -> Fault {
    move |error| Fault { code, error }
}

/// The results of a node, empty optionals being `None`. The outer `None`: something inside failed and has been reported.
pub type Results = Result<Option<Vec<Option<Item>>>, Fault>;

/// What builds a node.
enum Record {
    Tensors(&'static Import),
    Lists(&'static ListImport),
}

/// Attributes by name, references resolved, with their kinds.
pub type Given<'m> = BTreeMap<&'m str, (&'m AttributeProto, AttributeType)>;

/// Number of names without the empty ones at the end.
pub fn named(names: &[String]) -> usize {
    names.iter().rposition(|n| !n.is_empty()).map_or(0, |i| i + 1)
}

impl<'m> Importer<'m> {
    /// Builds a node and binds its outputs. A node whose operands failed fails silently.
    pub fn node(&mut self, node: &'m NodeProto) {
        self.nodes += 1;
        if self.nodes > self.options.limits.nodes {
            let reason = format!("the model has too many nodes: the limit is {}", self.options.limits.nodes);
            self.problem(Problem::model("import::limit", reason));
            return self.fail(node);
        }
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(match self.item(name) {
                _ if name.is_empty() => None,
                Some(item) => item,
                None => return self.fail(node),
            });
        }
        let first_new = self.builder().graph.values.len();
        match self.build(node, &inputs) {
            Ok(Some(results)) => self.bind(node, results, first_new, &inputs),
            Ok(None) => self.fail(node),
            Err(fault) => {
                self.node_problem(node, fault, &inputs);
                self.fail(node);
            }
        }
    }

    fn bind(&mut self, node: &'m NodeProto, results: Vec<Option<Item>>, first_new: usize, inputs: &[Option<Item>]) {
        let mut results = results.into_iter();
        for (i, name) in node.output.iter().enumerate() {
            let result = results.next();
            if name.is_empty() {
                continue;
            }
            let Some(item) = result else {
                let error = OpError::new(format!("output {i} ({name:?}) is not supported")).help("leave the output unused");
                self.node_problem(node, Fault { code: "import::unsupported", error }, inputs);
                self.scope().names.insert(name, Binding::Failed);
                continue;
            };
            if let Some(Item::Tensor(id)) = item
                && id.0 as usize >= first_new
            {
                let full = format!("{}{name}", self.scope().path);
                self.builder().graph.values[id.0 as usize].name = full;
            }
            self.scope().names.insert(name, binding(item));
        }
    }

    fn fail(&mut self, node: &'m NodeProto) {
        for name in node.output.iter().filter(|o| !o.is_empty()) {
            self.scope().names.insert(name, Binding::Failed);
        }
    }

    /// The node's name with the path of calls that lead to it.
    pub fn origin(&mut self, node: &NodeProto) -> String {
        format!("{}{}", self.scope().path, label(node))
    }

    fn node_problem(&mut self, node: &NodeProto, fault: Fault, inputs: &[Option<Item>]) {
        let graph = &self.builder().graph;
        let operand = |(i, name): (usize, &String)| match inputs.get(i).and_then(Option::as_ref) {
            Some(item) => format!("%{name} : {}", shown(item, graph)),
            None => "(none)".to_string(),
        };
        let operands = node.input.iter().enumerate().map(operand).collect();
        let opset = self.scope().opsets.get(domain(&node.domain)).copied();
        let named = Some(self.origin(node));
        let help = fault.error.help;
        let problem = Problem { node: named, opset, operands, help, ..Problem::node(fault.code, node, fault.error.reason) };
        self.problem(problem);
    }

    fn build(&mut self, node: &'m NodeProto, inputs: &[Option<Item>]) -> Results {
        if node.op_type.is_empty() {
            return fault("import::structure", "the node has no operator type");
        }
        let attributes = self.attributes(node)?;
        let name = domain(&node.domain);
        if let Some(function) = self.functions.get(&(name, &node.op_type, &node.overload)).copied() {
            return self.call(node, function, inputs, &attributes);
        }
        let Some(opset) = self.scope().opsets.get(name).copied() else {
            let error = OpError::new(format!("the model imports no opset of domain {name:?}"));
            let error = error.help("a custom operator needs a function body in the model; else export it again");
            return Err(Fault { code: "import::opset", error });
        };
        if let Some(schema) = schema::find(name, &node.op_type, opset).map_err(coded("import::operator"))? {
            schema.check_operands(named(&node.input), named(&node.output)).map_err(coded("import::operands"))?;
            for (name, (_, kind)) in &attributes {
                schema.check_attribute(name, *kind).map_err(coded("import::attribute"))?;
            }
            if let Some(missing) = schema.missing_attribute(|name| attributes.contains_key(name)) {
                return fault("import::attribute", format!("attribute {missing} is missing"));
            }
        }
        if name.is_empty() {
            match node.op_type.as_str() {
                "Constant" => return self.constant(node, &attributes),
                "If" => return self.if_node(node, inputs, &attributes),
                "Loop" => return self.loop_node(node, inputs, &attributes),
                "Scan" if opset < 9 => return self.batched_scan_node(node, inputs, &attributes),
                "Scan" => return self.scan_node(node, inputs, &attributes),
                _ => {}
            }
        }
        let (mut attrs, mut bodies) = (Attrs::default(), BTreeMap::new());
        for (name, (proto, kind)) in attributes {
            if let (AttributeType::GRAPH, Some(body)) = (kind, proto.g.as_ref()) {
                bodies.insert(name, body);
                continue;
            }
            let attr = attribute::convert(proto, kind, &self.source).map_err(OpError::new);
            attrs.0.insert(name.to_string(), attr.map_err(coded("import::attribute"))?);
        }
        let items = inputs[..named(&node.input)].to_vec();
        let record = self.find_record(node, opset, &items)?;
        let origin = self.origin(node);
        let n_outputs = named(&node.output);
        let inputs = match record {
            Record::Tensors(_) => tensors(&items)?,
            Record::Lists(_) => items.iter().map(|i| if let Some(Item::Tensor(id)) = i { Some(*id) } else { None }).collect(),
        };
        let declared = node.output[..n_outputs].iter().map(|name| self.scope().declared.get(name.as_str()).cloned()).collect();
        let outputs = node.output[..n_outputs].iter().map(String::as_str).collect();
        let mut cx =
            NodeCx { importer: self, origin, opset, attrs, bodies, inputs, items, n_outputs, outputs, declared, reported: false };
        let built = match record {
            Record::Tensors(import) => (import.build)(&mut cx).map(crate::items::items),
            Record::Lists(import) => (import.build)(&mut cx),
        };
        match built {
            Err(_) if cx.reported => Ok(None),
            other => other.map(Some).map_err(coded("import::operator")),
        }
    }

    /// The record of an operator: the one for lists where an operand is no tensor or there is no other.
    fn find_record(&self, node: &NodeProto, opset: i64, operands: &[Option<Item>]) -> Result<Record, Fault> {
        let name = domain(&node.domain);
        let of_lists = |l: &&ListImport| name.is_empty() && l.name == node.op_type && (l.opsets.0..=l.opsets.1).contains(&opset);
        let Some(lists) = onnxc_ops::LISTS.iter().find(of_lists) else {
            return self.find_import(node, opset).map(Record::Tensors);
        };
        let plain = operands.iter().all(|o| matches!(o, Some(Item::Tensor(_))));
        let import = if plain { self.find_import(node, opset).ok() } else { None };
        Ok(import.map_or(Record::Lists(lists), Record::Tensors))
    }

    fn find_import(&self, node: &NodeProto, opset: i64) -> Result<&'static Import, Fault> {
        let name = domain(&node.domain);
        let all = || self.ops.0.iter().flat_map(|op| op.onnx).filter(|i| i.domain == name && i.name == node.op_type);
        let fitting = all().find(|i| (i.opsets.0..=i.opsets.1).contains(&opset));
        fitting.ok_or_else(|| {
            let error = if all().next().is_some() {
                OpError::new(format!("opset {opset} of this operator is not supported"))
                    .help("convert the model to another opset with onnx.version_converter")
            } else {
                const HELP: &str = "`onnxc ops` lists what is; rewrite this part of the model, or cut it off and run it outside";
                match refused::find(name, &node.op_type) {
                    Some(r) => OpError::new(format!("this operator is not supported: {}", r.reason)).help(r.help),
                    None => OpError::new("this operator is not supported").help(HELP),
                }
            };
            Fault { code: "import::unsupported", error }
        })
    }

    /// Attributes by name, references to a function's attributes resolved. A reference that the call leaves out is no attribute.
    fn attributes(&mut self, node: &'m NodeProto) -> Result<Given<'m>, Fault> {
        const CODE: &str = "import::attribute";
        let mut all = Given::new();
        for attr in &node.attribute {
            let name = attr.name.as_str();
            if name.is_empty() {
                return fault(CODE, "an attribute has no name");
            }
            let mut value = attr;
            if !attr.ref_attr_name.is_empty() {
                let Some(env) = self.scope().attrs.clone() else {
                    let reason =
                        format!("attribute {name} refers to {:?} of a function, but is outside of any", attr.ref_attr_name);
                    return fault(CODE, reason);
                };
                match env.get(attr.ref_attr_name.as_str()) {
                    Some(given) => value = given,
                    None => continue,
                }
            }
            let kind = attribute::kind(value).map_err(OpError::new).map_err(coded(CODE))?;
            if !std::ptr::eq(value, attr) && kind == AttributeType::GRAPH {
                return fault(CODE, format!("attribute {name}: bodies as attributes of a function are not supported"));
            }
            if all.insert(name, (value, kind)).is_some() {
                return fault(CODE, format!("attribute {name} is given twice"));
            }
        }
        Ok(all)
    }
}
