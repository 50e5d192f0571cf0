//! `Scan` is a loop that takes the slices of its operands itself.

use onnx_protobuf::NodeProto;
use onnxc_ir::list::Item;
use onnxc_ir::op::OpError;
use onnxc_ir::{Attr, Attrs, DType, Dim, Graph, Tensor, TensorType, ValueId};

use crate::carried::{self, Settled};
use crate::control::{CODE, body_of};
use crate::import::Importer;
use crate::items::{items, tensors};
use crate::node::{Fault, Given, Results, fault, named};
use crate::prune::prune;

fn ints<'m>(attributes: &Given<'m>, name: &str) -> Vec<i64> {
    attributes.get(name).map_or_else(Vec::new, |(a, _)| a.ints.clone())
}

/// An axis of a tensor of this rank.
fn place(axis: i64, rank: usize, attribute: &str) -> Result<usize, Fault> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    let at = usize::try_from(at).ok().filter(|a| *a < rank);
    at.map_or_else(|| fault("import::attribute", format!("{attribute}: no axis {axis} in a tensor of rank {rank}")), Ok)
}

/// The dimensions along which values are scanned and stacked, and in which direction (1 is backwards); 0 where the lists end.
struct Ways {
    from: Vec<i64>,
    read: Vec<i64>,
    to: Vec<i64>,
    written: Vec<i64>,
}

/// How many of the inputs are scanned.
fn count(attributes: &Given, inputs: usize) -> Result<usize, Fault> {
    let n = attributes.get("num_scan_inputs").map_or(0, |(a, _)| a.i);
    let n = usize::try_from(n).ok().filter(|n| (1..=inputs).contains(n));
    n.map_or_else(|| fault("import::attribute", "num_scan_inputs is not a number of inputs"), Ok)
}

impl<'m> Importer<'m> {
    /// `Scan`. Inputs of the node: states, scanned values; of the body: states, one slice of each scanned value.
    pub fn scan_node(&mut self, node: &'m NodeProto, inputs: &[Option<Item>], attributes: &Given<'m>) -> Results {
        let ways = Ways {
            from: ints(attributes, "scan_input_axes"),
            read: ints(attributes, "scan_input_directions"),
            to: ints(attributes, "scan_output_axes"),
            written: ints(attributes, "scan_output_directions"),
        };
        Ok(self.scan(node, &tensors(inputs)?, attributes, &ways)?.map(items))
    }

    /// `Scan` of operator set 8: lengths of the sequences in front, which must be absent, and a batch as first dimension of everything, for each of
    /// which there is a scan.
    pub fn batched_scan_node(&mut self, node: &'m NodeProto, inputs: &[Option<Item>], attributes: &Given<'m>) -> Results {
        let Some((None, inputs)) = inputs.split_first() else {
            let error = OpError::new("input 0 (lengths of the sequences) is not supported");
            return Err(Fault { code: "import::unsupported", error: error.help("leave it out and scan whole sequences") });
        };
        let inputs = tensors(inputs)?;
        let mut batch = None;
        for (i, ty) in self.types_of(&inputs)?.iter().enumerate() {
            match ty.shape.first().and_then(Dim::as_const) {
                Some(n) if batch.is_none_or(|b| b == n) => batch = Some(n),
                _ => {
                    return fault(
                        CODE,
                        format!("input {} is {ty}: its first dimension is no batch like that of the others", i + 1),
                    );
                }
            }
        }
        let ways = Ways { from: vec![], read: ints(attributes, "directions"), to: vec![], written: vec![] };
        let mut columns: Vec<Vec<ValueId>> = vec![Vec::new(); named(&node.output)];
        for b in 0..batch.unwrap_or(0) {
            self.again(body_of(attributes, "body")?)?;
            let at = self.add_const("sequence", Tensor::scalar(b as i64));
            let along = || Attrs::default().with("axis", Attr::Int(0));
            let own: Result<Vec<_>, Fault> =
                inputs.iter().flatten().map(|id| self.helper(node, "gather", &[*id, at], along()).map(Some)).collect();
            let Some(results) = self.scan(node, &own?, attributes, &ways)? else { return Ok(None) };
            columns.truncate(results.len());
            columns.iter_mut().zip(results).for_each(|(column, id)| column.push(id));
        }
        let stacked: Result<Vec<ValueId>, Fault> = columns.iter().map(|values| self.stacked(node, values)).collect();
        Ok(Some(items(stacked?)))
    }

