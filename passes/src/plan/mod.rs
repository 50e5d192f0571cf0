//! From a graph to a plan: every value gets storage, every node becomes a function, every buffer a place.
//!
//! Storage is decided before lowering: graph outputs are written in place, operands of a concatenation are written into its result, views share
//! their operand's buffer, elementwise results reuse an operand that dies. Then nodes are lowered in order, and the arena is laid out by liveness.

mod alias;
mod border;
mod branch;
mod caller;
mod nodes;
mod repeat;
mod schedule;
mod storage;
mod variants;

pub use schedule::schedule;
pub use variants::Merge;

use std::sync::Arc;

use onnxc_ir::ValueId;
use onnxc_ir::dim::{Dim, DimBounds};
use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::lir::{BufKind, Func};
use onnxc_ir::lower::Sizes;
use onnxc_ir::op::View;
use onnxc_ir::plan::{Io, Place, Plan, Step};
use onnxc_ir::target::TargetDesc;

use crate::memory::weights::Weights;
use crate::memory::{self, Buffer};
use storage::{Region, Storage};

/// Why a graph could not be planned.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanError {
    /// ONNX nodes concerned.
    pub origins: Vec<String>,
    /// Operator.
    pub op: String,
    /// What is wrong.
    pub reason: String,
    /// What the user can do.
    pub help: Option<String>,
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.op, self.origins.join(", "), self.reason)
    }
}

impl std::error::Error for PlanError {}

/// Plans `graph`, whose extents must all be known: [`schedule()`], [`lower()`] and [`Lowered::place`] in one go.
pub fn plan(graph: &Graph, target: &TargetDesc) -> Result<Plan, Vec<PlanError>> {
    Ok(lower(&schedule(graph), target)?.place())
}

/// Lowered functions and the storage that they need, before buffers have addresses.
pub struct Lowered {
    inputs: Vec<Io>,
    outputs: Vec<Io>,
    drafts: Vec<Draft>,
    buffers: Vec<Buffer>,
    scratch_per_worker: u64,
    weights: Weights,
    sizes: Vec<Dim>,
    bounds: DimBounds,
}

/// Lowers the nodes of a scheduled graph, whose extents must be known or have bounds, in order.
pub fn lower(graph: &Graph, target: &TargetDesc) -> Result<Lowered, Vec<PlanError>> {
    lower_sharing(graph, target, &[])
}

/// The same where some outputs may have the buffers of inputs: pairs of an input and an output, which have the same type and are in one pair each.
pub fn lower_sharing(graph: &Graph, target: &TargetDesc, aliases: &[(usize, usize)]) -> Result<Lowered, Vec<PlanError>> {
    alias::check(graph, aliases)?;
    let sizes = Sizes::default();
    let mut planner = Planner {
        target,
        sizes: &sizes,
        bounds: &graph.bounds,
        buffers: Vec::new(),
        scratch: Vec::new(),
        weights: Weights::default(),
        uncleared: Vec::new(),
        time: 0,
        errors: Vec::new(),
    };
    let dense = |id: &ValueId, region: Region| {
        let ty = graph.ty(*id);
        let shape = ty.bound_shape(&graph.bounds).expect("internal: planning with unknown extents");
        let view = View::contiguous(&shape).with_open(ty.open());
        Storage { region, view, halo: None }
    };
    let mut inputs: Vec<Storage> = graph.inputs.iter().enumerate().map(|(i, id)| dense(id, Region::Input(i as u32))).collect();
    let outputs: Vec<Storage> = graph.outputs.iter().enumerate().map(|(j, id)| dense(id, Region::Output(j as u32))).collect();
    let mut drafts = border::unpack_inputs(&mut planner, graph, &mut inputs);
    drafts.extend(caller::spread_inputs(&mut planner, graph, &mut inputs));
    drafts.extend(alias::bring_inputs(&mut planner, graph, aliases, &mut inputs));
    drafts.extend(planner.graph(graph, &inputs, &outputs));
    if !planner.errors.is_empty() {
        return Err(planner.errors);
    }
    let io = |id: &ValueId| {
        let value = graph.value(*id);
        Io { name: value.name.clone(), ty: value.ty.clone(), alias: None }
    };
    let mut made: Vec<Io> = graph.outputs.iter().map(io).collect();
    aliases.iter().for_each(|(i, j)| made[*j].alias = Some(*i as u32));
    let list = sizes.list();
    if !list.is_empty() {
        // The table of sizes: the last buffer, as `Region::Sizes` knows.
        let (bytes, last) = (8 * list.len() as u64, planner.time);
        planner.buffers.push(Buffer { bytes, first: 0, last });
    }
    Ok(Lowered {
        inputs: graph.inputs.iter().map(io).collect(),
        outputs: made,
        drafts,
        scratch_per_worker: planner.scratch.iter().copied().max().unwrap_or(0),
        buffers: planner.buffers,
        weights: planner.weights,
        sizes: list,
        bounds: graph.bounds.clone(),
    })
}

