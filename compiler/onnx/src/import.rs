//! ModelProto to graph: names to values, nodes to operators, functions and bodies expanded, every problem collected.

use std::collections::{BTreeMap, BTreeSet};

use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
    tensor_shape_proto::dimension, type_proto,
};
use onnxc_ir::op::{Import, OpError, OpSet};
use onnxc_ir::{Attr, Attrs, DType, Dim, DimBindings, Graph, Tensor, TensorType, ValueId};

use crate::attribute;
use crate::builder::{Builder, NodeCx};
use crate::options::Options;
use crate::report::{Problem, Report};
use crate::tensor::Source;

/// Oldest version of ai.onnx that is read.
pub const OLDEST_OPSET: i64 = 7;

/// Versions by domain.
pub type Opsets = BTreeMap<String, i64>;

/// `ai.onnx` has two names.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Names of a scope. A value that a failed node should have defined is `None`: its users fail silently.
type Names = BTreeMap<String, Option<ValueId>>;

/// A body under construction, or the model.
struct Frame<'a> {
    builder: Builder<'a>,
    names: Names,
    /// For a body: outer value (of the enclosing frame) to the body's input that stands for it.
    captures: BTreeMap<ValueId, ValueId>,
}

pub(crate) struct Importer<'a> {
    pub options: &'a Options,
    pub source: Source<'a>,
    pub functions: BTreeMap<(String, String, String), &'a FunctionProto>,
    ops: OpSet,
    frames: Vec<Frame<'a>>,
    problems: Vec<Problem>,
    nodes: usize,
    depth: usize,
    /// Symbols that `--shape` fixed.
    bound: DimBindings,
}

