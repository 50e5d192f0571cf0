//! `Loop` over sequences or optionals: its body is built once for every iteration, so that each has lists of its own length.

use onnx_protobuf::NodeProto;
use onnxc_ir::list::Item;
use onnxc_ir::op::OpError;
use onnxc_ir::{Attr, Attrs, DType, Tensor, ValueId};

use crate::control::{CODE, body_of};
use crate::import::Importer;
use crate::node::{Fault, Given, Results, fault};

/// A remedy for what an iteration depends on.
const HELP: &str = "make it a constant; --const does so for an input of the model";

impl<'m> Importer<'m> {
    /// One body after the other, while trip count and condition, which must be constants, say so.
    pub fn unrolled(&mut self, node: &'m NodeProto, inputs: &[Option<Item>], attributes: &Given<'m>) -> Results {
        let proto = body_of(attributes, "body")?;
        let trips = self.known(inputs.first(), DType::I64, "the trip count")?;
        let mut goes_on = self.known(inputs.get(1), DType::Bool, "the condition")?.is_none_or(|c| c != 0);
        let mut carried = inputs.get(2..).unwrap_or_default().to_vec();
        if proto.output.len() < carried.len() + 1 {
            return fault(
                CODE,
                format!("the body has {} outputs, at least {} are needed", proto.output.len(), carried.len() + 1),
            );
        }
        let mut scans: Vec<Vec<ValueId>> = vec![Vec::new(); proto.output.len() - 1 - carried.len()];
        let limit = self.options.limits.sequence;
        let mut n = 0i64;
        while goes_on && trips.is_none_or(|t| n < t) {
            if n as usize >= limit {
                let error = OpError::new(format!("a loop over sequences runs more than {limit} times, which is the limit"));
                return Err(Fault { code: "import::limit", error: error.help("raise it with --limit sequence=N") });
            }
            self.again(proto)?;
            let head = [Tensor::scalar(n), Tensor::scalar(true)].map(|t| Some(Item::Tensor(self.add_const("iteration", t))));
            let given = [&head[..], &carried].concat();
            let Some(results) = self.inline(proto, &given)? else { return Ok(None) };
            goes_on = self.known(results.first(), DType::Bool, "the condition after an iteration")?.is_none_or(|c| c != 0);
            let (next, kept) = results[1..].split_at(carried.len());
            for (i, (all, item)) in scans.iter_mut().zip(kept).enumerate() {
                let Some(Item::Tensor(id)) = item else {
                    let reason =
                        format!("output {} of the body is no tensor, its values cannot be stacked", i + 1 + carried.len());
                    return fault(CODE, reason);
                };
                all.push(*id);
            }
            carried = next.to_vec();
            n += 1;
        }
        for values in scans {
            carried.push(Some(Item::Tensor(self.stacked(node, &values)?)));
        }
        Ok(Some(carried))
    }

    /// The value of an operand that must be a constant scalar; `None` when it is absent.
    fn known(&mut self, operand: Option<&Option<Item>>, dtype: DType, what: &str) -> Result<Option<i64>, Fault> {
        let Some(Some(item)) = operand else { return Ok(None) };
        let Item::Tensor(id) = item else { return fault("import::operands", format!("{what} is a sequence")) };
        let graph = &self.builder().graph;
        let ty = graph.ty(*id);
        if ty.dtype != dtype {
            return fault("import::operands", format!("{what} must be {dtype}, it is {ty}"));
        }
        let first = graph.constant(*id).and_then(Tensor::to_i64s).and_then(|v| v.first().copied());
        first.map(Some).ok_or_else(|| {
            let reason =
                format!("{what} is not known when compiling: not supported for a loop that carries sequences or optionals");
            Fault { code: CODE, error: OpError::new(reason).help(HELP) }
        })
    }

    /// Values of all iterations in one tensor.
    pub fn stacked(&mut self, node: &NodeProto, values: &[ValueId]) -> Result<ValueId, Fault> {
        if values.is_empty() {
            return fault(CODE, "there is no iteration: nothing tells the type of the values that would be stacked");
        }
        let axis = self.add_const("axis", Tensor::from_vec(&[1], vec![0i64]));
        let rows: Result<Vec<ValueId>, Fault> =
            values.iter().map(|id| self.helper(node, "unsqueeze", &[*id, axis], Attrs::default())).collect();
        self.helper(node, "concat", &rows?, Attrs::default().with("axis", Attr::Int(0)))
    }
}