impl Lowered {
    /// Gives every buffer its place: the arena by liveness, the weight blob in the order of first use.
    pub fn place(self) -> Plan {
        let (offsets, arena) = memory::place(&self.buffers);
        debug_assert_eq!(memory::conflict(&self.buffers, &offsets), None, "internal: buffers overlap");
        let (weights, weights_bytes) = self.weights.finish();
        Plan {
            inputs: self.inputs,
            outputs: self.outputs,
            steps: self.drafts.into_iter().map(|d| d.settle(&offsets)).collect(),
            weights,
            weights_bytes,
            arena_shared: Dim::Const(arena),
            scratch_per_worker: Dim::Const(self.scratch_per_worker),
            sizes: (!self.sizes.is_empty()).then(|| (Region::Sizes.place(&offsets), self.sizes)),
            bounds: self.bounds,
        }
    }

    /// The size below which no arrangement of the buffers can go: the most bytes that are live at one step.
    pub fn live_bytes(&self) -> u64 {
        let at = |t: usize| {
            self.buffers.iter().filter(|b| b.first <= t && t <= b.last).map(|b| b.bytes.next_multiple_of(memory::ALIGN)).sum()
        };
        (0..=self.buffers.iter().map(|b| b.last).max().unwrap_or(0)).map(at).max().unwrap_or(0)
    }
}

/// A region and a byte in it.
type Spot = (Region, u64);

/// A step before buffers have offsets.
enum Draft {
    Call { func: Func, regions: Vec<Region>, origins: Vec<String>, op: String },
    If { cond: Spot, then: Vec<Draft>, otherwise: Vec<Draft> },
    Require { cond: Spot },
    Loop { iteration: Spot, trips: Option<Spot>, cond: Option<Spot>, body: Vec<Draft> },
}

struct Planner<'a> {
    target: &'a TargetDesc,
    /// Open sizes that functions use.
    sizes: &'a Sizes,
    /// Bounds of the symbols in open extents.
    bounds: &'a DimBounds,
    buffers: Vec<Buffer>,
    /// Per-worker scratch of one step at a time: the largest step decides.
    scratch: Vec<u64>,
    weights: Weights,
    /// Storage of the node at hand whose border is not written yet.
    uncleared: Vec<(Storage, onnxc_ir::DType)>,
    time: usize,
    errors: Vec<PlanError>,
}