impl<'a> Importer<'a> {
    pub fn new(options: &'a Options, source: Source<'a>) -> Importer<'a> {
        Importer {
            options,
            source,
            functions: BTreeMap::new(),
            ops: OpSet(onnxc_ops::ALL),
            frames: Vec::new(),
            problems: Vec::new(),
            nodes: 0,
            depth: 0,
            bound: options.dims.clone(),
        }
    }

    /// Imports the whole model.
    pub fn model(mut self, model: &'a ModelProto) -> Result<(Graph, Opsets), Report> {
        let Some(proto) = model.graph.as_ref() else {
            return Err(Problem::model("import::model", "the file holds no graph; it is not an ONNX model").into());
        };
        let opsets = self.opsets(&model.opset_import);
        for f in &model.functions {
            let key = (domain(&f.domain).to_string(), f.name.clone(), f.overload.clone());
            if self.functions.insert(key, f).is_some() {
                self.problem(Problem::model("import::function", format!("function {} is defined twice", f.name)));
            }
        }
        let limits = &self.options.limits;
        let builder = Builder::new(&proto.name, self.ops, limits, limits.fold_bytes);
        self.frames.push(Frame { builder, names: Names::new(), captures: BTreeMap::new() });
        self.inputs(proto);
        self.graph_body(proto, &opsets);
        self.outputs(proto);
        self.unknown_options(proto);
        if !self.problems.is_empty() {
            return Err(Report { problems: self.problems });
        }
        let mut graph = self.frames.pop().expect("internal: the model's frame").builder.graph;
        graph.make_names_unique();
        Ok((without_unused(graph), opsets))
    }

    fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn frame(&mut self) -> &mut Frame<'a> {
        self.frames.last_mut().expect("internal: a frame is open")
    }

    fn opsets(&mut self, imports: &[OperatorSetIdProto]) -> Opsets {
        let mut opsets = Opsets::new();
        for import in imports {
            let name = domain(&import.domain).to_string();
            if opsets.insert(name.clone(), import.version).is_some() {
                self.problem(Problem::model("import::opset", format!("operator set {name:?} is imported twice")));
            }
        }
        match opsets.get("") {
            None if !opsets.contains_key("ai.onnx.ml") => {
                self.problem(
                    Problem::model("import::opset", "the model imports no version of ai.onnx")
                        .help("export it again with opset_import set"),
                );
            }
            Some(v) if *v < OLDEST_OPSET => {
                let text = format!("ai.onnx version {v} is too old; version {OLDEST_OPSET} is the oldest that is supported");
                self.problem(Problem::model("import::opset", text).help("convert the model with onnx.version_converter"));
            }
            Some(v) if *v > NEWEST_OPSET => {
                let text = format!("ai.onnx version {v} is newer than {NEWEST_OPSET}, the newest that is supported");
                self.problem(Problem::model("import::opset", text).help("export with an older opset, or update onnxc"));
            }
            _ => {}
        }
        opsets
    }

    fn inputs(&mut self, proto: &GraphProto) {
        let initialised: BTreeSet<&str> = proto.initializer.iter().map(|t| t.name.as_str()).collect();
        // Explicit shapes first: they fix symbols for the other inputs.
        for info in &proto.input {
            if let (Some(shape), Some(Ok(ty))) = (self.options.shapes.get(&info.name), self.declared(info)) {
                for (dim, n) in ty.shape.iter().zip(shape) {
                    if let Dim::Sym(name) = dim {
                        self.bound.entry(name.to_string()).or_insert(*n);
                    }
                }
            }
        }
        for info in &proto.input {
            if initialised.contains(info.name.as_str()) {
                continue;
            }
            let ty = match self.declared(info) {
                Some(Ok(ty)) => self.sized(info, ty),
                Some(Err(reason)) => Err(Problem::model("import::input", format!("input {:?}: {reason}", info.name))),
                None => Err(Problem::model("import::input", format!("input {:?} has no type", info.name))),
            };
            let id = match ty {
                Ok(ty) => match self.options.consts.get(&info.name) {
                    Some(tensor) => Some(self.frame().builder.graph.add_const(&info.name, tensor.clone())),
                    None => Some(self.frame().builder.graph.add_input(&info.name, ty)),
                },
                Err(problem) => {
                    self.problem(problem);
                    None
                }
            };
            self.define(&info.name, id, "input");
        }
    }

    /// The declared type of an input with `--shape` and `--dim` applied.
    fn sized(&self, info: &ValueInfoProto, mut ty: TensorType) -> Result<TensorType, Problem> {
        if let Some(shape) = self.options.shapes.get(&info.name) {
            let declared = !matches!(&ty.shape[..], [Dim::Sym(s)] if s.starts_with("?rank"));
            let fits =
                ty.shape.len() == shape.len() && ty.shape.iter().zip(shape).all(|(d, n)| d.as_const().is_none_or(|d| d == *n));
            if declared && !fits {
                let text = format!("--shape {}={shape:?} does not fit the input's type {ty}", info.name);
                return Err(Problem::model("import::shape", text));
            }
            ty.shape = shape.iter().copied().map(Dim::Const).collect();
        }
        ty.shape = ty.shape.iter().map(|d| d.bind(&self.bound)).collect();
        if ty.shape.len() > self.options.limits.rank {
            return Err(Problem::model(
                "import::limit",
                format!("input {:?} has {} dimensions, the limit is {}", info.name, ty.shape.len(), self.options.limits.rank),
            ));
        }
        let known = ty.const_shape();
        let bytes = known.as_ref().map(|s| onnxc_ir::tensor::element_count(s).and_then(|n| ty.dtype.bytes_for(n)));
        if let Some(bytes) = bytes
            && bytes.is_none_or(|b| b > self.options.limits.tensor_bytes)
        {
            return Err(Problem::model("import::limit", format!("input {:?} of type {ty} is larger than the limit", info.name)));
        }
        Ok(ty)
    }

    /// The type that a value info declares; `None` when it declares none.
    fn declared(&self, info: &ValueInfoProto) -> Option<Result<TensorType, String>> {
        let tensor = match info.type_.value.as_ref()? {
            type_proto::Value::TensorType(t) => t,
            _ => return Some(Err("is no tensor; sequences, maps, optional and sparse types are not supported".into())),
        };
        let Some(dtype) = DType::from_onnx(tensor.elem_type) else {
            return Some(Err(format!("element type {} is unknown", tensor.elem_type)));
        };
        let Some(shape) = tensor.shape.as_ref() else {
            return Some(match self.options.shapes.get(&info.name) {
                Some(_) => Ok(TensorType { dtype, shape: vec![Dim::sym("?rank")] }),
                None => Err(format!("its rank is unknown; pass --shape {}=...", info.name)),
            });
        };
        let dim = |(i, d): (usize, &onnx_protobuf::tensor_shape_proto::Dimension)| match &d.value {
            Some(dimension::Value::DimValue(n)) => {
                u64::try_from(*n).map(Dim::Const).map_err(|_| format!("dimension {i} is negative: {n}"))
            }
            Some(dimension::Value::DimParam(name)) if !name.is_empty() => Ok(Dim::sym(name)),
            _ => Ok(Dim::sym(&format!("?{}_{i}", info.name))),
        };
        Some(shape.dim.iter().enumerate().map(dim).collect::<Result<_, _>>().map(|shape| TensorType { dtype, shape }))
    }

    fn define(&mut self, name: &str, id: Option<ValueId>, what: &str) {
        if self.frame().names.insert(name.to_string(), id).is_some() {
            self.problem(Problem::model("import::name", format!("{what} {name:?} is defined twice")));
        }
    }

    /// Initialisers and nodes of a graph, in topological order whatever the order in the file.
    fn graph_body(&mut self, proto: &GraphProto, opsets: &Opsets) {
        for tensor in &proto.initializer {
            let loaded = self.source.tensor(tensor);
            self.initializer(&tensor.name, loaded);
        }
        for sparse in &proto.sparse_initializer {
            let loaded = self.source.sparse(sparse);
            self.initializer(&sparse.values.name, loaded);
        }
        self.nodes(&proto.node, opsets, &BTreeMap::new());
    }

    fn initializer(&mut self, name: &str, loaded: Result<Tensor, String>) {
        let id = match loaded {
            Ok(t) if t.shape().len() <= self.options.limits.rank => Some(self.frame().builder.graph.add_const(name, t)),
            Ok(_) => {
                self.problem(Problem::model("import::limit", format!("initialiser {name:?} has too many dimensions")));
                None
            }
            Err(reason) => {
                self.problem(Problem::model("import::initializer", format!("initialiser {name:?}: {reason}")));
                None
            }
        };
        if name.is_empty() {
            self.problem(Problem::model("import::initializer", "an initialiser has no name"));
        }
        self.define(name, id, "initialiser");
    }

    /// Nodes of a graph or function. Models are meant to be sorted; those that are not are sorted here, and cycles reported.
    fn nodes(&mut self, nodes: &[NodeProto], opsets: &Opsets, attrs: &BTreeMap<String, AttributeProto>) {
        let producers: BTreeMap<&str, usize> = nodes
            .iter()
            .enumerate()
            .flat_map(|(n, node)| node.output.iter().map(move |o| (o.as_str(), n)))
            .filter(|(o, _)| !o.is_empty())
            .collect();
        let mut state = vec![0u8; nodes.len()];
        for first in 0..nodes.len() {
            let mut stack = vec![first];
            while let Some(n) = stack.last().copied() {
                if state[n] == 2 {
                    stack.pop();
                    continue;
                }
                let inputs = needed(&nodes[n]);
                let waiting = inputs.iter().filter_map(|i| producers.get(i.as_str())).find(|p| state[**p] != 2).copied();
                match waiting {
                    Some(p) if state[p] == 1 || p == n => {
                        let name = label(&nodes[n]);
                        self.problem(Problem::model(
                            "import::cycle",
                            format!("node {name:?} is part of a cycle: it needs its own result"),
                        ));
                        self.fail_outputs(&nodes[n]);
                        state[n] = 2;
                        stack.pop();
                    }
                    Some(p) => {
                        state[n] = 1;
                        stack.push(p);
                    }
                    None => {
                        state[n] = 2;
                        stack.pop();
                        self.node(&nodes[n], opsets, attrs);
                    }
                }
            }
        }
    }

    fn fail_outputs(&mut self, node: &NodeProto) {
        for name in node.output.iter().filter(|o| !o.is_empty()) {
            self.frame().names.insert(name.clone(), None);
        }
    }

    fn node(&mut self, node: &NodeProto, opsets: &Opsets, outer: &BTreeMap<String, AttributeProto>) {
        self.nodes += 1;
        if self.nodes > self.options.limits.nodes {
            if self.nodes == self.options.limits.nodes + 1 {
                self.problem(Problem::model(
                    "import::limit",
                    format!("the model has more than {} nodes", self.options.limits.nodes),
                ));
            }
            return self.fail_outputs(node);
        }
        match self.try_node(node, opsets, outer) {
            Ok(Some(ids)) => {
                for (i, name) in node.output.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
                    let id = ids.get(i).copied().flatten();
                    if let Some(id) = id {
                        self.rename(id, name);
                    } else {
                        let reason = format!("output {i} ({name:?}) is not produced by this operator");
                        self.node_problem(node, opsets, OpError::new(reason), "import::operator", &[]);
                    }
                    self.define(name, id, "value");
                }
            }
            Ok(None) => self.fail_outputs(node),
            Err((code, error, inputs)) => {
                self.node_problem(node, opsets, error, code, &inputs);
                self.fail_outputs(node);
            }
        }
    }

    /// Values that no model name has yet get the one of the ONNX value.
    fn rename(&mut self, id: ValueId, name: &str) {
        let graph = &mut self.frame().builder.graph;
        let is_input = graph.inputs.contains(&id);
        let produced_now = graph.nodes.last().is_some_and(|n| n.outputs.contains(&id)) || graph.constant(id).is_some();
        if !is_input && produced_now {
            graph.values[id.0 as usize].name = name.to_string();
        }
    }

    fn node_problem(
        &mut self,
        node: &NodeProto,
        opsets: &Opsets,
        error: OpError,
        code: &'static str,
        inputs: &[Option<ValueId>],
    ) {
        let name = domain(&node.domain);
        let op = if name.is_empty() { node.op_type.clone() } else { format!("{name}.{}", node.op_type) };
        let graph = &self.frame().builder.graph;
        let operands = node.input.iter().zip(inputs).filter_map(|(n, id)| Some(format!("%{n} : {}", graph.ty((*id)?)))).collect();
        let opset = opsets.get(name).copied();
        self.problem(Problem {
            code,
            node: Some(label(node).to_string()),
            op: Some(op),
            opset,
            reason: error.reason,
            help: error.help,
            operands,
        });
    }

    /// `None`: an operand failed before, nothing to report.
    #[expect(clippy::type_complexity, reason = "results or a problem with its operands")]
    fn try_node(
        &mut self,
        node: &NodeProto,
        opsets: &Opsets,
        outer: &BTreeMap<String, AttributeProto>,
    ) -> Result<Option<Vec<Option<ValueId>>>, (&'static str, OpError, Vec<Option<ValueId>>)> {
        let mut inputs = Vec::new();
        for name in &node.input {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            match self.lookup(self.frames.len() - 1, name) {
                Some(Some(id)) => inputs.push(Some(id)),
                Some(None) => return Ok(None),
                None => {
                    let error =
                        OpError::new(format!("input {name:?} is defined nowhere")).help("the model is broken: export it again");
                    return Err(("import::input", error, Vec::new()));
                }
            }
        }
        let fail = |code, inputs: &Vec<Option<ValueId>>| {
            let inputs = inputs.clone();
            move |error: OpError| (code, error, inputs)
        };
        let attributes = self.attributes(node, outer).map_err(fail("import::attribute", &inputs))?;
        let key = (domain(&node.domain).to_string(), node.op_type.clone(), node.overload.clone());
        if let Some(function) = self.functions.get(&key).copied() {
            return self.function(function, &inputs, &attributes).map_err(fail("import::function", &inputs));
        }
        if node.op_type == "If" && domain(&node.domain).is_empty() {
            if let Some(result) = self.constant_if(node, &inputs, opsets) {
                return result.map_err(fail("import::operator", &inputs));
            }
        }
        let before = self.problems.len();
        let (attrs, captures) = self.with_bodies(&attributes, opsets).map_err(fail("import::attribute", &inputs))?;
        if self.problems.len() > before {
            return Ok(None);
        }
        let import = self.find_import(node, opsets).map_err(fail("import::operator", &inputs))?;
        let n_inputs = inputs.clone();
        inputs.extend(captures.into_iter().map(Some));
        let opset = opsets.get(domain(&node.domain)).copied().unwrap_or(1);
        let n_outputs = node.output.iter().rposition(|o| !o.is_empty()).map_or(1, |i| i + 1);
        let mut cx =
            NodeCx { builder: &mut self.frame().builder, origin: label(node).to_string(), opset, attrs, inputs, n_outputs };
        let ids = (import.build)(&mut cx).map_err(fail("import::operator", &n_inputs))?;
        Ok(Some(ids.into_iter().map(Some).collect()))
    }

    fn find_import(&self, node: &NodeProto, opsets: &Opsets) -> Result<&'static Import, OpError> {
        let name = domain(&node.domain);
        let version = *opsets.get(name).ok_or_else(|| {
            OpError::new(format!("the model imports no version of operator set {name:?}"))
                .help("the model is broken: export it again")
        })?;
        let all = || self.ops.0.iter().flat_map(|op| op.onnx).filter(|i| i.domain == name && i.name == node.op_type);
        all().find(|i| (i.opsets.0..=i.opsets.1).contains(&version)).ok_or_else(|| {
            if all().next().is_some() {
                OpError::new(format!("version {version} of this operator is not supported"))
                    .help("convert the model to another opset with onnx.version_converter")
            } else {
                OpError::new("this operator is not supported")
                    .help("`onnxc ops` lists what is; rewrite this part of the model or bake it into constants")
            }
        })
    }

    /// Attributes by name, references to a function's attributes resolved.
    fn attributes(
        &self,
        node: &NodeProto,
        outer: &BTreeMap<String, AttributeProto>,
    ) -> Result<BTreeMap<String, AttributeProto>, OpError> {
        let mut all = BTreeMap::new();
        for attr in &node.attribute {
            let mut attr = attr.clone();
            if !attr.ref_attr_name.is_empty() {
                let Some(given) = outer.get(&attr.ref_attr_name) else { continue };
                attr = AttributeProto { name: attr.name, ..given.clone() };
            }
            let name = attr.name.clone();
            if all.insert(name.clone(), attr).is_some() {
                return Err(OpError::new(format!("attribute {name} is given twice")));
            }
        }
        Ok(all)
    }

    /// Converts attributes; bodies become graphs whose outer values are the returned captures.
    fn with_bodies(
        &mut self,
        attributes: &BTreeMap<String, AttributeProto>,
        opsets: &Opsets,
    ) -> Result<(Attrs, Vec<ValueId>), OpError> {
        let mut attrs = Attrs::default();
        let mut bodies: Vec<(String, Graph, usize, BTreeMap<ValueId, ValueId>)> = Vec::new();
        for (name, proto) in attributes {
            match attribute::convert(proto, &self.source).map_err(OpError::new)? {
                Some(attr) => {
                    attrs.0.insert(name.clone(), attr);
                }
                None => {
                    let frame = self.body(&proto.g, opsets)?;
                    let formal = frame.builder.graph.inputs.len() - frame.captures.len();
                    bodies.push((name.clone(), frame.builder.graph, formal, frame.captures));
                }
            }
        }
        let captured: BTreeSet<ValueId> = bodies.iter().flat_map(|(_, _, _, c)| c.keys().copied()).collect();
        for (name, mut graph, formal, captures) in bodies {
            graph.inputs.retain(|id| !captures.values().any(|c| c == id));
            debug_assert_eq!(graph.inputs.len(), formal);
            for outer in &captured {
                let id = captures.get(outer).copied().unwrap_or_else(|| {
                    let ty = self.frames.last().expect("internal: a frame is open").builder.graph.ty(*outer).clone();
                    graph.add_value("unused", ty, None)
                });
                graph.inputs.push(id);
            }
            graph.make_names_unique();
            attrs.0.insert(name, Attr::Graph(Box::new(graph)));
        }
        Ok((attrs, captured.into_iter().collect()))
    }

    /// Imports a body in a frame of its own.
    fn body(&mut self, proto: &GraphProto, opsets: &Opsets) -> Result<Frame<'a>, OpError> {
        self.enter()?;
        let limits = &self.options.limits;
        let fold_left = self.frame().builder.fold_left;
        let builder = Builder::new(&proto.name, self.ops, limits, fold_left);
        self.frames.push(Frame { builder, names: Names::new(), captures: BTreeMap::new() });
        self.inputs(proto);
        self.graph_body(proto, opsets);
        self.outputs(proto);
        self.depth -= 1;
        Ok(self.frames.pop().expect("internal: the body's frame"))
    }

    fn enter(&mut self) -> Result<(), OpError> {
        self.depth += 1;
        if self.depth > self.options.limits.depth {
            self.depth -= 1;
            return Err(OpError::new(format!("functions or bodies are nested deeper than {} levels", self.options.limits.depth))
                .help("a function that calls itself cannot be expanded"));
        }
        Ok(())
    }

    /// An `If` whose condition is known becomes the nodes of its branch.
    #[expect(clippy::type_complexity, reason = "results of a node")]
    fn constant_if(
        &mut self,
        node: &NodeProto,
        inputs: &[Option<ValueId>],
        opsets: &Opsets,
    ) -> Option<Result<Option<Vec<Option<ValueId>>>, OpError>> {
        let cond = inputs.first().copied().flatten()?;
        let value = self.frame().builder.graph.constant(cond)?.to_i64s()?.first().copied()? != 0;
        let wanted = if value { "then_branch" } else { "else_branch" };
        let proto = node.attribute.iter().find(|a| a.name == wanted && a.g.is_some())?;
        Some(self.inline(|this| {
            this.graph_body(&proto.g, opsets);
            proto.g.output.iter().map(|o| o.name.clone()).collect()
        }))
    }

    /// Expands a call of a function.
    #[expect(clippy::type_complexity, reason = "results of a node")]
    fn function(
        &mut self,
        function: &FunctionProto,
        inputs: &[Option<ValueId>],
        given: &BTreeMap<String, AttributeProto>,
    ) -> Result<Option<Vec<Option<ValueId>>>, OpError> {
        let mut attrs: BTreeMap<String, AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name.clone(), a.clone())).collect();
        attrs.extend(given.iter().map(|(k, v)| (k.clone(), v.clone())));
        let opsets: Opsets = function.opset_import.iter().map(|o| (domain(&o.domain).to_string(), o.version)).collect();
        if inputs.len() > function.input.len() {
            return Err(OpError::new(format!("is given {} inputs, the function takes {}", inputs.len(), function.input.len())));
        }
        // A function sees only its own inputs: the names of the caller are put aside.
        let names = std::mem::take(&mut self.frame().names);
        let result = self.inline(|this| {
            for (i, name) in function.input.iter().enumerate() {
                if let Some(id) = inputs.get(i).copied().flatten() {
                    this.frame().names.insert(name.clone(), Some(id));
                }
            }
            this.nodes(&function.node, &opsets, &attrs);
            function.output.clone()
        });
        self.frame().names = names;
        result
    }

    /// Runs `build` with names of its own on top of the present ones and returns what the names that it answers stand for.
    #[expect(clippy::type_complexity, reason = "results of a node")]
    fn inline(&mut self, build: impl FnOnce(&mut Self) -> Vec<String>) -> Result<Option<Vec<Option<ValueId>>>, OpError> {
        self.enter()?;
        let before = self.problems.len();
        let names = self.frame().names.clone();
        let outputs = build(self);
        let found: Vec<Option<Option<ValueId>>> = outputs.iter().map(|name| self.lookup(self.frames.len() - 1, name)).collect();
        self.frame().names = names;
        self.depth -= 1;
        if self.problems.len() > before || found.iter().any(|f| matches!(f, Some(None))) {
            return Ok(None);
        }
        if let Some(i) = found.iter().position(Option::is_none) {
            return Err(OpError::new(format!("output {:?} is defined nowhere in the body", outputs[i])));
        }
        Ok(Some(found.into_iter().map(Option::flatten).collect()))
    }

    /// A name in a frame or the frames around it; outer values become inputs of the body, outer constants are copied.
    fn lookup(&mut self, level: usize, name: &str) -> Option<Option<ValueId>> {
        if let Some(id) = self.frames[level].names.get(name) {
            return Some(*id);
        }
        let outer = self.lookup(level.checked_sub(1)?, name)?;
        let Some(outer) = outer else { return Some(None) };
        let (below, above) = self.frames.split_at_mut(level);
        let (outer_graph, frame) = (&below[level - 1].builder.graph, &mut above[0]);
        if let Some(tensor) = outer_graph.constant(outer) {
            let id = frame.builder.graph.add_const(name, tensor.clone());
            frame.names.insert(name.to_string(), Some(id));
            return Some(Some(id));
        }
        let id =
            *frame.captures.entry(outer).or_insert_with(|| frame.builder.graph.add_input(name, outer_graph.ty(outer).clone()));
        frame.names.insert(name.to_string(), Some(id));
        Some(Some(id))
    }

    fn outputs(&mut self, proto: &GraphProto) {
        if proto.output.is_empty() {
            self.problem(Problem::model("import::output", "the graph has no outputs"));
        }
        for info in &proto.output {
            match self.lookup(self.frames.len() - 1, &info.name) {
                Some(Some(id)) => {
                    self.check_output(info, id);
                    self.frame().builder.graph.outputs.push(id);
                }
                Some(None) => {}
                None => self.problem(Problem::model("import::output", format!("output {:?} is defined nowhere", info.name))),
            }
        }
    }

    /// Declared element types must be right; declared shapes are often stale and only a hint.
    fn check_output(&mut self, info: &ValueInfoProto, id: ValueId) {
        let ty = self.frame().builder.graph.ty(id).clone();
        if let Some(type_proto::Value::TensorType(t)) = info.type_.value.as_ref()
            && let Some(declared) = DType::from_onnx(t.elem_type)
            && declared != ty.dtype
        {
            let text = format!("output {:?} is declared as {declared}, but is computed as {}", info.name, ty.dtype);
            self.problem(Problem::model("import::output", text));
        }
    }

    fn unknown_options(&mut self, proto: &GraphProto) {
        let known: BTreeSet<&str> = proto.input.iter().map(|i| i.name.as_str()).collect();
        let list = || known.iter().copied().collect::<Vec<_>>().join(", ");
        for name in self.options.shapes.keys().chain(self.options.consts.keys()) {
            if !known.contains(name.as_str()) {
                let text = format!("the model has no input called {name:?}");
                self.problems.push(Problem::model("import::shape", text).help(format!("its inputs are: {}", list())));
            }
        }
    }
}

