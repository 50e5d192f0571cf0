//! `if`: both branches are planned; their results land in the storage of the `if`'s results.

use onnxc_ir::graph::Node;

use std::sync::Arc;

use super::storage::{Level, Region, Storage};
use super::{Draft, Planner};

pub(super) fn plan_if(planner: &mut Planner, level: &mut Level, node: &Node, drafts: &mut Vec<Draft>) {
    let n = 0;
    for id in &node.outputs {
        level.allocate(planner, n, node, *id);
    }
    let cond_id = node.inputs[0].expect("internal: an if has a condition");
    let cond = level.storage(cond_id).expect("internal: condition has storage").clone();
    let (region, byte) = match cond.region {
        Region::Constant(_) => {
            let ty = level.graph.ty(cond_id).clone();
            let target = Storage::dense(planner.buffer(1), &ty.const_shape().unwrap_or_default());
            drafts.push(super::nodes::copy(planner, level, cond_id, &ty, &target));
            planner.time += 1;
            (target.region, 0)
        }
        region => (region, cond.view.offset as u64),
    };
    planner.touch(region);
    let mut capture = |id: &onnxc_ir::ValueId| {
        let storage = level.storage(*id).expect("internal: capture has storage").clone();
        // Ids of constants mean something at their own level only: what a branch captures goes into the blob.
        match level.graph.constant(*id) {
            Some(t) => Storage { region: Region::Weights(planner.weights.add(Arc::new(t.unpacked()))), ..storage },
            None => storage,
        }
    };
    let captures: Vec<Storage> = node.inputs[1..].iter().flatten().map(&mut capture).collect();
    let results: Vec<_> = node.outputs.iter().map(|id| level.storage(*id).expect("internal: just allocated").clone()).collect();
    let mut branches = ["then", "else"].into_iter().map(|attr| {
        let body = node.attrs.graph(attr).expect("internal: an if has both branches");
        captures.iter().chain(&results).for_each(|s| planner.touch(s.region));
        let body = &super::schedule::schedule(body);
        let steps = planner.graph(body, &captures, &results);
        captures.iter().chain(&results).for_each(|s| planner.touch(s.region));
        planner.time += 1;
        steps
    });
    let then = branches.next().expect("internal: two branches");
    let otherwise = branches.next().expect("internal: two branches");
    drop(branches);
    drafts.push(Draft::If { cond: (region, byte), then, otherwise });
}
