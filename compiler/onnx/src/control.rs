//! The constructs of the language: `Constant`, `If`, `Loop`, `Scan`.
//!
//! A body becomes a graph attribute. What it uses from outside becomes further inputs of the body and of the node (captures), after
//! their own. An `If` whose condition is a constant is replaced by its branch.

use onnx_protobuf::{GraphProto, NodeProto, attribute_proto::AttributeType};
use onnxc_ir::op::OpError;
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Tensor, TensorType, ValueId};
use rustc_hash::FxHashMap;

use crate::attribute;
use crate::builder::Builder;
use crate::import::Importer;
use crate::node::{Fault, Given, Results, coded, fault, named};
use crate::prune::prune;
use crate::scope::{Binding, Frame, Scope};
use crate::types;

const CODE: &str = "import::control";

/// Rounds in which the types of values that a loop carries may become more general.
const TYPE_ROUNDS: usize = 8;

/// A body: its graph without captures among the inputs, and the captures.
struct Body {
    graph: Graph,
    captures: Vec<(ValueId, ValueId)>,
}

fn body_of<'m>(attributes: &Given<'m>, name: &str) -> Result<&'m GraphProto, Fault> {
    let proto = attributes.get(name).and_then(|(a, _)| a.g.as_ref());
    proto.map_or_else(|| fault("import::attribute", format!("attribute {name} has no value")), Ok)
}

/// Refuses values that the body's inputs do not take.
fn check_inputs(proto: &GraphProto, formal: &[TensorType]) -> Result<(), Fault> {
    if proto.input.len() != formal.len() {
        return fault(CODE, format!("the body has {} inputs, {} values are given to it", proto.input.len(), formal.len()));
    }
    for (info, ty) in proto.input.iter().zip(formal) {
        match types::declared(info).map_err(OpError::new).map_err(coded(CODE))? {
            Some(d) if d.dtype != ty.dtype => {
                return fault(CODE, format!("input {:?} of the body is {}, it is given {ty}", info.name, d.dtype));
            }
            _ => {}
        }
    }
    Ok(())
}

fn ints<'m>(attributes: &Given<'m>, name: &str) -> Vec<i64> {
    attributes.get(name).map_or_else(Vec::new, |(a, _)| a.ints.clone())
}

impl<'m> Importer<'m> {
    /// The value is one of several attributes.
    pub fn constant(&mut self, node: &NodeProto, attributes: &Given<'m>) -> Results {
        const CODE: &str = "import::attribute";
        let mut all = attributes.iter();
        let (Some((name, (proto, kind))), None) = (all.next(), all.next()) else {
            return fault(CODE, format!("a constant has exactly one value attribute, this one has {}", attributes.len()));
        };
        let attr = attribute::convert(proto, *kind, &self.source).map_err(OpError::new).map_err(coded(CODE))?;
        let tensor = match attr {
            Attr::Tensor(t) => Some(t),
            Attr::Int(n) => Some(Tensor::scalar(n)),
            Attr::Float(x) => Some(Tensor::scalar(x)),
            Attr::Ints(v) => Some(Tensor::from_vec(&[v.len() as u64], v)),
            Attr::Floats(v) => Some(Tensor::from_vec(&[v.len() as u64], v)),
            Attr::Str(s) => Tensor::from_strings(&[], vec![s.into_bytes()]),
            Attr::Strs(v) => Tensor::from_strings(&[v.len() as u64], v.into_iter().map(String::into_bytes).collect()),
            _ => None,
        };
        let Some(tensor) = tensor else { return fault(CODE, format!("attribute {name} of kind {kind:?} is no constant")) };
        let origin = self.origin(node);
        Ok(Some(vec![self.add_const(&origin, tensor)]))
    }

