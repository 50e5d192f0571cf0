//! The constructs of the language: `Constant`, `If`, `Loop`, and the bodies that `Scan` has too.
//!
//! A body becomes a graph attribute. What it uses from outside becomes further inputs of the body and of the node (captures), after
//! their own. An `If` whose condition is a constant is replaced by its branch.

use onnx_protobuf::{GraphProto, NodeProto};
use onnxc_ir::list::Item;
use onnxc_ir::op::OpError;
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Tensor, TensorType, ValueId};
use rustc_hash::FxHashMap;

use crate::attribute;
use crate::builder::Builder;
use crate::carried::{self, Settled};
use crate::import::Importer;
use crate::items::{Form, binding, flatten, items, regroup, tensors};
use crate::node::{Fault, Given, Results, coded, fault, named};
use crate::prune::prune;
use crate::scope::{Binding, Frame, Scope};
use crate::types;

/// Code of what is wrong with a construct.
pub const CODE: &str = "import::control";

/// How the number of iterations is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It is a constant.
    Certainly,
    /// The model declares it, and data has to agree.
    Declared,
    /// It is at most this, and data decides.
    Bounded,
}

/// A body: its graph without captures among the inputs, what its outputs consist of, and the captures.
pub struct Body {
    pub graph: Graph,
    pub forms: Vec<Form>,
    pub captures: Vec<(ValueId, ValueId)>,
}

pub fn body_of<'m>(attributes: &Given<'m>, name: &str) -> Result<&'m GraphProto, Fault> {
    let proto = attributes.get(name).and_then(|(a, _)| a.g.as_ref());
    proto.map_or_else(|| fault("import::attribute", format!("attribute {name} has no value")), Ok)
}

/// Refuses values that the body's inputs do not take.
fn check_inputs(proto: &GraphProto, formal: &[Formal]) -> Result<(), Fault> {
    if proto.input.len() != formal.len() {
        return fault(CODE, format!("the body has {} inputs, {} values are given to it", proto.input.len(), formal.len()));
    }
    for (info, formal) in proto.input.iter().zip(formal) {
        let Some(d) = types::declared(info).map_err(OpError::new).map_err(coded(CODE))? else { continue };
        let given = match formal {
            Formal::Tensor(ty) if d.sequence => format!("{ty}"),
            Formal::Tensor(ty) if d.dtype == ty.dtype => continue,
            Formal::Tensor(ty) => format!("{ty}"),
            Formal::List(dtype) if d.sequence && d.dtype == *dtype => continue,
            Formal::List(dtype) => format!("a sequence of {dtype}"),
            Formal::Empty if d.optional => continue,
            Formal::Empty => "an empty optional".to_string(),
        };
        return fault(CODE, format!("input {:?} of the body is {} of {}, it is given {given}", info.name, d.kind(), d.dtype));
    }
    Ok(())
}

/// What is given to an input of a body.
enum Formal {
    Tensor(TensorType),
    List(DType),
    Empty,
}

