//! `if`: both branches are planned; their results land in the storage of the `if`'s results.

use onnxc_ir::graph::Node;
use onnxc_ir::{Dim, TensorType, ValueId};

use std::sync::Arc;

use super::storage::{Level, Region, Storage};
use super::{Draft, Planner, Spot};

/// Where the only element of a value is, for code that asks for it between steps.
pub(super) fn spot(planner: &mut Planner, level: &mut Level, id: ValueId, drafts: &mut Vec<Draft>) -> Spot {
    let storage = level.storage(id).expect("internal: a value before its use").clone();
    let bytes = level.graph.ty(id).dtype.bytes();
    let byte = storage.view.offset as u64 * bytes;
    let (region, byte) = match storage.region {
        Region::Buffer(_) => (storage.region, byte),
        region if byte == 0 && !matches!(region, Region::Constant(_)) => (region, 0),
        // Constants may not be in the blob yet, and only places in the arena have offsets.
        _ => {
            let ty = level.graph.ty(id).clone();
            let target = Storage::dense(planner.buffer(bytes), &ty.const_shape().unwrap_or_default());
            drafts.push(super::nodes::copy(planner, level, id, &target));
            planner.time += 1;
            (target.region, 0)
        }
    };
    planner.touch(region);
    (region, byte)
}

/// Storage of a value that a body reads from outside.
pub(super) fn captured(planner: &mut Planner, level: &Level, id: ValueId) -> Storage {
    let storage = level.storage(id).expect("internal: capture has storage").clone();
    // Ids of constants mean something at their own level only: what a body captures goes into the blob.
    match level.graph.constant(id) {
        Some(t) => Storage { region: Region::Weights(planner.weights.add(t.unpacked().into())), ..storage },
        None => storage,
    }
}

/// Symbols in a stated type for which a value of another type has other extents.
pub(super) fn changes(stated: &TensorType, is: &TensorType) -> Vec<(Arc<str>, Dim)> {
    let pairs = stated.shape.iter().zip(&is.shape);
    let change = |(stated, is): (&Dim, &Dim)| match stated {
        Dim::Sym(name) if stated != is => Some((Arc::clone(name), is.clone())),
        _ => None,
    };
    pairs.filter_map(change).collect()
}

/// Values of symbols as values of counts, each once.
pub(super) fn numbered(planner: &mut Planner, sizes: Vec<(Arc<str>, Dim)>) -> Vec<(usize, Dim)> {
    let mut all: Vec<(usize, Dim)> = Vec::new();
    for (symbol, size) in sizes {
        let count = planner.count_of(&symbol);
        if all.iter().all(|(c, _)| *c != count) {
            all.push((count, size));
        }
    }
    all
}

pub(super) fn plan_if(planner: &mut Planner, level: &mut Level, node: &Node, drafts: &mut Vec<Draft>) {
    planner.results(level, 0, node, drafts);
    let cond_id = node.inputs[0].expect("internal: an if has a condition");
    let cond = spot(planner, level, cond_id, drafts);
    let captures: Vec<Storage> = node.inputs[1..].iter().flatten().map(|id| captured(planner, level, *id)).collect();
    let results: Vec<_> = node.outputs.iter().map(|id| level.storage(*id).expect("internal: just allocated").clone()).collect();
    let mut branches = ["then", "else"].into_iter().map(|attr| {
        let body = node.attrs.graph(attr).expect("internal: an if has both branches");
        captures.iter().chain(&results).for_each(|s| planner.touch(s.region));
        let body = &super::schedule::schedule(body);
        let own: Vec<Storage> =
            results.iter().zip(&body.outputs).map(|(s, id)| s.with_extents(body.ty(*id), planner.bounds)).collect();
        let mut steps = planner.graph(body, &captures, &own);
        // The extents of results that are not the same in both branches are what they are in this one.
        let sizes = node.outputs.iter().zip(&body.outputs).flat_map(|(to, from)| changes(level.graph.ty(*to), body.ty(*from)));
        let sizes = numbered(planner, sizes.collect());
        planner.resize(sizes, &mut steps, |_, _| {});
        captures.iter().chain(&results).for_each(|s| planner.touch(s.region));
        planner.time += 1;
        steps
    });
    let then = branches.next().expect("internal: two branches");
    let otherwise = branches.next().expect("internal: two branches");
    drop(branches);
    drafts.push(Draft::If { cond, then, otherwise });
}