    /// `If`: one branch where the condition is known, else both.
    pub fn if_node(&mut self, node: &'m NodeProto, inputs: &[Option<ValueId>], attributes: &Given<'m>) -> Results {
        let Some(cond) = inputs.first().copied().flatten() else { return fault("import::operands", "the condition is missing") };
        let ty = self.builder().graph.ty(cond).clone();
        if ty.dtype != DType::Bool {
            return fault("import::operands", format!("the condition must be bool, it is {ty}"));
        }
        let branches = [body_of(attributes, "then_branch")?, body_of(attributes, "else_branch")?];
        for (what, branch) in ["then_branch", "else_branch"].into_iter().zip(branches) {
            if !branch.input.is_empty() {
                return fault(CODE, format!("{what} has {} inputs, a branch takes none", branch.input.len()));
            }
            if branch.output.len() != node.output.len() {
                return fault(CODE, format!("{what} has {} outputs, the node {}", branch.output.len(), node.output.len()));
            }
        }
        let known = self.builder().graph.constant(cond).and_then(Tensor::to_i64s).and_then(|v| v.first().copied());
        if let Some(value) = known {
            return self.inline(branches[usize::from(value == 0)], &[]);
        }
        let (then, other) = (self.body(branches[0], &[])?, self.body(branches[1], &[])?);
        let (Some(then), Some(other)) = (then, other) else { return Ok(None) };
        for i in 0..node.output.len() {
            let (a, b) = (then.graph.ty(then.graph.outputs[i]), other.graph.ty(other.graph.outputs[i]));
            if a.dtype != b.dtype {
                return fault(CODE, format!("output {i} is {a} in then_branch, but {b} in else_branch"));
            }
        }
        let (bodies, captures) = self.close(vec![then, other]);
        let attrs =
            ["then", "else"].into_iter().zip(bodies).fold(Attrs::default(), |a, (n, g)| a.with(n, Attr::Graph(Box::new(g))));
        self.construct("if", node, vec![Some(cond)], captures, attrs)
    }

    /// Adds the node of a construct, its captures after its own operands.
    fn construct(
        &mut self,
        op: &str,
        node: &'m NodeProto,
        mut inputs: Vec<Option<ValueId>>,
        captures: Vec<ValueId>,
        attrs: Attrs,
    ) -> Results {
        inputs.extend(captures.into_iter().map(Some));
        let origin = self.origin(node);
        let Some(def) = self.ops.get(op) else {
            let error = OpError::new(format!("{} is not supported here", node.op_type));
            return Err(Fault { code: "import::unsupported", error: error.help("make its condition or trip count a constant") });
        };
        self.builder().add(def, &inputs, attrs, named(&node.output), &origin).map(Some).map_err(coded("import::operator"))
    }

    /// Builds a graph into the present one, on these values.
    pub fn inline(&mut self, proto: &'m GraphProto, inputs: &[ValueId]) -> Results {
        self.enter().map_err(coded(CODE))?;
        let types: Vec<TensorType> = inputs.iter().map(|id| self.builder().graph.ty(*id).clone()).collect();
        check_inputs(proto, &types)?;
        let outer = self.scopes.len() - 1;
        let s = self.scope();
        let (frame, opsets, attrs, path) = (s.frame, s.opsets.clone(), s.attrs.clone(), s.path.clone());
        let names = proto.input.iter().zip(inputs).map(|(info, id)| (info.name.as_str(), Binding::Value(*id))).collect();
        self.scopes.push(Scope { frame, outer: Some(outer), names, opsets, attrs, path });
        let results = self.body_nodes(proto);
        self.scopes.pop();
        Ok(results)
    }

    /// Builds what a body computes in the innermost scope; the values of its outputs.
    fn body_nodes(&mut self, proto: &'m GraphProto) -> Option<Vec<ValueId>> {
        if !self.graph_nodes(proto) {
            return None;
        }
        let outputs = proto.output.iter().map(|o| match self.lookup(&o.name) {
            Some(Binding::Value(id)) => Some(id),
            _ => None,
        });
        outputs.collect()
    }

