//! Packed inputs and outputs of the model: a byte an element inside, see [`onnxc_ir::packed`].

use onnxc_ir::graph::Graph;
use onnxc_ir::op::{Extent, View};
use onnxc_ir::packed::{Border, cross};
use onnxc_ir::{DType, ValueId};

use super::caller::{gather_output, has_gaps};
use super::nodes::{moved, resolve, step_name};
use super::storage::{Level, Region, Storage};
use super::{Draft, Planner, regions_of};

/// Is a value of this type packed in this region?
pub(super) fn is_packed(dtype: DType, region: Region) -> bool {
    dtype.is_packed() && matches!(region, Region::Input(_) | Region::Output(_))
}

/// The number of elements.
fn count(view: &View) -> Extent {
    view.extents().iter().fold(Extent::from(1), |n, d| n.times(d))
}

/// Steps that give the packed inputs a byte an element, in buffers of their own, dense in the sizes of the call.
pub(super) fn unpack_inputs(planner: &mut Planner, graph: &Graph, inputs: &mut [Storage]) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (id, storage) in graph.inputs.iter().zip(inputs) {
        let value = graph.value(*id);
        let elements = count(&storage.view);
        if elements.bound == 0 || !is_packed(value.ty.dtype, storage.region) {
            continue;
        }
        let (name, dtype) = (step_name(planner, "unpack"), value.ty.dtype);
        let func = cross(Border::Unpack, &name, dtype, &elements, planner.target, planner.sizes);
        let target = planner.buffer(elements.bound);
        let regions = regions_of(planner, &func, &[Some(storage.region)], &[target]);
        drafts.push(Draft::Call { func, regions, origins: vec![value.name.clone()], op: "unpack".to_string() });
        storage.region = target;
        planner.time += 1;
    }
    drafts
}

/// The step that writes a packed output.
pub(super) fn pack_output(planner: &mut Planner, level: &mut Level, id: ValueId, want: &Storage, drafts: &mut Vec<Draft>) {
    let elements = count(&want.view);
    if elements.bound == 0 {
        return;
    }
    let mut storage = level.storage(id).expect("internal: an output without storage").clone();
    if has_gaps(&want.view) {
        storage = Storage { region: planner.buffer(elements.bound), ..want.clone() };
        drafts.push(moved(planner, level, (id, &storage), "gather", gather_output));
        planner.time += 1;
    } else if !storage.view.is_contiguous() || storage.view.offset != 0 {
        storage = planner.dense_copy(level, id, drafts);
    }
    let value = level.graph.value(id);
    let name = step_name(planner, "pack");
    let func = cross(Border::Pack, &name, value.ty.dtype, &elements, planner.target, planner.sizes);
    let region = resolve(planner, level, storage.region, &func, 0);
    let regions = regions_of(planner, &func, &[Some(region)], &[want.region]);
    drafts.push(Draft::Call { func, regions, origins: vec![value.name.clone()], op: "pack".to_string() });
}
