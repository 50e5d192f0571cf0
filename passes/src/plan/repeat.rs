//! `loop`: the body is planned once; carried values live in the storage of the results and are copied there after each iteration.

use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::lir::Expr;
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::View;
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attrs, DType, TensorType, ValueId};

use super::branch::{captured, changes, numbered, spot};
use super::storage::{Level, Region, Storage};
use super::{Draft, Planner, nodes, regions_of};

pub(super) fn plan_loop(planner: &mut Planner, level: &mut Level, node: &Node, drafts: &mut Vec<Draft>) {
    planner.results(level, 0, node, drafts);
    let carried = node.attrs.int("carried").unwrap_or(0) as usize;
    let body = &super::schedule::schedule(node.attrs.graph("body").expect("internal: a loop has a body"));
    let storage = |level: &Level, id: ValueId| level.storage(id).expect("internal: a value before its use").clone();
    let results: Vec<Storage> = node.outputs.iter().map(|id| storage(level, *id)).collect();
    let (count, kept) = results.split_last().expect("internal: a loop counts its iterations");
    let trips = node.inputs[0].map(|id| spot(planner, level, id, drafts));
    let cond = condition(planner, level, node, body, drafts);
    let formal: Vec<TensorType> = body.inputs[2..2 + carried].iter().map(|id| body.ty(*id).clone()).collect();
    let given: Vec<ValueId> = node.inputs[2..2 + carried].iter().flatten().copied().collect();
    let first = given.iter().zip(&formal).flat_map(|(id, ty)| changes(ty, level.graph.ty(*id)));
    let first = numbered(planner, first.collect());
    planner.resize(first, drafts, |planner, drafts| {
        for (id, to) in given.iter().zip(kept) {
            let to = to.with_extents(level.graph.ty(*id), planner.bounds);
            drafts.push(nodes::copy(planner, level, *id, &to));
            planner.time += 1;
        }
    });
    let captures: Vec<Storage> = node.inputs[2 + carried..].iter().flatten().map(|id| captured(planner, level, *id)).collect();
    let start = planner.time;
    // The body may read its condition; where none is kept, any true byte will do.
    let truth = cond.clone().unwrap_or_else(|| Storage::dense(Region::Weights(planner.weights.add(vec![1].into())), &[]));
    let mut inputs = vec![count.clone(), truth];
    inputs.extend(kept[..carried].iter().chain(&captures).cloned());
    inputs.iter().chain(&results).for_each(|s| planner.touch(s.region));
    let next: Vec<Storage> = body
        .outputs
        .iter()
        .map(|id| {
            let ty = body.ty(*id);
            let shape = ty.bound_shape(planner.bounds).expect("internal: planning with unknown extents");
            let view = View::contiguous(&shape).with_open(ty.open());
            Storage { region: planner.buffer_for(&view, &[], ty.dtype.bytes()), view, halo: None }
        })
        .collect();
    let mut steps = planner.graph(body, &inputs, &next);
    if let Some(cond) = &cond {
        steps.push(move_value(planner, body.ty(body.outputs[0]), &next[0], cond, None));
        planner.time += 1;
    }
    let grown = formal.iter().zip(&body.outputs[1..]).flat_map(|(ty, id)| changes(ty, body.ty(*id)));
    let grown = numbered(planner, grown.collect());
    planner.resize(grown, &mut steps, |planner, steps| {
        for (i, to) in kept.iter().enumerate() {
            let (ty, iteration) = (body.ty(body.outputs[1 + i]), (i >= carried).then_some(count));
            let to = if iteration.is_none() { to.with_extents(ty, planner.bounds) } else { to.clone() };
            steps.push(move_value(planner, ty, &next[1 + i], &to, iteration));
            planner.time += 1;
        }
    });
    // What the next iteration reads again must outlive this one.
    let end = planner.time;
    planner.buffers.iter_mut().filter(|b| b.first <= start && b.last >= start).for_each(|b| b.last = b.last.max(end));
    trips.iter().for_each(|(region, _)| planner.touch(*region));
    drafts.push(Draft::Loop {
        iteration: (count.region, count.view.offset as u64 * DType::I64.bytes()),
        trips,
        cond: cond.map(|c| (c.region, c.view.offset as u64)),
        body: steps,
    });
    planner.time += 1;
}

/// Storage of the condition with its first value; nothing where it always holds.
fn condition(planner: &mut Planner, level: &mut Level, node: &Node, body: &Graph, drafts: &mut Vec<Draft>) -> Option<Storage> {
    let holds = |t: Option<&onnxc_ir::Tensor>| t.is_some_and(|t| t.bytes() == [1]);
    let starts = node.inputs[1].is_none_or(|id| holds(level.graph.constant(id)));
    let stays = body.outputs[0] == body.inputs[1] || holds(body.constant(body.outputs[0]));
    if starts && stays {
        return None;
    }
    let state = Storage::dense(planner.buffer(1), &[]);
    match node.inputs[1] {
        Some(id) => {
            let ty = TensorType::fixed(DType::Bool, &level.graph.ty(id).const_shape().unwrap_or_default());
            let to = Storage::dense(state.region, &ty.const_shape().unwrap_or_default());
            drafts.push(nodes::copy(planner, level, id, &to));
        }
        None => {
            let truth = Storage::dense(Region::Weights(planner.weights.add(vec![1].into())), &[]);
            drafts.push(move_value(planner, &TensorType::fixed(DType::Bool, &[]), &truth, &state, None));
        }
    }
    planner.time += 1;
    Some(state)
}

/// A step that copies from one storage to another, or to the part of it that belongs to an iteration, if there is one.
fn move_value(planner: &mut Planner, ty: &TensorType, from: &Storage, to: &Storage, iteration: Option<&Storage>) -> Draft {
    let (name, attrs) = (nodes::step_name(planner, "carry"), Attrs::default());
    let mut inputs = vec![Some((ty.dtype, from.view.clone(), None))];
    inputs.extend(iteration.map(|i| Some((DType::I64, i.view.clone(), None))));
    let mut cx = LowerCx::new(&name, &attrs, &inputs, &[(ty.dtype, to.view.clone())], planner.target, planner.sizes);
    let (source, target) = (cx.input(0), cx.output(0));
    match cx.opt(1) {
        None => cx.copy(&source, &target),
        Some(number) => {
            let number = Expr::Var(cx.let_(cx.load(&number, &[])));
            let room = Expr::bin(BinOp::Lt, number.clone(), Expr::Int(target.view.shape[0] as i64));
            cx.if_(
                room,
                |cx| {
                    let (view, order) = (source.view.clone(), target.view.strides[1..].to_vec());
                    cx.for_each(&view, &order, |cx, at| {
                        let value = cx.load(&source, at);
                        let place: Vec<Expr> = std::iter::once(number.clone()).chain(at.iter().cloned()).collect();
                        cx.store(&target, &place, value);
                    });
                },
                |_| {},
            );
        }
    }
    let func = cx.finish();
    let regions: Vec<Option<Region>> = std::iter::once(from).chain(iteration).map(|s| Some(s.region)).collect();
    let regions = regions_of(planner, &func, &regions, &[to.region]);
    Draft::Call { func, regions, origins: vec!["loop".to_string()], op: "carry".to_string() }
}