    /// Builds a body whose inputs have these types into a graph of its own.
    fn body(&mut self, proto: &'m GraphProto, formal: &[TensorType]) -> Result<Option<Body>, Fault> {
        self.enter().map_err(coded(CODE))?;
        check_inputs(proto, formal)?;
        let (ops, limits) = (self.ops, &self.options.limits);
        let fold_left = self.builder().fold_left;
        let outer = self.scopes.len() - 1;
        let s = self.scope();
        let (opsets, attrs, path) = (s.opsets.clone(), s.attrs.clone(), s.path.clone());
        self.frames.push(Frame::new(Builder::new(&proto.name, ops, limits, fold_left)));
        let frame = self.frames.len() - 1;
        self.scopes.push(Scope { frame, outer: Some(outer), names: FxHashMap::default(), opsets, attrs, path });
        for (info, ty) in proto.input.iter().zip(formal) {
            let id = self.builder().graph.add_input(&info.name, ty.clone());
            self.scope().names.insert(&info.name, Binding::Value(id));
        }
        let outputs = self.body_nodes(proto);
        self.scopes.pop();
        let Frame { builder, captures, .. } = self.frames.pop().expect("internal: the body's frame");
        self.builder().fold_left = builder.fold_left;
        let mut graph = builder.graph;
        Ok(outputs.map(|outputs| {
            graph.outputs = outputs;
            Body { graph, captures }
        }))
    }

    /// Gives all bodies the same captures, as inputs after their own, and drops what they do not use.
    fn close(&mut self, bodies: Vec<Body>) -> (Vec<Graph>, Vec<ValueId>) {
        let mut outer: Vec<ValueId> = Vec::new();
        for (id, _) in bodies.iter().flat_map(|b| &b.captures) {
            if !outer.contains(id) {
                outer.push(*id);
            }
        }
        let mut graphs = Vec::new();
        for Body { mut graph, captures } in bodies {
            for id in &outer {
                let inside = captures.iter().find(|(o, _)| o == id).map(|(_, i)| *i);
                let input = inside.unwrap_or_else(|| {
                    let value = self.builder().graph.value(*id).clone();
                    graph.add_value(&value.name, value.ty, None)
                });
                graph.inputs.push(input);
            }
            graphs.push(prune(graph));
        }
        (graphs, outer)
    }

    /// `Loop`. Inputs of the node and of the body: trip count and condition (either may be absent), carried values, captures.
    pub fn loop_node(&mut self, node: &'m NodeProto, inputs: &[Option<ValueId>], attributes: &Given<'m>) -> Results {
        let proto = body_of(attributes, "body")?;
        let carried = inputs.get(2..).unwrap_or_default();
        let mut types = self.types_of(carried)?;
        let head = [TensorType::fixed(DType::I64, &[]), TensorType::fixed(DType::Bool, &[])];
        if proto.output.len() < types.len() + 1 {
            return fault(CODE, format!("the body has {} outputs, at least {} are needed", proto.output.len(), types.len() + 1));
        }
        let Some(body) = self.settled(node, proto, &mut types, |types| [&head, types].concat(), 1)? else { return Ok(None) };
        let cond = body.graph.ty(body.graph.outputs[0]);
        if cond.dtype != DType::Bool {
            return fault(CODE, format!("the body's condition must be bool, it is {cond}"));
        }
        let (mut bodies, captures) = self.close(vec![body]);
        let attrs = Attrs::default()
            .with("body", Attr::Graph(Box::new(bodies.swap_remove(0))))
            .with("carried", Attr::Int(carried.len() as i64))
            .with("name", Attr::Str(self.origin(node)));
        let mut operands = vec![inputs.first().copied().flatten(), inputs.get(1).copied().flatten()];
        operands.extend(carried);
        self.construct("loop", node, operands, captures, attrs)
    }

