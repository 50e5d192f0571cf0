//! Where values live while a graph is planned: region and view.

use onnxc_ir::dim::DimBounds;
use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::lower::Halo;
use onnxc_ir::op::{Extent, Lower, View};
use onnxc_ir::plan::Place;
use onnxc_ir::{TensorType, ValueId};

use super::Planner;
use crate::layout::halo;
use crate::layout::{self, Order};

/// A piece of memory before buffers have offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Region {
    /// Arena buffer n.
    Buffer(usize),
    /// Worker scratch at an offset.
    Worker(u64),
    /// Weight blob at an offset.
    Weights(u64),
    /// The caller's input n.
    Input(u32),
    /// The caller's output n.
    Output(u32),
    /// A constant that no function has read yet.
    Constant(ValueId),
    /// The table of sizes, with which the arena begins.
    Sizes,
}

impl Region {
    pub(super) fn place(self, offsets: &[Place]) -> Place {
        match self {
            Region::Buffer(b) => offsets[b],
            Region::Worker(at) => Place::WorkerScratch(at),
            Region::Weights(at) => Place::Weights(at),
            Region::Input(n) => Place::Input(n),
            Region::Output(n) => Place::Output(n),
            // Functions that never read a constant operand keep a buffer for it; its place is never used.
            Region::Constant(_) => Place::Weights(0),
            Region::Sizes => Place::Arena(0),
        }
    }
}

/// Region and view of a value.
#[derive(Clone, PartialEq, Debug)]
pub struct Storage {
    /// The memory.
    pub region: Region,
    /// The value in it.
    pub view: View,
    /// Zeros around it.
    pub halo: Option<Halo>,
}

impl Storage {
    /// Row-major from the start of a region.
    pub fn dense(region: Region, shape: &[u64]) -> Storage {
        Storage { region, view: View::contiguous(shape), halo: None }
    }

    /// The same memory with the extents of a type, none of which is larger.
    pub fn with_extents(&self, ty: &TensorType, bounds: &DimBounds) -> Storage {
        let shape = ty.bound_shape(bounds).expect("internal: planning with unknown extents");
        let view = View { shape, ..self.view.clone() };
        Storage { view: view.with_open(ty.open()), ..self.clone() }
    }
}

/// One graph while it is planned.
pub(super) struct Level<'g> {
    pub graph: &'g Graph,
    pub bounds: &'g DimBounds,
    storages: Vec<Option<Storage>>,
    /// Storage that a value must be written to: an output, or its part of a concatenation.
    pins: Vec<Option<Pin>>,
    orders: Vec<Order>,
    halos: Vec<Option<Halo>>,
    /// Last node that uses each value; graph outputs live to the end.
    last_use: Vec<usize>,
}

#[derive(Clone, Debug)]
enum Pin {
    To(Storage),
    /// A part of another value: its dimension and start.
    PartOf(ValueId, usize, u64),
}