    /// Becomes a loop that captures the scanned values and takes the slices itself.
    fn scan(
        &mut self,
        node: &'m NodeProto,
        inputs: &[Option<ValueId>],
        attributes: &Given<'m>,
        ways: &Ways,
    ) -> Result<Option<Vec<ValueId>>, Fault> {
        let proto = body_of(attributes, "body")?;
        let n_states = inputs.len() - count(attributes, inputs.len())?;
        let all = self.types_of(inputs)?;
        let (mut slices, mut scanned, mut length) = (Vec::new(), Vec::new(), None);
        for (i, ty) in all[n_states..].iter().enumerate() {
            let axis = place(ways.from.get(i).copied().unwrap_or(0), ty.rank(), "scan_input_axes")?;
            let mut slice = ty.clone();
            let n = slice.shape.remove(axis).as_const();
            let n =
                n.map_or_else(|| fault(CODE, format!("the length of {ty} along axis {axis} is not known when compiling")), Ok)?;
            if length.is_some_and(|l| l != n) {
                return fault(CODE, format!("scanned value {i} has {n} slices, another one has a different number"));
            }
            length = Some(n);
            slices.push(slice);
            scanned.push((axis, ways.read.get(i) == Some(&1)));
        }
        let length = length.unwrap_or(0) as i64;
        if proto.output.len() < n_states {
            return fault(CODE, format!("the body has {} outputs, at least {n_states} are needed", proto.output.len()));
        }
        let mut types = all[..n_states].to_vec();
        let formal = |states: &[TensorType]| [states, &slices].concat();
        let frame = carried::Frame { formal, first: 0, trips: u64::try_from(length).ok(), node };
        let Some(Settled { body, sizes }) = self.settled(&frame, proto, &mut types)? else { return Ok(None) };
        if length == 0 {
            return self.nothing_scanned(node, &inputs[..n_states], &body.graph);
        }
        let (mut bodies, mut captures) = self.close(vec![body]);
        let mut body = bodies.swap_remove(0);
        self.take_slices(node, &mut body, n_states, &all[n_states..], &scanned, length)?;
        let body = prune(body);
        captures.extend(inputs[n_states..].iter().flatten());
        let trips = self.add_const("iterations", Tensor::scalar(length));
        let mut operands = vec![Some(trips), None];
        operands.extend(&inputs[..n_states]);
        let attrs = Attrs::default()
            .with("body", Attr::Graph(Box::new(body)))
            .with("carried", Attr::Int(n_states as i64))
            .with("extent", Attr::Int(length));
        let attrs = if sizes.is_empty() { attrs } else { attrs.with("sizes", Attr::Strs(sizes)) };
        let mut results = self.construct("loop", node, operands, captures, attrs, named(&node.output))?;
        results.pop();
        for (i, id) in results[n_states..].iter_mut().enumerate() {
            *id = self.arranged(node, *id, ways.to.get(i).copied().unwrap_or(0), ways.written.get(i) == Some(&1))?;
        }
        Ok(Some(results))
    }

    /// A scan of values without slices: the states as they are, and no values of iterations.
    fn nothing_scanned(
        &mut self,
        node: &NodeProto,
        states: &[Option<ValueId>],
        body: &Graph,
    ) -> Result<Option<Vec<ValueId>>, Fault> {
        let mut results: Vec<ValueId> = states.iter().flatten().copied().collect();
        for id in &body.outputs[states.len()..] {
            let ty = body.ty(*id);
            let shape: Option<Vec<u64>> = ty.const_shape().map(|s| [&[0], &s[..]].concat());
            let Some(empty) = shape.and_then(|s| Tensor::zeros(ty.dtype, &s)) else {
                return fault(CODE, format!("the scanned values have no slices, and an output would have slices of {ty}"));
            };
            let origin = self.origin(node);
            results.push(self.add_const(&origin, empty));
        }
        Ok(Some(results))
    }

    /// Turns the body of a scan into that of a loop: the number of the iteration and a condition in front, slices taken from captured values.
    fn take_slices(
        &mut self,
        node: &NodeProto,
        body: &mut Graph,
        n_states: usize,
        whole: &[TensorType],
        scanned: &[(usize, bool)],
        length: i64,
    ) -> Result<(), Fault> {
        let missing =
            || Fault { code: "import::unsupported", error: OpError::new("onnxc has no operator \"gather\" or \"sub\"") };
        let (gather, sub) = (self.ops.get("gather").ok_or_else(missing)?, self.ops.get("sub").ok_or_else(missing)?);
        let origins = vec![self.origin(node)];
        let scalar = TensorType::fixed(DType::I64, &[]);
        let number = body.add_value("iteration", scalar.clone(), None);
        let mut nodes = Vec::new();
        let mut at = number;
        if scanned.iter().any(|(_, backwards)| *backwards) {
            let last = body.add_const("last", Tensor::scalar(length - 1));
            at = body.add_value("from_behind", scalar, None);
            let inputs = vec![Some(last), Some(number)];
            nodes.push(onnxc_ir::Node { op: sub, inputs, outputs: vec![at], attrs: Attrs::default(), origins: origins.clone() });
        }
        let slices: Vec<ValueId> = body.inputs.drain(n_states..n_states + whole.len()).collect();
        for ((slice, ty), (axis, backwards)) in slices.iter().zip(whole).zip(scanned) {
            let all = body.add_value("scanned", ty.clone(), None);
            body.inputs.push(all);
            let inputs = vec![Some(all), Some(if *backwards { at } else { number })];
            let attrs = Attrs::default().with("axis", Attr::Int(*axis as i64));
            nodes.push(onnxc_ir::Node { op: gather, inputs, outputs: vec![*slice], attrs, origins: origins.clone() });
        }
        nodes.append(&mut body.nodes);
        body.nodes = nodes;
        let cond = body.add_value("go_on", TensorType::fixed(DType::Bool, &[]), None);
        body.inputs.splice(0..0, [number, cond]);
        let truth = body.add_const("true", Tensor::scalar(true));
        body.outputs.insert(0, truth);
        Ok(())
    }

    /// The values of all iterations with their dimension in another place or in the other direction.
    fn arranged(&mut self, node: &NodeProto, id: ValueId, axis: i64, backwards: bool) -> Result<ValueId, Fault> {
        let ty = self.builder().graph.ty(id).clone();
        let axis = place(axis, ty.rank(), "scan_output_axes")?;
        let mut id = id;
        if backwards {
            let bounds = [-1, i64::MIN, 0, -1].map(|v| self.add_const("bound", Tensor::from_vec(&[1], vec![v])));
            id = self.helper(node, "slice", &[&[id], &bounds[..]].concat(), Attrs::default())?;
        }
        if axis > 0 {
            let mut perm: Vec<i64> = (1..ty.rank() as i64).collect();
            perm.insert(axis, 0);
            id = self.helper(node, "transpose", &[id], Attrs::default().with("perm", Attr::Ints(perm)))?;
        }
        Ok(id)
    }
}