impl Planner<'_> {
    /// Plans a graph (the model or a branch) over given storage of its inputs and outputs.
    fn graph(&mut self, graph: &Graph, inputs: &[Storage], outputs: &[Storage]) -> Vec<Draft> {
        let mut level = storage::Level::new(graph, self.bounds, inputs, outputs);
        let mut drafts = Vec::new();
        for (n, node) in graph.nodes.iter().enumerate() {
            self.node(&mut level, n, node, &mut drafts);
            self.time += 1;
        }
        self.copy_outputs(&mut level, outputs, &mut drafts);
        drafts
    }

    fn node(&mut self, level: &mut storage::Level, n: usize, node: &Node, drafts: &mut Vec<Draft>) {
        if node.op.name == "if" {
            return branch::plan_if(self, level, node, drafts);
        }
        if node.op.name == "loop" {
            return repeat::plan_loop(self, level, node, drafts);
        }
        if node.op.name == "require" {
            // Then its result is its first operand.
            let ok = node.inputs[1].expect("internal: inference accepts a missing operand");
            let cond = branch::spot(self, level, ok, drafts);
            drafts.push(Draft::Require { cond });
        }
        if let onnxc_ir::op::Lower::View(view) = node.op.lower
            && !node.outputs.iter().any(|id| level.is_pinned(*id))
        {
            if let Err(error) = self.view(level, node, view, drafts) {
                self.errors.push(error);
                self.results(level, n, node, drafts);
            }
            return;
        }
        self.results(level, n, node, drafts);
        match nodes::call(self, level, node) {
            // A concatenation whose parts were all written in place has nothing left to do.
            Ok(Draft::Call { func, .. }) if func.body.is_empty() => {}
            Ok(draft) => drafts.push(draft),
            Err(error) => self.errors.push(error),
        }
    }

    /// Gives the results of a node their storage, borders cleared.
    fn results(&mut self, level: &mut storage::Level, n: usize, node: &Node, drafts: &mut Vec<Draft>) {
        for id in &node.outputs {
            level.allocate(self, n, node, *id);
        }
        for (storage, dtype) in std::mem::take(&mut self.uncleared) {
            drafts.push(nodes::clear_border(self, &storage, dtype, &level.graph.value(node.outputs[0]).name));
        }
    }

    /// Writes outputs that were not computed in place: graph inputs, constants, views, values that are output twice, packed ones.
    fn copy_outputs(&mut self, level: &mut storage::Level, outputs: &[Storage], drafts: &mut Vec<Draft>) {
        // What goes to the buffer of an input comes last: the others may be read from there.
        let mut order: Vec<(usize, &Storage)> = outputs.iter().enumerate().collect();
        order.sort_by_key(|(_, want)| level.shared_with(want).is_some());
        for (j, want) in order {
            let id = level.graph.outputs[j];
            if level.storage(id) != Some(want) {
                let ty = level.graph.ty(id).clone();
                if border::is_packed(ty.dtype, want.region) {
                    border::pack_output(self, level, id, want, drafts);
                } else if caller::is_spread(want) {
                    drafts.push(nodes::moved(self, level, (id, want), "gather", caller::gather_output));
                } else {
                    drafts.push(nodes::copy(self, level, id, want));
                }
                self.time += 1;
            }
        }
    }

    /// A new arena buffer that is live from now on.
    fn buffer(&mut self, bytes: u64) -> Region {
        self.buffers.push(Buffer { bytes, first: self.time, last: self.time });
        Region::Buffer(self.buffers.len() - 1)
    }

    /// The region is used now.
    fn touch(&mut self, region: Region) {
        if let Region::Buffer(b) = region {
            let buffer = &mut self.buffers[b];
            buffer.first = buffer.first.min(self.time);
            buffer.last = buffer.last.max(self.time);
        }
    }
}

impl Draft {
    fn settle(self, offsets: &[u64]) -> Step {
        let list = |drafts: Vec<Draft>| drafts.into_iter().map(|d| d.settle(offsets)).collect();
        let spot = |(region, byte): Spot| match region.place(offsets) {
            Place::Arena(o) => Place::Arena(o + byte),
            other => other,
        };
        match self {
            Draft::Call { func, regions, origins, op } => {
                let places = regions.into_iter().map(|r| r.place(offsets)).collect();
                Step::Call { func, places, origins, op }
            }
            Draft::If { cond, then, otherwise } => Step::If { cond: spot(cond), then: list(then), otherwise: list(otherwise) },
            Draft::Require { cond } => Step::Require { cond: spot(cond) },
            Draft::Loop { iteration, trips, cond, body } => {
                Step::Loop { iteration: spot(iteration), trips: trips.map(spot), cond: cond.map(spot), body: list(body) }
            }
        }
    }
}

/// Regions of a function's buffers; scratch and constants of the function get theirs here.
fn regions_of(planner: &mut Planner, func: &Func, inputs: &[Option<Region>], outputs: &[Region]) -> Vec<Region> {
    let mut worker_end = 0u64;
    let mut regions = Vec::with_capacity(func.bufs.len());
    for buf in &func.bufs {
        let region = match &buf.kind {
            BufKind::Input(i) => inputs[*i].expect("internal: a buffer for an absent operand"),
            BufKind::Output(i) => outputs[*i],
            BufKind::Sizes => Region::Sizes,
            BufKind::Const(bytes) => Region::Weights(planner.weights.add(Arc::clone(bytes))),
            BufKind::Scratch { bytes, per_worker: false } => planner.buffer(*bytes),
            BufKind::Scratch { bytes, per_worker: true } => {
                let at = worker_end;
                worker_end += bytes.next_multiple_of(memory::ALIGN);
                Region::Worker(at)
            }
        };
        planner.touch(region);
        regions.push(region);
    }
    planner.scratch.push(worker_end);
    regions
}
