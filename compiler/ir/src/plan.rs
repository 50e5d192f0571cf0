//! The plan: lowered functions in order, every buffer with its place. What the planner (passes) hands to code generation.

use crate::blob::Blob;
use crate::dim::{Dim, DimBounds};
use crate::graph::TensorType;
use crate::lir::{Func, LoopKind, Stmt};

/// Where a buffer lives. Offsets are in bytes from the start of the region, multiples of 64 except inside caller's buffers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Place {
    /// In the shared part of the arena.
    Arena(u64),
    /// In the shared part of the arena, so many bytes behind an offset that depends on open sizes: element `slot` of the table of sizes.
    Room {
        /// Which element.
        slot: u32,
        /// Bytes behind it.
        byte: u64,
    },
    /// In the part of the arena that each worker has for itself.
    WorkerScratch(u64),
    /// In the weight blob.
    Weights(u64),
    /// In the caller's input buffer n.
    Input(u32),
    /// In the caller's output buffer n.
    Output(u32),
}

/// One step of an inference.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Runs a function.
    Call {
        /// The code; one place per buffer of it follows.
        func: Func,
        /// `places[b]` is where `func.bufs[b]` lives.
        places: Vec<Place>,
        /// ONNX nodes that this step does the work of.
        origins: Vec<String>,
        /// The operator's mnemonic, for profiles.
        op: String,
    },
    /// Runs one of two lists of steps, by the bool at a place.
    If {
        /// Where the condition is (one byte, 0 or 1).
        cond: Place,
        /// Steps when it is 1.
        then: Vec<Step>,
        /// Steps when it is 0.
        otherwise: Vec<Step>,
    },
    /// Ends the inference with `ONNXC_DATA` unless the bool at a place holds.
    Require {
        /// Where the bool is (one byte, 0 or 1).
        cond: Place,
    },
    /// Takes down a size that data decides on: the value of a symbol from here on. The inference ends with `ONNXC_DATA` when it is beyond its bound.
    Count {
        /// Where it is (an i64).
        value: Place,
        /// Which one of [`Plan::counts`].
        count: usize,
    },
    /// Gives symbols values that sizes known by now decide on, all at once, from here on: what a loop carries is larger after an iteration, a
    /// result of `if` has the extents that it has in the branch that was taken.
    Resize {
        /// Which of [`Plan::counts`], each with its new value.
        sizes: Vec<(usize, Dim)>,
    },
    /// Ends the inference with `ONNXC_DATA` where a [`Step::Resize`] of the same sizes would exceed a bound.
    Fits {
        /// See [`Step::Resize`].
        sizes: Vec<(usize, Dim)>,
    },
    /// Runs steps again and again.
    Loop {
        /// Where the number of iterations so far is: an i64, 0 at first, that the steps may read.
        iteration: Place,
        /// Most iterations: an i64 at this place, if there is a limit. What it says is not negative, or no iteration is run.
        trips: Option<Place>,
        /// The bool that must hold before each iteration, if there is one; the steps write it anew.
        cond: Option<Place>,
        /// What an iteration does.
        body: Vec<Step>,
    },
}

impl Step {
    /// The lists of steps inside of this one.
    pub fn inner(&self) -> impl Iterator<Item = &[Step]> {
        let lists: [Option<&[Step]>; 2] = match self {
            Step::If { then, otherwise, .. } => [Some(then), Some(otherwise)],
            Step::Loop { body, .. } => [Some(body), None],
            _ => [None, None],
        };
        lists.into_iter().flatten()
    }
}

impl Step {
    /// Calls `f` on every place that this step, or one inside of it, names.
    pub fn each_place(&mut self, f: &mut impl FnMut(&mut Place)) {
        let list = |steps: &mut Vec<Step>, f: &mut _| steps.iter_mut().for_each(|s| s.each_place(f));
        match self {
            Step::Call { places, .. } => places.iter_mut().for_each(f),
            Step::Require { cond } => f(cond),
            Step::Count { value, .. } => f(value),
            Step::Resize { .. } | Step::Fits { .. } => {}
            Step::If { cond, then, otherwise } => {
                f(cond);
                list(then, f);
                list(otherwise, f);
            }
            Step::Loop { iteration, trips, cond, body } => {
                f(iteration);
                trips.iter_mut().chain(cond).for_each(&mut *f);
                list(body, f);
            }
        }
    }
}

