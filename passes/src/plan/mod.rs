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
mod sizes;
mod storage;
mod variants;
mod zeros;

pub use schedule::schedule;
pub use variants::Merge;

use std::sync::Arc;

use onnxc_ir::dim::{Dim, DimBounds};
use onnxc_ir::graph::{Graph, Node};
use onnxc_ir::lir::{BufKind, Func};
use onnxc_ir::lower::Sizes;
use onnxc_ir::op::View;
use onnxc_ir::plan::{Count, Io, Place, Plan, Step};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::{TensorType, ValueId};

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
    counts: Vec<Count>,
}

/// Lowers the nodes of a scheduled graph, whose extents must be known or have bounds, in order.
pub fn lower(graph: &Graph, target: &TargetDesc) -> Result<Lowered, Vec<PlanError>> {
    lower_sharing(graph, target, &[])
}

/// The same where some outputs may have the buffers of inputs: pairs of an input and an output, which have the same type and are in one pair each.
pub fn lower_sharing(graph: &Graph, target: &TargetDesc, aliases: &[(usize, usize)]) -> Result<Lowered, Vec<PlanError>> {
    alias::check(graph, aliases)?;
    let impossible = sizes::check(graph);
    if !impossible.is_empty() {
        return Err(impossible);
    }
    let sizes = Sizes::within(graph.bounds.clone());
    let mut planner = Planner {
        target,
        sizes: &sizes,
        bounds: &graph.bounds,
        symbols: symbols(graph),
        buffers: Vec::new(),
        scratch: Vec::new(),
        weights: Weights::default(),
        uncleared: Vec::new(),
        counts: Vec::new(),
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
    Ok(Lowered {
        inputs: graph.inputs.iter().map(io).collect(),
        outputs: made,
        drafts,
        scratch_per_worker: planner.scratch.iter().copied().max().unwrap_or(0),
        buffers: planner.buffers,
        weights: planner.weights,
        sizes: list,
        bounds: graph.bounds.clone(),
        counts: planner.counts,
    })
}

impl Lowered {
    /// Gives every buffer its place: the arena by liveness, the weight blob in the order of first use.
    pub fn place(self) -> Plan {
        let (offsets, arena) = memory::place(&self.buffers);
        debug_assert_eq!(memory::conflict(&self.buffers, &offsets), None, "internal: buffers overlap");
        let rooms = memory::moved(&self.buffers, &offsets, 0).rooms.len();
        // The table of sizes comes first, where it always is.
        let table = (8 * (self.sizes.len() + rooms) as u64).next_multiple_of(memory::ALIGN);
        let moved = memory::moved(&self.buffers, &offsets, table);
        let place = |(offset, room): (&u64, &Option<usize>)| match room {
            Some(room) => Place::Room { slot: (self.sizes.len() + room) as u32, byte: 0 },
            None => Place::Arena(table + offset),
        };
        let places: Vec<Place> = offsets.iter().zip(&moved.room_of).map(place).collect();
        let (weights, weights_bytes) = self.weights.finish();
        Plan {
            inputs: self.inputs,
            outputs: self.outputs,
            steps: self.drafts.into_iter().map(|d| d.settle(&places)).collect(),
            weights,
            weights_bytes,
            arena_shared: Dim::Const(table + arena),
            scratch_per_worker: Dim::Const(self.scratch_per_worker),
            sizes: (table > 0).then_some((Place::Arena(0), self.sizes)),
            bounds: self.bounds,
            counts: self.counts,
            rooms: moved.rooms,
            end: moved.end,
        }
    }

    /// The size below which no arrangement of the buffers can go: the most bytes that are live at one step.
    pub fn live_bytes(&self) -> u64 {
        memory::live_bytes(&self.buffers)
    }
}

/// A region and a byte in it.
type Spot = (Region, u64);

/// A step before buffers have offsets.
enum Draft {
    Call { func: Func, regions: Vec<Region>, origins: Vec<String>, op: String },
    If { cond: Spot, then: Vec<Draft>, otherwise: Vec<Draft> },
    Require { cond: Spot },
    Count { value: Spot, count: usize },
    Fits(Vec<(usize, Dim)>),
    Resize(Vec<(usize, Dim)>),
    Loop { iteration: Spot, trips: Option<Spot>, cond: Option<Spot>, body: Vec<Draft> },
}

struct Planner<'a> {
    target: &'a TargetDesc,
    /// Open sizes that functions use.
    sizes: &'a Sizes,
    /// Bounds of the symbols in open extents.
    bounds: &'a DimBounds,
    /// The symbols whose values come with a call.
    symbols: Vec<Arc<str>>,
    buffers: Vec<Buffer>,
    /// Per-worker scratch of one step at a time: the largest step decides.
    scratch: Vec<u64>,
    weights: Weights,
    /// Storage of the node at hand whose border is not written yet.
    uncleared: Vec<(Storage, onnxc_ir::DType)>,
    /// Sizes that data decides on.
    counts: Vec<Count>,
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
        if node.op.name == "prefix" {
            self.count(level, node, drafts);
        }
        if let onnxc_ir::op::Lower::View(view) = node.op.lower {
            nodes::same_count(self, level, node, view, drafts);
        }
        if let Some(view) = node.op.lower.view()
            && !node.outputs.iter().any(|id| level.is_pinned(*id))
        {
            match self.view(level, node, view, drafts) {
                Ok(()) => return,
                // No view after all, but there is code.
                Err(_) if matches!(node.op.lower, onnxc_ir::op::Lower::ViewOrNest(..)) => {}
                Err(error) => {
                    self.errors.push(error);
                    return self.results(level, n, node, drafts);
                }
            }
        }
        self.results(level, n, node, drafts);
        match nodes::call(self, level, node) {
            // A concatenation whose parts were all written in place has nothing left to do.
            Ok(Draft::Call { func, .. }) if func.body.is_empty() => {}
            Ok(draft) => drafts.push(draft),
            Err(error) => self.errors.push(error),
        }
    }

    /// Takes down how many elements a `prefix` has, if its operand decides on that.
    fn count(&mut self, level: &mut storage::Level, node: &Node, drafts: &mut Vec<Draft>) {
        let symbol = node.attrs.str("count").unwrap_or_default();
        if !has_symbol(level.graph.ty(node.outputs[0]), symbol) {
            return;
        }
        let number = node.inputs[1].expect("internal: inference accepts a missing operand");
        let value = branch::spot(self, level, number, drafts);
        let count = self.count_of(symbol);
        drafts.push(Draft::Count { value, count });
        self.time += 1;
    }

    /// The number of a count.
    fn count_of(&mut self, symbol: &str) -> usize {
        self.counts.iter().position(|c| c.name == symbol).unwrap_or_else(|| {
            let (_, bound) = self.bounds.get(symbol).copied().expect("internal: a count without a bound");
            let size = self.sizes.place(&Dim::sym(symbol));
            self.counts.push(Count { name: symbol.to_string(), bound, size });
            self.counts.len() - 1
        })
    }

    /// Steps that give symbols new values, which may be too large; `between` them what is done while the old ones hold.
    fn resize(&mut self, sizes: Vec<(usize, Dim)>, drafts: &mut Vec<Draft>, between: impl FnOnce(&mut Self, &mut Vec<Draft>)) {
        if sizes.is_empty() {
            return between(self, drafts);
        }
        drafts.push(Draft::Fits(sizes.clone()));
        between(self, drafts);
        drafts.push(Draft::Resize(sizes));
        self.time += 1;
    }

    /// Gives the results of a node their storage, borders cleared.
    fn results(&mut self, level: &mut storage::Level, n: usize, node: &Node, drafts: &mut Vec<Draft>) {
        for id in &node.outputs {
            level.allocate(self, n, node, *id);
        }
        for (storage, dtype) in std::mem::take(&mut self.uncleared) {
            drafts.push(zeros::clear(self, &storage, dtype, &level.graph.value(node.outputs[0]).name));
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
        self.buffers.push(Buffer { bytes, open: None, first: self.time, last: self.time });
        Region::Buffer(self.buffers.len() - 1)
    }

    /// A new arena buffer for a view with elements of so many bytes; `around` it, so many more elements before and behind each dimension.
    fn buffer_for(&mut self, view: &View, around: &[(u64, u64)], bytes: u64) -> Region {
        let border = |d: usize| around.get(d).map_or(0, |(lo, hi)| lo + hi);
        let whole = View { shape: (0..view.shape.len()).map(|d| view.shape[d] + border(d)).collect(), ..view.clone() };
        let region = self.buffer(crate::layout::span(&whole) * bytes);
        if view.is_fixed() {
            return region;
        }
        let (mut used, mut constant) = (Dim::Const(0), 1i64);
        for (d, extent) in view.extents().into_iter().enumerate() {
            let n = extent.open.filter(|n| self.of_inputs(n)).unwrap_or(Dim::Const(extent.bound));
            used = used.add(&n.mul(&Dim::Const(view.strides[d].unsigned_abs())));
            constant += (border(d) as i64 - 1) * view.strides[d];
        }
        let used = used.offset(constant).mul(&Dim::Const(bytes));
        if let Some(buffer) = self.buffers.last_mut().filter(|_| used.as_const().is_none()) {
            buffer.open = Some(used);
        }
        region
    }

    /// Is a size known when a call begins?
    fn of_inputs(&self, size: &Dim) -> bool {
        let mut symbols = Vec::new();
        size.symbols(&mut symbols);
        symbols.iter().all(|s| self.symbols.contains(s))
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

/// Symbols in the extents of a graph's inputs.
fn symbols(graph: &Graph) -> Vec<Arc<str>> {
    let mut all = Vec::new();
    graph.inputs.iter().flat_map(|id| &graph.ty(*id).shape).for_each(|d| d.symbols(&mut all));
    all
}

/// Is a symbol an extent of a type?
fn has_symbol(ty: &TensorType, symbol: &str) -> bool {
    ty.shape.contains(&Dim::sym(symbol))
}

impl Draft {
    fn settle(self, offsets: &[Place]) -> Step {
        let list = |drafts: Vec<Draft>| drafts.into_iter().map(|d| d.settle(offsets)).collect();
        let spot = |(region, byte): Spot| match region.place(offsets) {
            Place::Arena(o) => Place::Arena(o + byte),
            Place::Room { slot, byte: o } => Place::Room { slot, byte: o + byte },
            other => other,
        };
        match self {
            Draft::Call { func, regions, origins, op } => {
                let places = regions.into_iter().map(|r| r.place(offsets)).collect();
                Step::Call { func, places, origins, op }
            }
            Draft::If { cond, then, otherwise } => Step::If { cond: spot(cond), then: list(then), otherwise: list(otherwise) },
            Draft::Require { cond } => Step::Require { cond: spot(cond) },
            Draft::Count { value, count } => Step::Count { value: spot(value), count },
            Draft::Fits(sizes) => Step::Fits { sizes },
            Draft::Resize(sizes) => Step::Resize { sizes },
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
            BufKind::Same(of) => regions[of.0 as usize],
            BufKind::Const(blob) => Region::Weights(planner.weights.add(blob.clone())),
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
