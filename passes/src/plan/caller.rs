//! Inputs and outputs with open extents: the caller's tensors are dense in the sizes of the call, buffers of the plan have strides for the largest.

use onnxc_ir::Attrs;
use onnxc_ir::graph::Graph;
use onnxc_ir::lir::{Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::View;
use onnxc_ir::scalar::BinOp;

use super::nodes::step_name;
use super::storage::{Region, Storage};
use super::{Draft, Planner, regions_of};

/// Does the caller's tensor have other strides than the storage says?
pub(super) fn is_spread(storage: &Storage) -> bool {
    matches!(storage.region, Region::Input(_) | Region::Output(_)) && has_gaps(&storage.view)
}

/// Are there gaps between the elements of a tensor that is smaller than the largest? There are unless only the outermost of its extents is open.
pub(super) fn has_gaps(view: &View) -> bool {
    let outermost = view.extents().iter().position(|n| !n.is_one());
    (0..view.shape.len()).any(|d| view.open(d).is_some() && Some(d) != outermost)
}

/// Steps that bring such inputs into buffers of their own; packed ones have been unpacked before.
pub(super) fn spread_inputs(planner: &mut Planner, graph: &Graph, inputs: &mut [Storage]) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (id, storage) in graph.inputs.iter().zip(inputs) {
        if !has_gaps(&storage.view) {
            continue;
        }
        let value = graph.value(*id);
        let (from, to) = (storage.region, planner.buffer_for(&storage.view, &[], value.ty.dtype.bytes()));
        let operand = Some((value.ty.dtype, storage.view.clone(), None));
        let (name, attrs) = (step_name(planner, "spread"), Attrs::default());
        let result = [(value.ty.dtype, storage.view.clone())];
        let mut cx = LowerCx::new(&name, &attrs, &[operand], &result, planner.target, planner.sizes);
        let (source, target) = (cx.input(0), cx.output(0));
        each_row(&mut cx, &target.view, |cx, dense, at| cx.store(&target, at, Expr::Load(source.buf, Box::new(dense))));
        let func = cx.finish();
        let regions = regions_of(planner, &func, &[Some(from)], &[to]);
        drafts.push(Draft::Call { func, regions, origins: vec![value.name.clone()], op: "spread".to_string() });
        storage.region = to;
        planner.time += 1;
    }
    drafts
}

/// Code that writes such an output.
pub(super) fn gather_output(cx: &mut LowerCx, source: &Arg, target: &Arg) {
    each_row(cx, &source.view, |cx, dense, at| {
        let value = cx.load(source, at);
        cx.push(Stmt::Store(target.buf, dense, value));
    });
}

/// Code that gives the elements of `source` the coordinates of `target` in row-major order, through a buffer without gaps.
pub(super) fn renumber(cx: &mut LowerCx, source: &Arg, target: &Arg) {
    let buf = cx.scratch(source.dtype, source.view.shape.iter().product(), false);
    each_row(cx, &source.view, |cx, dense, at| {
        let value = cx.load(source, at);
        cx.push(Stmt::Store(buf, dense, value));
    });
    each_row(cx, &target.view, |cx, dense, at| cx.store(target, at, Expr::Load(buf, Box::new(dense))));
}

/// Loops over all coordinates in row-major order; the body gets the index in the caller's dense tensor too.
fn each_row(cx: &mut LowerCx, view: &View, body: impl FnOnce(&mut LowerCx, Expr, &[Expr])) {
    let extents = view.extents();
    let counts: Vec<Expr> = extents.iter().map(|n| cx.count(n)).collect();
    let Some((last, outer)) = extents.split_last() else { return body(cx, Expr::Int(0), &[]) };
    let inner = counts[outer.len()].clone();
    cx.for_serial(outer, |cx, at| {
        let mul = |a: Expr, b: &Expr| match b {
            Expr::Int(n) => a.times(*n),
            b => Expr::bin(BinOp::Mul, a, b.clone()),
        };
        let row = at.iter().zip(&counts).fold(Expr::Int(0), |index, (i, n)| mul(index, n).add(i.clone()));
        let start = Expr::Var(cx.let_(mul(row, &inner)));
        cx.for_in(LoopKind::Vector, last, |cx, i| {
            let at: Vec<Expr> = at.iter().cloned().chain([i.clone()]).collect();
            body(cx, start.add(i), &at);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::Dim;

    fn input(open: &[bool], shape: &[u64]) -> Storage {
        let open = open.iter().map(|o| o.then(|| Dim::sym("N"))).collect();
        Storage { region: Region::Input(0), view: View::contiguous(shape).with_open(open), halo: None }
    }

    #[test]
    fn only_the_outermost_extent_may_be_open_in_place() {
        assert!(!is_spread(&input(&[false, false], &[3, 4])));
        assert!(!is_spread(&input(&[true, false], &[3, 4])));
        assert!(!is_spread(&input(&[false, true, false], &[1, 3, 4])));
        assert!(is_spread(&input(&[false, true], &[3, 4])));
        assert!(is_spread(&input(&[true, true], &[3, 4])));
    }
}