impl Formal {
    fn of(item: &Option<Item>, graph: &Graph) -> Formal {
        match item {
            Some(Item::Tensor(id)) => Formal::Tensor(graph.ty(*id).clone()),
            Some(Item::List(list)) => Formal::List(list.dtype),
            None => Formal::Empty,
        }
    }
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
        Ok(Some(items(vec![self.add_const(&origin, tensor)])))
    }

    /// `If`: one branch where the condition is known, else both.
    pub fn if_node(&mut self, node: &'m NodeProto, inputs: &[Option<Item>], attributes: &Given<'m>) -> Results {
        let inputs = tensors(inputs)?;
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
        if let Some((i, (a, b))) = then.forms.iter().zip(&other.forms).enumerate().find(|(_, (a, b))| a != b) {
            let reason = format!(
                "output {i} is {a} in then_branch, but {b} in else_branch: not supported for a condition that only the run knows"
            );
            let error = OpError::new(reason);
            let error = error.help("make the condition a constant; --const does so for an input of the model");
            return Err(Fault { code: CODE, error });
        }
        for (i, (a, b)) in then.graph.outputs.iter().zip(&other.graph.outputs).enumerate() {
            let (a, b) = (then.graph.ty(*a), other.graph.ty(*b));
            if a.dtype != b.dtype {
                return fault(CODE, format!("output {i} is {a} in then_branch, but {b} in else_branch"));
            }
        }
        let forms = then.forms[..named(&node.output)].to_vec();
        let extents = self.extents_of_branches(node, &then.graph, &other.graph);
        let (bodies, captures) = self.close(vec![then, other]);
        let attrs =
            ["then", "else"].into_iter().zip(bodies).fold(Attrs::default(), |a, (n, g)| a.with(n, Attr::Graph(Box::new(g))));
        let attrs = match extents {
            Some(extents) => attrs.with("extents", Attr::Dims(extents)),
            None => attrs,
        };
        let count = forms.iter().map(|f| f.tensors()).sum();
        let results = self.construct("if", node, vec![Some(cond)], captures, attrs, count)?;
        Ok(Some(regroup(&forms, &results)))
    }

    /// The extents of all results of an `If`: a symbol for each that is not the same in both branches. `None` when all are the same. Of an extent that
    /// nobody knows and a number it is hoped that they are the same.
    fn extents_of_branches(&mut self, node: &NodeProto, then: &Graph, other: &Graph) -> Option<Vec<Dim>> {
        let (mut extents, mut symbols) = (Vec::new(), 0);
        for (i, (a, b)) in then.outputs.iter().zip(&other.outputs).enumerate() {
            let (a, b) = (then.ty(*a), other.ty(*b));
            if a.rank() != b.rank() {
                return None;
            }
            for (d, (x, y)) in a.shape.iter().zip(&b.shape).enumerate() {
                if x == y {
                    extents.push(x.clone());
                    continue;
                }
                let stated = node.output.get(i).and_then(|name| self.options.bounds.get(name)?.get(d).copied());
                // Branches write their results where they belong: there has to be room for the larger ones, whatever is stated.
                let most = match (self.largest(x), self.largest(y)) {
                    (Some(m), Some(n)) => Some(m.max(n)),
                    (Some(n), None) | (None, Some(n)) if x == &Dim::Const(n) || y == &Dim::Const(n) => {
                        extents.push(Dim::Const(n));
                        continue;
                    }
                    _ => stated,
                };
                let output = node.output.get(i).filter(|name| !name.is_empty()).unwrap_or(&node.output[0]);
                let symbol = self.counted(output, d, most);
                extents.push(Dim::sym(&symbol));
                symbols += 1;
            }
        }
        (symbols > 0).then_some(extents)
    }

    /// Adds the node of a construct, its captures after its own operands.
    pub fn construct(
        &mut self,
        op: &str,
        node: &'m NodeProto,
        mut inputs: Vec<Option<ValueId>>,
        captures: Vec<ValueId>,
        attrs: Attrs,
        n_outputs: usize,
    ) -> Result<Vec<ValueId>, Fault> {
        inputs.extend(captures.into_iter().map(Some));
        let origin = self.origin(node);
        let Some(def) = self.ops.get(op) else {
            let error = OpError::new(format!("{} is not supported here", node.op_type));
            return Err(Fault { code: "import::unsupported", error: error.help("make its condition or trip count a constant") });
        };
        self.builder().add(def, &inputs, attrs, n_outputs, &origin).map_err(coded("import::operator"))
    }

    /// Builds a graph into the present one, on these values.
    pub fn inline(&mut self, proto: &'m GraphProto, inputs: &[Option<Item>]) -> Results {
        self.enter().map_err(coded(CODE))?;
        let graph = &self.builder().graph;
        let formal: Vec<Formal> = inputs.iter().map(|item| Formal::of(item, graph)).collect();
        check_inputs(proto, &formal)?;
        let outer = self.scopes.len() - 1;
        let s = self.scope();
        let (frame, opsets, attrs, path) = (s.frame, s.opsets.clone(), s.attrs.clone(), s.path.clone());
        let names = proto.input.iter().zip(inputs).map(|(info, item)| (info.name.as_str(), binding(item.clone()))).collect();
        self.scopes.push(Scope { frame, outer: Some(outer), names, opsets, attrs, path, declared: FxHashMap::default() });
        let results = self.body_nodes(proto);
        self.scopes.pop();
        Ok(results)
    }

    /// Builds what a body computes in the innermost scope; the values of its outputs.
    fn body_nodes(&mut self, proto: &'m GraphProto) -> Option<Vec<Option<Item>>> {
        if !self.graph_nodes(proto) {
            return None;
        }
        proto.output.iter().map(|o| self.item(&o.name)).collect()
    }

    /// Builds a body whose inputs have these types into a graph of its own.
    pub fn body(&mut self, proto: &'m GraphProto, formal: &[TensorType]) -> Result<Option<Body>, Fault> {
        self.enter().map_err(coded(CODE))?;
        let all: Vec<Formal> = formal.iter().cloned().map(Formal::Tensor).collect();
        check_inputs(proto, &all)?;
        let (ops, limits) = (self.ops, &self.options.limits);
        let fold_left = self.builder().fold_left;
        let outer = self.scopes.len() - 1;
        let s = self.scope();
        let (opsets, attrs, path) = (s.opsets.clone(), s.attrs.clone(), s.path.clone());
        self.frames.push(Frame::new(Builder::new(&proto.name, ops, limits, fold_left)));
        let frame = self.frames.len() - 1;
        self.scopes.push(Scope {
            frame,
            outer: Some(outer),
            names: FxHashMap::default(),
            opsets,
            attrs,
            path,
            declared: FxHashMap::default(),
        });
        for (info, ty) in proto.input.iter().zip(formal) {
            let id = self.builder().graph.add_input(&info.name, ty.clone());
            self.scope().names.insert(&info.name, Binding::Value(id));
        }
        let outputs = self.body_nodes(proto);
        self.scopes.pop();
        let Frame { builder, captures, .. } = self.frames.pop().expect("internal: the body's frame");
        self.builder().fold_left = builder.fold_left;
        let mut graph = builder.graph;
        let Some(outputs) = outputs else { return Ok(None) };
        let forms = outputs.iter().map(Form::of).collect();
        graph.outputs = flatten(&outputs).map_err(coded(CODE))?;
        Ok(Some(Body { graph, forms, captures }))
    }

    /// Gives all bodies the same captures, as inputs after their own, and drops what they do not use.
    pub fn close(&mut self, bodies: Vec<Body>) -> (Vec<Graph>, Vec<ValueId>) {
        let mut outer: Vec<ValueId> = Vec::new();
        for (id, _) in bodies.iter().flat_map(|b| &b.captures) {
            if !outer.contains(id) {
                outer.push(*id);
            }
        }
        let mut graphs = Vec::new();
        for Body { mut graph, captures, .. } in bodies {
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
    pub fn loop_node(&mut self, node: &'m NodeProto, inputs: &[Option<Item>], attributes: &Given<'m>) -> Results {
        if !inputs.iter().skip(2).all(|i| matches!(i, Some(Item::Tensor(_)))) {
            return self.unrolled(node, inputs, attributes);
        }
        let inputs = &tensors(inputs)?[..];
        let proto = body_of(attributes, "body")?;
        let carried = inputs.get(2..).unwrap_or_default();
        let mut types = self.types_of(carried)?;
        let head = [TensorType::fixed(DType::I64, &[]), TensorType::fixed(DType::Bool, &[])];
        if proto.output.len() < types.len() + 1 {
            return fault(CODE, format!("the body has {} outputs, at least {} are needed", proto.output.len(), types.len() + 1));
        }
        let trips = inputs.first().copied().flatten().and_then(|id| self.most_trips(id));
        let frame = carried::Frame { formal: |types: &[TensorType]| [&head, types].concat(), first: 1, trips, node };
        let Some(Settled { body, sizes }) = self.settled(&frame, proto, &mut types)? else { return Ok(None) };
        let cond = body.graph.ty(body.graph.outputs[0]);
        if cond.dtype != DType::Bool {
            return fault(CODE, format!("the body's condition must be bool, it is {cond}"));
        }
        let scans = body.graph.outputs.len() - 1 - carried.len();
        let (mut bodies, captures) = self.close(vec![body]);
        let body = bodies.swap_remove(0);
        let mut operands = vec![inputs.first().copied().flatten(), inputs.get(1).copied().flatten()];
        let extent = if scans > 0 { Some(self.iterations(node, &body, &operands, carried.len())?) } else { None };
        let mut attrs =
            Attrs::default().with("body", Attr::Graph(Box::new(body))).with("carried", Attr::Int(carried.len() as i64));
        if !sizes.is_empty() {
            attrs = attrs.with("sizes", Attr::Strs(sizes));
        }
        if let Some((n, known)) = extent {
            attrs = attrs.with("extent", Attr::Int(n));
            if known != Known::Certainly {
                operands[0] = Some(self.at_most(node, operands[0], n.saturating_add(1))?);
            }
        }
        operands.extend(carried);
        let mut results = self.construct("loop", node, operands, captures, attrs, named(&node.output))?;
        let count = results.pop().expect("internal: a loop counts its iterations");
        if let Some((n, Known::Bounded)) = extent {
            let output = node.output.iter().skip(carried.len()).find(|name| !name.is_empty()).cloned().unwrap_or_default();
            let symbol = self.counted(&output, 0, u64::try_from(n).ok());
            for id in &mut results[carried.len()..] {
                let attrs = Attrs::default().with("axis", Attr::Int(0)).with("bound", Attr::Int(n));
                *id = self.helper(node, "prefix", &[*id, count], attrs.with("count", Attr::Str(symbol.clone())))?;
            }
        }
        if let Some((n, Known::Declared)) = extent {
            let wanted = self.add_const("iterations", Tensor::scalar(n));
            let right = self.helper(node, "equal", &[count, wanted], Attrs::default())?;
            for id in &mut results[carried.len()..] {
                *id = self.helper(node, "require", &[*id, right], Attrs::default())?;
            }
        }
        Ok(Some(items(results)))
    }

    /// The most iterations that an operand allows, if that is known.
    fn most_trips(&mut self, trips: ValueId) -> Option<u64> {
        let dims = self.builder().value_dims(trips)?;
        dims.first().filter(|n| !n.is_rest()).and_then(|n| self.largest(n))
    }

    /// How often a loop runs whose values are kept.
    fn iterations(
        &mut self,
        node: &'m NodeProto,
        body: &Graph,
        operands: &[Option<ValueId>],
        carried: usize,
    ) -> Result<(i64, Known), Fault> {
        let graph = &self.builder().graph;
        let first = |t: &Tensor| t.to_i64s().and_then(|v| v.first().copied());
        let trips = operands[0].and_then(|id| graph.constant(id)).and_then(first);
        let starts = operands[1].is_none_or(|id| graph.constant(id).and_then(first) == Some(1));
        let (source, given) = (body.outputs[0], body.inputs[1]);
        let copy = |n: &onnxc_ir::Node| n.op.name == "identity" && n.outputs[0] == source && n.inputs[0] == Some(given);
        let stays = source == given || body.constant(source).and_then(first) == Some(1) || body.nodes.iter().any(copy);
        if let (Some(n), true, true) = (trips, starts, stays) {
            return Ok((n.max(0), Known::Certainly));
        }
        let names = || node.output.iter().skip(carried);
        let bound = names().filter_map(|name| self.options.bounds.get(name)?.first().copied()).min();
        if let Some(n) = bound.and_then(|n| i64::try_from(n).ok()) {
            return Ok((n, Known::Bounded));
        }
        let declared = names().find_map(|name| {
            let shape = self.scope().declared.get(name.as_str())?;
            shape.first().and_then(|n| i64::try_from(*n).ok())
        });
        if let Some(n) = declared {
            return Ok((n, Known::Declared));
        }
        // Exporters write the largest integer where a condition alone ends the loop.
        let most = operands[0].and_then(|id| self.most_trips(id)).filter(|n| *n < carried::MOST);
        if let Some(n) = most.and_then(|n| i64::try_from(n).ok()) {
            return Ok((n, Known::Bounded));
        }
        let error =
            OpError::new("the number of iterations is not known when compiling, and the values of all of them are an output");
        let named = names().find(|name| !name.is_empty()).map_or("OUTPUT", String::as_str);
        let help = format!(
            "state the largest with --bound {named}=DIMS, make the trip count a constant and the condition true, or declare the shape of the output"
        );
        Err(Fault { code: "import::operator", error: error.help(help) })
    }

    /// A trip count that is not above `limit`.
    fn at_most(&mut self, node: &NodeProto, trips: Option<ValueId>, limit: i64) -> Result<ValueId, Fault> {
        let limit = self.add_const("limit", Tensor::scalar(limit));
        trips.map_or(Ok(limit), |trips| self.helper(node, "min", &[trips, limit], Attrs::default()))
    }

    /// Adds a node with one result beside the ONNX node's own.
    pub fn helper(&mut self, node: &NodeProto, op: &str, inputs: &[ValueId], attrs: Attrs) -> Result<ValueId, Fault> {
        let origin = self.origin(node);
        let missing = || Fault { code: "import::unsupported", error: OpError::new(format!("onnxc has no operator {op:?}")) };
        let def = self.ops.get(op).ok_or_else(missing)?;
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let added = self.builder().add(def, &inputs, attrs, 1, &origin).map_err(coded("import::operator"))?;
        Ok(added[0])
    }

    pub fn types_of(&mut self, ids: &[Option<ValueId>]) -> Result<Vec<TensorType>, Fault> {
        let graph = &self.builder().graph;
        let types: Option<Vec<TensorType>> = ids.iter().map(|id| Some(graph.ty((*id)?).clone())).collect();
        types.map_or_else(|| fault("import::operands", "an operand is missing"), Ok)
    }
}
