//! Outputs that may have the buffer of an input: a cache that comes back with a row more.
//!
//! Such an input is read from the output's buffer by everything but one step in the beginning, which brings it there; the entry leaves that step out
//! when the caller gives one buffer for both. The node that computes the output writes over the input if nobody reads it afterwards. Otherwise the
//! output is computed elsewhere and copied when all is done.

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::Lower;
use onnxc_ir::{Attrs, ValueId};

use super::nodes::step_name;
use super::storage::{Region, Storage};
use super::{Draft, PlanError, Planner, regions_of};

/// Operators whose code leaves the first operand where it is when the result has its place.
const UPDATES: &[&str] = &["scatter_elements", "scatter_nd"];

/// Refuses pairs that no order of steps could serve.
pub(super) fn check(graph: &Graph, aliases: &[(usize, usize)]) -> Result<(), Vec<PlanError>> {
    let views: Vec<ValueId> = aliases.iter().flat_map(|(i, _)| views(graph, graph.inputs[*i])).collect();
    let refused = aliases.iter().map(|(_, j)| graph.outputs[*j]).filter(|id| views.contains(id) || graph.constant(*id).is_some());
    let error = |id: ValueId| PlanError {
        origins: vec![graph.value(id).name.clone()],
        op: "output".to_string(),
        reason: "is an input as it came, a view of one, or a constant: it cannot have an input's buffer".to_string(),
        help: Some("leave out --alias for it".to_string()),
    };
    let errors: Vec<PlanError> = refused.map(error).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Steps that bring such inputs to the buffers of their outputs, where they are from then on.
pub(super) fn bring_inputs(
    planner: &mut Planner,
    graph: &Graph,
    aliases: &[(usize, usize)],
    inputs: &mut [Storage],
) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (i, j) in aliases {
        let (value, view) = (graph.value(graph.inputs[*i]), inputs[*i].view.clone());
        let (from, to) = (inputs[*i].region, Region::Output(*j as u32));
        let (name, attrs, dtype) = (step_name(planner, "bring"), Attrs::default(), value.ty.dtype);
        let (operand, result) = ([Some((dtype, view.clone(), None))], [(dtype, view)]);
        let mut cx = LowerCx::new(&name, &attrs, &operand, &result, planner.target, planner.sizes);
        let (source, target) = (cx.input(0), cx.output(0));
        cx.copy(&source, &target);
        let func = cx.finish();
        let regions = regions_of(planner, &func, &[Some(from)], &[to]);
        drafts.push(Draft::Call { func, regions, origins: vec![value.name.clone()], op: "bring".to_string() });
        inputs[*i].region = to;
        planner.time += 1;
    }
    drafts
}

/// May the node that computes `output` write over `input`? It must be the last that reads it, and read only what it has not written yet.
pub(super) fn in_place(graph: &Graph, input: ValueId, output: ValueId) -> bool {
    let views = views(graph, input);
    let reads = |n: &Node| n.inputs.iter().flatten().any(|x| views.contains(x));
    let Some(at) = graph.nodes.iter().position(|n| n.outputs.contains(&output)) else { return false };
    let later = graph.nodes[at + 1..].iter().any(reads) || graph.outputs.iter().any(|id| views.contains(id));
    // Bodies read values of the graph around them without saying so.
    let bodies = graph.nodes.iter().any(|n| matches!(n.op.name, "if" | "loop"));
    let node = &graph.nodes[at];
    let rest = |from: usize| !node.inputs.iter().skip(from).flatten().any(|x| views.contains(x));
    let only_elements = node.inputs.iter().flatten().all(|x| *x == input || !views.contains(x));
    let orderly = match node.op.lower {
        Lower::Elementwise(_) => only_elements,
        _ if UPDATES.contains(&node.op.name) => node.inputs[0].is_none_or(|x| x == input || !views.contains(&x)) && rest(1),
        // The parts of a concatenation are written earlier.
        _ => rest(0) && node.op.name != "concat",
    };
    orderly && !later && !bodies
}

/// The value and all views of it.
fn views(graph: &Graph, of: ValueId) -> Vec<ValueId> {
    let mut all = vec![of];
    for node in graph.nodes.iter().filter(|n| n.op.lower.view().is_some()) {
        if node.inputs.first().copied().flatten().is_some_and(|x| all.contains(&x)) {
            all.extend(&node.outputs);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::op::OpSet;
    use onnxc_ir::parse;

    fn graph(body: &str, outputs: &str) -> Graph {
        let text = format!(
            "graph @g(%x: f32[4,4], %i: i64[1,1], %u: f32[1,4]) {{\n  %a = const f32[] [2.0]\n  %axis = const i64[1] [0]\n{body}\n  return {outputs}\n}}\n"
        );
        parse::parse(&text, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
    }

    const SCATTER: &str = "  %y = scatter_nd %x, %i, %u : f32[4,4]";

    fn decides(body: &str, outputs: &str) -> bool {
        let g = graph(body, outputs);
        in_place(&g, g.inputs[0], g.outputs[0])
    }

    #[test]
    fn the_last_reader_writes_in_place() {
        assert!(decides(SCATTER, "%y"));
        assert!(decides(
            &format!("  %t = transpose %x {{perm = ints[1, 0]}} : f32[4,4]\n  %z = abs %t : f32[4,4]\n{SCATTER}"),
            "%y, %z"
        ));
        assert!(decides("  %y = mul %x, %a : f32[4,4]", "%y"));
        assert!(decides("  %s = reduce_sum %x, %axis {keepdims = 1} : f32[1,4]\n  %y = add %x, %s : f32[4,4]", "%y"));
    }

    #[test]
    fn what_is_read_later_or_out_of_order_is_kept() {
        assert!(!decides(&format!("{SCATTER}\n  %z = abs %x : f32[4,4]"), "%y, %z"));
        let transposed = "  %t = transpose %x {perm = ints[1, 0]} : f32[4,4]";
        assert!(!decides(&format!("{transposed}\n{SCATTER}\n  %z = abs %t : f32[4,4]"), "%y, %z"));
        assert!(!decides(&format!("{transposed}\n{SCATTER}"), "%y, %t"));
        assert!(!decides(&format!("{transposed}\n  %y = add %x, %t : f32[4,4]"), "%y"));
        assert!(!decides("  %y = matmul %x, %x : f32[4,4]", "%y"));
        let sliced = "  %b = const i64[1] [0]\n  %e = const i64[1] [2]\n  %s = slice %x, %b, %e : f32[2,4]";
        assert!(!decides(&format!("{sliced}\n{SCATTER}\n  %z = abs %s : f32[2,4]"), "%y, %z"));
    }

    #[test]
    fn inputs_and_views_of_them_cannot_have_another_buffer() {
        let g = graph("  %y = transpose %x {perm = ints[1, 0]} : f32[4,4]", "%y, %x");
        assert!(check(&g, &[(0, 0)]).is_err() && check(&g, &[(0, 1)]).is_err());
        assert!(check(&graph(SCATTER, "%y"), &[(0, 0)]).is_ok());
    }
}