/// An input or output of the model.
#[derive(Clone, PartialEq, Debug)]
pub struct Io {
    /// ONNX name.
    pub name: String,
    /// Type; open extents are expressions over symbols that the plan has bounds for.
    pub ty: TensorType,
    /// Of an output: the input whose buffer the caller may give for it too. That input is read from the output's buffer; the one step that reads
    /// the input brings it there, and is left out where both are the same.
    pub alias: Option<u32>,
}

/// A planned model.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Inputs in graph order.
    pub inputs: Vec<Io>,
    /// Outputs in graph order.
    pub outputs: Vec<Io>,
    /// The work.
    pub steps: Vec<Step>,
    /// Weight blob parts: (offset, bytes), ascending, not overlapping, 64-byte aligned.
    pub weights: Vec<(u64, Blob)>,
    /// Size of the weight blob.
    pub weights_bytes: u64,
    /// Shared arena bytes for the largest sizes.
    pub arena_shared: Dim,
    /// Scratch bytes of each worker.
    pub scratch_per_worker: Dim,
    /// Open sizes that the steps read, with their place in the arena: an i64 each, written before the first step, and again when a count is known.
    pub sizes: Option<(Place, Vec<Dim>)>,
    /// Smallest and largest values of the symbols in sizes and types.
    pub bounds: DimBounds,
    /// Sizes that data decides on.
    pub counts: Vec<Count>,
    /// Offsets of buffers that depend on open sizes: what `Place::Room` means. They stand in the table behind the sizes; each names earlier ones only.
    pub rooms: Vec<Room>,
    /// Where the shared arena ends for the sizes of a call.
    pub end: Room,
}

impl Plan {
    /// Bytes that a whole inference touches at most: weights, arena, inputs and outputs.
    pub fn touched_bytes(&self) -> u64 {
        let most = |d: &Dim| d.range(&self.bounds).1;
        let io = |list: &[Io]| -> u64 {
            let bytes = |io: &Io| io.ty.shape.iter().map(most).fold(io.ty.dtype.bytes(), u64::saturating_mul);
            list.iter().map(bytes).fold(0, u64::saturating_add)
        };
        let arena = most(&self.arena_shared).saturating_add(most(&self.scratch_per_worker));
        self.weights_bytes.saturating_add(arena).saturating_add(io(&self.inputs)).saturating_add(io(&self.outputs))
    }

    /// Is there a loop whose rounds are tasks?
    pub fn has_tasks(&self) -> bool {
        fn any(steps: &[Step]) -> bool {
            let parallel = |s: &Stmt| matches!(s, Stmt::For { kind: LoopKind::Parallel, .. });
            let own = |step: &Step| matches!(step, Step::Call { func, .. } if func.body.iter().any(parallel));
            steps.iter().any(|step| own(step) || step.inner().any(any))
        }
        any(&self.steps)
    }
}

/// An offset in the arena as a function of open sizes: behind all of these, a place and as many bytes each.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Room {
    /// Places with the bytes that are taken from there on.
    pub behind: Vec<(Base, Dim)>,
}

/// Where something in the arena begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    /// At an offset.
    At(u64),
    /// At the offset that this room has.
    Room(usize),
}

/// A size that data decides on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Count {
    /// Symbol that stands for it in types and sizes.
    pub name: String,
    /// Its largest value.
    pub bound: u64,
    /// Its place in the table of sizes.
    pub size: usize,
}

/// A dimension whose value comes with each call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenDim {
    /// Name.
    pub name: String,
    /// First and last of the ranges of values that there are plans for, ascending; a single value is a range too.
    pub ranges: Vec<(u64, u64)>,
    /// An input and an axis of it whose extent in every plan is a multiple of the value.
    pub from: (usize, usize),
    /// Which multiple.
    pub factor: u64,
}

/// One of several forms of a model between which the caller of a bundle chooses: what is known of it beside its plan.
#[derive(Clone, PartialEq, Debug)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// Predicted seconds of an inference on the target.
    pub seconds: f64,
    /// What it loses of the metric, 0 to 1, where that is known.
    pub drop: Option<f64>,
    /// Bytes of the weight blob that it reads.
    pub weights_bytes: u64,
}

/// A model planned for several values of its open dimensions, or in several forms. All plans have the same inputs and outputs but for their extents, and
/// one weight blob.
#[derive(Clone, PartialEq, Debug)]
pub struct Variants {
    /// The open dimensions.
    pub dims: Vec<OpenDim>,
    /// The points of a bundle, one for each plan; then no dimension is open.
    pub points: Vec<Point>,
    /// For every combination of their ranges, in the order of `dims`, a plan.
    pub plans: Vec<(Vec<(u64, u64)>, Plan)>,
}