/// Newest version of ai.onnx whose operators are known.
pub const NEWEST_OPSET: i64 = 28;

/// The node's name, or its first output's.
fn label(node: &NodeProto) -> &str {
    if node.name.is_empty() { node.output.iter().find(|o| !o.is_empty()).map_or("", String::as_str) } else { &node.name }
}

/// Names that a node needs: its inputs and what its bodies take from outside.
fn needed(node: &NodeProto) -> Vec<String> {
    let mut names: Vec<String> = node.input.iter().filter(|i| !i.is_empty()).cloned().collect();
    for attr in &node.attribute {
        if let Some(body) = attr.g.as_ref() {
            free_names(body, &mut names);
        }
    }
    names
}

fn free_names(body: &GraphProto, out: &mut Vec<String>) {
    let mut inner = Vec::new();
    body.node.iter().for_each(|n| inner.extend(needed(n)));
    inner.extend(body.output.iter().map(|o| o.name.clone()));
    let mut own: BTreeSet<&str> = body.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
    own.extend(body.input.iter().map(|i| i.name.as_str()));
    own.extend(body.initializer.iter().map(|t| t.name.as_str()));
    out.extend(inner.into_iter().filter(|n| !own.contains(n.as_str())));
}

/// Drops constants that nothing uses (dead nodes stay: a pass removes them).
fn without_unused(mut graph: Graph) -> Graph {
    let mut used: Vec<bool> = vec![false; graph.values.len()];
    let operands = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten().chain(&n.outputs));
    operands.chain(&graph.inputs).chain(&graph.outputs).for_each(|id| used[id.0 as usize] = true);
    let mut map = vec![ValueId(0); used.len()];
    let mut values = Vec::new();
    for (i, value) in graph.values.into_iter().enumerate() {
        if used[i] {
            map[i] = ValueId(values.len() as u32);
            values.push(value);
        }
    }
    graph.values = values;
    let renumber = |id: &mut ValueId| *id = map[id.0 as usize];
    for node in &mut graph.nodes {
        node.inputs.iter_mut().flatten().for_each(renumber);
        node.outputs.iter_mut().for_each(renumber);
    }
    graph.inputs.iter_mut().for_each(renumber);
    graph.outputs.iter_mut().for_each(renumber);
    graph
}
