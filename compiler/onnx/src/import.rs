//! ModelProto to graph: the model as a whole. Its operator sets, functions, inputs and outputs, and the options that concern them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use onnx_protobuf::{FunctionProto, GraphProto, ModelProto, OperatorSetIdProto};
use onnxc_ir::dim::DimBounds;
use onnxc_ir::op::{OpDef, OpSet};
use onnxc_ir::{Dim, DimBindings, Graph, Tensor, ValueId};
use rustc_hash::FxHashMap;

use crate::builder::Builder;
use crate::declared;
use crate::function;
use crate::options::Options;
use crate::order::{Given, order};
use crate::ports::Port;
use crate::prune::prune;
use crate::report::{Problem, Report};
use crate::schema;
use crate::scope::{Binding, Frame, Opsets, Scope, domain};
use crate::tensor::Source;
use crate::types;

/// Oldest version of ai.onnx that is read.
pub const OLDEST_OPSET: i64 = 6;

/// Domains with operators of their own. A model without any of them means nothing.
const DOMAINS: [&str; 3] = ["", "ai.onnx.ml", "ai.onnx.preview.training"];

/// Domain, name, overload.
pub type FunctionKey<'m> = (&'m str, &'m str, &'m str);

/// What an import ends with.
pub struct Built {
    pub graph: Graph,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub opsets: Opsets,
}

/// The state of an import.
pub struct Importer<'m> {
    pub options: &'m Options,
    pub source: Source<'m>,
    pub functions: BTreeMap<FunctionKey<'m>, &'m FunctionProto>,
    pub ops: OpSet,
    pub frames: Vec<Frame<'m>>,
    pub scopes: Vec<Scope<'m>>,
    pub report: Report,
    /// Inputs and outputs of the model so far.
    pub ports: (Vec<Port>, Vec<Port>),
    /// Elements that further lists may have in all.
    pub list_elements_left: usize,
    /// Bytes of bodies that may still be built again.
    pub unroll_left: u64,
    /// Nodes built so far.
    pub nodes: usize,
    /// Symbols for sizes that data decides on.
    pub counts: BTreeSet<String>,
    /// Extents of named dimensions.
    pub bound: DimBindings,
    /// Elementwise operators by domain and ONNX name.
    pub elementwise: FxHashMap<(&'static str, &'static str), &'static OpDef>,
}