impl<'g> Level<'g> {
    pub fn new(graph: &'g Graph, bounds: &'g DimBounds, inputs: &[Storage], outputs: &[Storage]) -> Level<'g> {
        let mut storages: Vec<Option<Storage>> = vec![None; graph.values.len()];
        for (i, value) in graph.values.iter().enumerate() {
            if let Some(tensor) = &value.constant {
                storages[i] = Some(Storage::dense(Region::Constant(ValueId(i as u32)), tensor.shape()));
            }
        }
        for (id, storage) in graph.inputs.iter().zip(inputs) {
            storages[id.0 as usize] = Some(storage.clone());
        }
        let mut last_use = vec![0; graph.values.len()];
        for (n, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().flatten().for_each(|id| last_use[id.0 as usize] = n);
        }
        graph.outputs.iter().for_each(|id| last_use[id.0 as usize] = usize::MAX);
        let orders = layout::choose(graph);
        let halos = halo::halos(graph, &orders);
        let mut level = Level { graph, bounds, storages, pins: vec![None; graph.values.len()], orders, halos, last_use };
        level.pin_outputs(outputs);
        level.pin_concats();
        level
    }

    fn pin_outputs(&mut self, outputs: &[Storage]) {
        for (j, id) in self.graph.outputs.iter().enumerate() {
            let slot = &mut self.pins[id.0 as usize];
            let packed = super::border::is_packed(self.graph.ty(*id).dtype, outputs[j].region);
            let kept =
                shared(self.graph, &self.storages, &outputs[j]).is_some_and(|x| !super::alias::in_place(self.graph, x, *id));
            if self.storages[id.0 as usize].is_none()
                && slot.is_none()
                && !packed
                && !kept
                && !super::caller::is_spread(&outputs[j])
            {
                *slot = Some(Pin::To(outputs[j].clone()));
            }
        }
        self.pin_through_reshapes();
    }

    /// An output that only renames the row-major elements of a computed value is written by that value's node.
    fn pin_through_reshapes(&mut self) {
        for node in self.graph.nodes.iter().rev() {
            let [out] = node.outputs[..] else { continue };
            let (Some(Pin::To(storage)), Some(Some(x)), Some(view)) =
                (&self.pins[out.0 as usize], node.inputs.first(), node.op.lower.view())
            else {
                continue;
            };
            let Some(shape) = self.graph.ty(*x).const_shape() else { continue };
            let dense = View::contiguous(&shape);
            let constants = constants_of(self.graph, node);
            let keeps_order = view(&node.attrs, &dense, &self.extents(out), &constants)
                .is_some_and(|v| v.is_contiguous() && v.offset == 0 && v.shape.iter().product::<u64>() == shape.iter().product());
            let free = self.storages[x.0 as usize].is_none() && self.pins[x.0 as usize].is_none();
            let shared = shared(self.graph, &self.storages, storage).is_some();
            if keeps_order && free && !shared && storage.view.is_contiguous() && storage.view.offset == 0 {
                self.pins[x.0 as usize] = Some(Pin::To(Storage { region: storage.region, view: dense, halo: None }));
                self.pins[out.0 as usize] = None;
            }
        }
    }

    /// Operands of concatenations are written into the result, outer concatenations first.
    fn pin_concats(&mut self) {
        for node in self.graph.nodes.iter().rev().filter(|n| n.op.name == "concat") {
            let out = node.outputs[0];
            let rank = self.graph.ty(out).rank() as i64;
            let axis = node.attrs.int("axis").unwrap_or(0);
            let axis = if axis < 0 { axis + rank } else { axis } as usize;
            let mut start = 0;
            for id in node.inputs.iter().flatten() {
                if self.can_write_into_part(node, *id) {
                    self.pins[id.0 as usize] = Some(Pin::PartOf(out, axis, start));
                }
                // Behind a part whose length comes with the call nothing has a place that is known.
                let Some(length) = self.graph.ty(*id).shape[axis].as_const() else { break };
                start += length;
            }
        }
    }

    fn can_write_into_part(&self, concat: &Node, id: ValueId) -> bool {
        let once = concat.inputs.iter().flatten().filter(|i| **i == id).count() == 1;
        let producer = self.graph.nodes.iter().find(|n| n.outputs.contains(&id));
        let computed = producer.is_some_and(|n| n.op.lower.view().is_none() && !matches!(n.op.name, "if" | "loop"));
        once && computed && self.pins[id.0 as usize].is_none() && !self.graph.outputs.contains(&id)
    }

    /// The input of the graph that has the buffer of an output.
    pub fn shared_with(&self, output: &Storage) -> Option<ValueId> {
        shared(self.graph, &self.storages, output)
    }

    pub fn storage(&self, id: ValueId) -> Option<&Storage> {
        self.storages[id.0 as usize].as_ref()
    }

    pub fn set(&mut self, id: ValueId, storage: Storage) {
        self.storages[id.0 as usize] = Some(storage);
    }

    /// True when the value must be written to storage that was decided beforehand.
    pub fn is_pinned(&self, id: ValueId) -> bool {
        self.pins[id.0 as usize].is_some()
    }

    /// Gives result `id` of node `n` its storage.
    pub fn allocate(&mut self, planner: &mut Planner, n: usize, node: &Node, id: ValueId) {
        if self.storage(id).is_some() {
            return;
        }
        let storage = match self.pins[id.0 as usize].clone() {
            Some(Pin::To(storage)) => storage,
            Some(Pin::PartOf(of, axis, start)) => {
                self.allocate(planner, n, node, of);
                let whole = self.storage(of).expect("internal: just allocated").clone();
                let mut view = whole.view.clone();
                view.offset += start as i64 * view.strides[axis];
                view.shape = self.shape(id);
                let view = view.with_open(self.graph.ty(id).open());
                Storage { region: whole.region, view, halo: whole.halo }
            }
            None => self.reuse(planner, n, node, id).unwrap_or_else(|| self.fresh(planner, id)),
        };
        planner.touch(storage.region);
        self.set(id, storage);
    }

    /// A new buffer for a value, with its border, which is to be cleared before the node.
    fn fresh(&self, planner: &mut Planner, id: ValueId) -> Storage {
        let dtype = self.graph.ty(id).dtype;
        let halo = self.halos[id.0 as usize].clone();
        let shape = self.shape(id);
        let whole_shape = halo.as_ref().map_or_else(|| shape.clone(), |h| h.whole(&View::contiguous(&shape)).shape);
        let mut view = layout::view(&whole_shape, &self.orders[id.0 as usize], dtype.bytes());
        view.shape = shape;
        view = view.with_open(self.graph.ty(id).open());
        let around = halo.as_ref().map(|h| h.around.clone()).unwrap_or_default();
        let region = planner.buffer_for(&view, &around, dtype.bytes());
        view.offset +=
            halo.iter().flat_map(|h| h.around.iter().zip(&view.strides)).map(|((lo, _), s)| *lo as i64 * s).sum::<i64>();
        let storage = Storage { region, view, halo };
        if storage.halo.is_some() {
            planner.uncleared.push((storage.clone(), dtype));
        }
        storage
    }

    fn shape(&self, id: ValueId) -> Vec<u64> {
        self.graph.ty(id).bound_shape(self.bounds).expect("internal: planning with unknown extents")
    }

    /// Extents of a value.
    pub fn extents(&self, id: ValueId) -> Vec<Extent> {
        let bounds = self.shape(id);
        let open = self.graph.ty(id).open();
        bounds.into_iter().zip(open).map(|(bound, open)| Extent { bound, open }).collect()
    }

    /// The buffer of an operand of an elementwise node that nobody needs afterwards and that has the result's size and shape.
    fn reuse(&self, planner: &Planner, n: usize, node: &Node, id: ValueId) -> Option<Storage> {
        if !matches!(node.op.lower, Lower::Elementwise(_)) {
            return None;
        }
        let shape = self.shape(id);
        let size = self.graph.ty(id).dtype.bytes();
        node.inputs.iter().flatten().find_map(|x| {
            let storage = self.storage(*x)?;
            let Region::Buffer(b) = storage.region else { return None };
            let whole = storage.halo.as_ref().map_or_else(|| storage.view.clone(), |h| h.whole(&storage.view));
            let dense = whole.offset == 0 && planner.buffers[b].bytes == layout::span(&whole) * size;
            let bordered = match (&self.halos[id.0 as usize], &storage.halo) {
                (Some(want), Some(has)) => has.covers(want),
                (want, _) => want.is_none(),
            };
            let ty = self.graph.ty(*x);
            let same = storage.view.shape == shape && ty.shape == self.graph.ty(id).shape;
            let fits = same && ty.dtype.bytes() == size && dense;
            // Defined at this level (captured values may be needed after the branch), and nothing else in the buffer is needed later.
            let own = self.graph.nodes.iter().any(|p| p.outputs.contains(x)) && !storage.view.strides.contains(&0);
            let dead = (0..self.storages.len())
                .all(|v| self.storages[v].as_ref().is_none_or(|s| s.region != storage.region) || self.last_use[v] <= n);
            // Another operand that reads the same buffer through another view would be overwritten while it is read.
            let one_view = node
                .inputs
                .iter()
                .flatten()
                .all(|y| self.storage(*y).is_none_or(|s| s.region != storage.region || s.view == storage.view));
            (fits && bordered && own && dead && one_view).then(|| storage.clone())
        })
    }
}

fn shared(graph: &Graph, storages: &[Option<Storage>], output: &Storage) -> Option<ValueId> {
    let has = |id: &&ValueId| storages[id.0 as usize].as_ref().is_some_and(|s| s.region == output.region);
    graph.inputs.iter().find(has).copied().filter(|_| matches!(output.region, Region::Output(_)))
}

/// Constant operands of a node.
pub(super) fn constants_of(graph: &Graph, node: &Node) -> Vec<Option<onnxc_ir::Tensor>> {
    node.inputs.iter().map(|i| i.and_then(|id| graph.constant(id).cloned())).collect()
}
