//! Inputs and outputs with open extents: the caller's tensors are dense in the sizes of the call, buffers of the plan have strides for the largest.

use onnxc_ir::graph::Graph;
use onnxc_ir::lir::{Expr, LoopKind, Stmt};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::View;
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attrs, ValueId};

use super::nodes::{resolve, step_name};
use super::storage::{Level, Region, Storage};
use super::{Draft, Planner, regions_of};

/// Does the caller's tensor have other strides than the storage says? It has unless only the outermost of its extents is open.
pub(super) fn is_spread(storage: &Storage) -> bool {
    let outermost = storage.view.extents().iter().position(|n| !n.is_one());
    let open = |d: usize| storage.view.open(d).is_some() && Some(d) != outermost;
    matches!(storage.region, Region::Input(_) | Region::Output(_)) && (0..storage.view.shape.len()).any(open)
}

/// Steps that bring such inputs into buffers of their own.
pub(super) fn spread_inputs(planner: &mut Planner, graph: &Graph, inputs: &mut [Storage]) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (id, storage) in graph.inputs.iter().zip(inputs) {
        if !is_spread(storage) {
            continue;
        }
        let value = graph.value(*id);
        let size = storage.view.shape.iter().product::<u64>() * value.ty.dtype.bytes();
        let (from, to) = (storage.region, planner.buffer(size));
        let operand = Some((value.ty.dtype, storage.view.clone(), None));
        let (name, attrs) = (step_name(planner, "spread"), Attrs::default());
        let result = [(value.ty.dtype, storage.view.clone())];
        let mut cx = LowerCx::new(&name, &attrs, &[operand], &result, planner.target, planner.sizes);
        let (source, target) = (cx.input(0), cx.output(0));
        each_row(&mut cx, &target.view.clone(), |cx, dense, at| {
            let value = Expr::Load(source.buf, Box::new(dense));
            cx.store(&target, at, value);
        });
        let func = cx.finish();
        let regions = regions_of(planner, &func, &[Some(from)], &[to]);
        drafts.push(Draft::Call { func, regions, origins: vec![value.name.clone()], op: "spread".to_string() });
        storage.region = to;
        planner.time += 1;
    }
    drafts
}

/// The step that writes such an output.
pub(super) fn gather_output(planner: &mut Planner, level: &Level, id: ValueId, want: &Storage) -> Draft {
    let from = level.storage(id).expect("internal: an output without storage").clone();
    let value = level.graph.value(id);
    let (name, attrs) = (step_name(planner, "gather"), Attrs::default());
    let operand = Some((value.ty.dtype, from.view.clone(), value.constant.clone()));
    let mut cx = LowerCx::new(&name, &attrs, &[operand], &[(value.ty.dtype, want.view.clone())], planner.target, planner.sizes);
    let (source, target) = (cx.input(0), cx.output(0));
    each_row(&mut cx, &source.view.clone(), |cx, dense, at| {
        let value = cx.load(&source, at);
        cx.push(Stmt::Store(target.buf, dense, value));
    });
    let func = cx.finish();
    let region = resolve(planner, level, from.region, &func, 0);
    let regions = regions_of(planner, &func, &[Some(region)], &[want.region]);
    Draft::Call { func, regions, origins: vec![value.name.clone()], op: "gather".to_string() }
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