    /// `Scan`. Inputs of the node: states, scanned values, captures; of the body: states, one slice of each scanned value, captures.
    pub fn scan_node(&mut self, node: &'m NodeProto, inputs: &[Option<ValueId>], attributes: &Given<'m>) -> Results {
        let proto = body_of(attributes, "body")?;
        let n_scanned = attributes.get("num_scan_inputs").map_or(0, |(a, _)| a.i);
        let n_scanned = usize::try_from(n_scanned).ok().filter(|n| (1..=inputs.len()).contains(n));
        let Some(n_scanned) = n_scanned else { return fault("import::attribute", "num_scan_inputs is not a number of inputs") };
        let n_states = inputs.len() - n_scanned;
        let all = self.types_of(inputs)?;
        let axes = ints(attributes, "scan_input_axes");
        let mut slices = Vec::new();
        for (i, ty) in all[n_states..].iter().enumerate() {
            let axis = axes.get(i).copied().unwrap_or(0);
            let axis = if axis < 0 { axis.saturating_add(ty.rank() as i64) } else { axis };
            let Some(axis) = usize::try_from(axis).ok().filter(|a| *a < ty.rank()) else {
                return fault("import::attribute", format!("scan_input_axes: no axis {axis} in {ty}"));
            };
            let mut slice = ty.clone();
            slice.shape.remove(axis);
            slices.push(slice);
        }
        if proto.output.len() < n_states {
            return fault(CODE, format!("the body has {} outputs, at least {n_states} are needed", proto.output.len()));
        }
        let mut types = all[..n_states].to_vec();
        let Some(body) = self.settled(node, proto, &mut types, |states| [states, &slices].concat(), 0)? else { return Ok(None) };
        let (mut bodies, captures) = self.close(vec![body]);
        let mut attrs = Attrs::default()
            .with("body", Attr::Graph(Box::new(bodies.swap_remove(0))))
            .with("states", Attr::Int(n_states as i64))
            .with("num_scan_inputs", Attr::Int(n_scanned as i64))
            .with("name", Attr::Str(self.origin(node)));
        for (name, (proto, kind)) in attributes.iter().filter(|(_, (_, k))| *k == AttributeType::INTS) {
            let attr = attribute::convert(proto, *kind, &self.source).map_err(OpError::new);
            attrs.0.insert(name.to_string(), attr.map_err(coded("import::attribute"))?);
        }
        self.construct("scan", node, inputs.to_vec(), captures, attrs)
    }

    fn types_of(&mut self, ids: &[Option<ValueId>]) -> Result<Vec<TensorType>, Fault> {
        let graph = &self.builder().graph;
        let types: Option<Vec<TensorType>> = ids.iter().map(|id| Some(graph.ty((*id)?).clone())).collect();
        types.map_or_else(|| fault("import::operands", "an operand is missing"), Ok)
    }

    /// Builds a loop's body until the types of its carried values hold for every iteration: an extent that changes becomes unknown.
    /// `first` is the place of the first carried value among the body's outputs.
    fn settled(
        &mut self,
        node: &'m NodeProto,
        proto: &'m GraphProto,
        types: &mut [TensorType],
        formal: impl Fn(&[TensorType]) -> Vec<TensorType>,
        first: usize,
    ) -> Result<Option<Body>, Fault> {
        for _ in 0..TYPE_ROUNDS {
            let reported = self.report.clone();
            let Some(body) = self.body(proto, &formal(types))? else { return Ok(None) };
            let mut changed = false;
            for (i, ty) in types.iter_mut().enumerate() {
                let after = body.graph.ty(body.graph.outputs[first + i]).clone();
                if after.dtype != ty.dtype || after.rank() != ty.rank() {
                    return fault(CODE, format!("carried value {i} is {ty} before and {after} after an iteration"));
                }
                for d in 0..ty.rank() {
                    let same = after.shape[d] == ty.shape[d];
                    if !same && !matches!(&ty.shape[d], Dim::Sym(s) if s.starts_with('?')) {
                        ty.shape[d] = self.fresh_dim(&node.output[0]);
                        changed = true;
                    }
                }
            }
            if !changed {
                return Ok(Some(body));
            }
            self.report = reported;
        }
        fault(CODE, "the types of the carried values do not settle")
    }
}