impl<'m> Importer<'m> {
    /// Nothing imported yet.
    pub fn new(options: &'m Options, source: Source<'m>, ops: OpSet) -> Importer<'m> {
        let (frames, scopes, report) = (Vec::new(), Vec::new(), Report::default());
        Importer {
            options,
            source,
            functions: BTreeMap::new(),
            ops,
            frames,
            scopes,
            report,
            ports: (Vec::new(), Vec::new()),
            list_elements_left: options.limits.sequence_total,
            unroll_left: options.limits.unroll_bytes,
            nodes: 0,
            counts: BTreeSet::new(),
            bound: DimBindings::default(),
            elementwise: declared::elementwise(ops),
        }
    }

    /// Imports the whole model.
    pub fn model(mut self, model: &'m ModelProto) -> Result<Built, Report> {
        let Some(proto) = model.graph.as_ref() else {
            return Err(Problem::model("import::file", "the file holds no graph; it is not an ONNX model").into());
        };
        let opsets = self.opsets(&model.opset_import);
        for f in &model.functions {
            if self.functions.insert((domain(&f.domain), &f.name, &f.overload), f).is_some() {
                let reason = format!("function {}.{} is defined twice", f.domain, f.name);
                self.problem(Problem::model("import::function", reason));
            }
        }
        if let Err(problem) = function::check_sizes(&self.functions, proto, self.options.limits.nodes) {
            self.problem(*problem);
        }
        // Without versions or with endless functions, nothing that follows would mean much.
        if !self.report.is_empty() {
            return Err(self.report);
        }
        let limits = &self.options.limits;
        self.frames.push(Frame::new(Builder::new(&proto.name, self.ops, limits, limits.fold_bytes)));
        let names = FxHashMap::default();
        let (opsets, attrs) = (Rc::new(opsets), None);
        self.scopes.push(Scope {
            frame: 0,
            outer: None,
            names,
            opsets: opsets.clone(),
            attrs,
            path: String::new(),
            declared: FxHashMap::default(),
        });
        self.check_options(proto);
        self.inputs(proto);
        if !self.options.inputs_only && self.graph_nodes(proto) {
            self.outputs(proto);
        }
        if !self.report.is_empty() {
            return Err(self.report);
        }
        let graph = self.frames.swap_remove(0).builder.graph;
        let (mut inputs, outputs) = self.ports;
        inputs.retain(|port| port.tensors.is_empty() || port.tensors.iter().any(Option::is_some));
        Ok(Built { graph: prune(graph), inputs, outputs, opsets: (*opsets).clone() })
    }

    /// Adds to the report.
    pub fn problem(&mut self, problem: Problem) {
        self.report.add(problem);
    }

    fn opsets(&mut self, imports: &[OperatorSetIdProto]) -> Opsets {
        let mut opsets = Opsets::new();
        for import in imports {
            let (name, version) = (domain(&import.domain), import.version);
            let shown = if name.is_empty() { "ai.onnx" } else { name };
            let mut wrong = |reason: String, help: &str| {
                self.report.add(Problem::model("import::opset", reason).help(help));
            };
            if let Some(before) = opsets.insert(name.to_string(), version).filter(|v| *v != version) {
                wrong(format!("opset {shown} is imported in two versions: {before} and {version}"), "export the model again");
            }
            let oldest = if name.is_empty() { OLDEST_OPSET } else { 1 };
            if version < oldest {
                let reason = format!("opset {shown} {version} is not supported: {oldest} is the oldest that is");
                wrong(reason, "convert the model with onnx.version_converter");
            }
            if let Some(newest) = schema::newest(name).filter(|n| version > *n) {
                let reason = format!("opset {shown} {version} is not supported: {newest} is the newest that is known");
                wrong(reason, "export with an older opset, or update onnxc");
            }
        }
        if !DOMAINS.iter().any(|d| opsets.contains_key(*d)) {
            let reason = "the model names no opset of ai.onnx, so its operators have no meaning";
            self.problem(Problem::model("import::opset", reason).help("export it again with opset_import set"));
        }
        opsets
    }

    /// Builds the nodes of a graph in the innermost scope, whose inputs are bound; `false` when its structure is broken.
    pub fn graph_nodes(&mut self, proto: &'m GraphProto) -> bool {
        let mut given: Given = proto.initializer.iter().map(|t| (t.name.as_str(), "initialiser")).collect();
        given.extend(proto.sparse_initializer.iter().map(|t| (t.values.name.as_str(), "sparse initialiser")));
        let initialised = initialised(proto);
        let inputs = proto.input.iter().map(|i| i.name.as_str());
        let mut seen = BTreeSet::new();
        // An input may be given an initialiser of the same name as its default.
        given.extend(inputs.filter(|i| !initialised.contains(i) || !seen.insert(*i)).map(|i| (i, "input")));
        for tensor in &proto.initializer {
            self.scope().names.entry(&tensor.name).or_insert(Binding::Dense(tensor));
        }
        for sparse in &proto.sparse_initializer {
            self.scope().names.entry(&sparse.values.name).or_insert(Binding::Sparse(sparse));
        }
        self.check_defaults(proto);
        self.scope().declared = self.declared(proto);
        let outputs: Vec<&str> = proto.output.iter().map(|o| o.name.as_str()).collect();
        self.ordered(&proto.node, &given, &outputs)
    }

    /// Checks the structure of `nodes` and builds those that `outputs` need.
    pub fn ordered(&mut self, nodes: &'m [onnx_protobuf::NodeProto], given: &Given<'m>, outputs: &[&'m str]) -> bool {
        let innermost = self.scopes.len() - 1;
        let outer = |name: &str| {
            let mut at = self.scopes[innermost].outer;
            while let Some(s) = at {
                if self.scopes[s].names.contains_key(name) {
                    return true;
                }
                at = self.scopes[s].outer;
            }
            false
        };
        match order(nodes, given, outputs, &outer) {
            Ok(sorted) => {
                sorted.into_iter().for_each(|n| self.node(&nodes[n]));
                true
            }
            Err(problems) => {
                problems.into_iter().for_each(|p| self.problem(p));
                false
            }
        }
    }

    /// An input with an initialiser must have its type.
    fn check_defaults(&mut self, proto: &'m GraphProto) {
        for info in &proto.input {
            let Some(tensor) = proto.initializer.iter().find(|t| t.name == info.name) else { continue };
            let reason = match types::declared(info) {
                Ok(Some(d)) if d.dtype.onnx_code() != tensor.data_type => {
                    let given = onnxc_ir::DType::from_onnx(tensor.data_type).map_or("unknown", |t| t.name());
                    format!("its initialiser is {given}, the input is declared {}", d.dtype)
                }
                Ok(_) => continue,
                Err(reason) => reason,
            };
            self.problem(Problem::model("import::input", format!("input {:?}: {reason}", info.name)));
        }
    }

    /// A constant in the innermost graph.
    pub fn add_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.builder().graph.add_const(name, tensor)
    }

    /// A symbol for an extent of a value that data decides on, and its largest value, if that is known. Bodies share it with the graph around them.
    pub fn counted(&mut self, value: &str, axis: usize, bound: Option<u64>) -> String {
        let first = format!("{value}.{axis}");
        let names = std::iter::once(first.clone()).chain((1..).map(|n| format!("{first}.{n}")));
        let graph = &mut self.frames[0].builder.graph;
        let name = names.into_iter().find(|n| !self.counts.contains(n)).unwrap_or_default();
        self.counts.insert(name.clone());
        graph.bounds.extend(bound.map(|n| (name.clone(), (0, n))));
        name
    }

    /// Smallest and largest values of symbols, as far as they are known.
    pub fn bounds(&self) -> DimBounds {
        let mut bounds = self.options.ranges.clone();
        bounds.extend(self.frames[0].builder.graph.bounds.iter().map(|(name, range)| (name.clone(), *range)));
        bounds
    }

    /// The largest value of an extent, if it has one.
    pub fn largest(&self, extent: &Dim) -> Option<u64> {
        Some(extent.range(&self.bounds()).1).filter(|n| *n < u64::MAX)
    }
}

/// Names of the initialisers.
pub fn initialised(proto: &GraphProto) -> BTreeSet<&str> {
    let dense = proto.initializer.iter().map(|t| t.name.as_str());
    dense.chain(proto.sparse_initializer.iter().map(|t| t.values.name.as_str())).collect()
}
