//! What a lowered function does: arithmetic operations, bytes that it touches, kernels that it calls.
//!
//! The numbers are facts of the loop nest: trip counts times statements, and for kernels what their description says. Nothing is measured and nothing
//! is known of a machine, so that profiles, listings and cost models can all use them. Loops are walked once for all their rounds; those that decide on
//! branches or on the bounds of other loops are walked round by round.

mod count;
pub mod energy;
mod footprint;
mod index;
pub mod latency;
pub mod roof;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;

use crate::DType;
use crate::lir::{BufKind, Func, Var};
use crate::plan::{Place, Plan};

/// Operations, by what a machine needs for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ops {
    /// Float operations of products: a multiplication and an addition are two.
    pub products: u64,
    /// The same of products of 8-bit integers.
    pub dots: u64,
    /// Other float operations. Functions such as exp count as the basic operations that they are made of (`ir::math`), conversions as none.
    pub floats: u64,
    /// Other integer operations on data; indices do not count.
    pub ints: u64,
}

impl Ops {
    /// Float operations.
    pub fn flops(&self) -> u64 {
        self.products.saturating_add(self.floats)
    }

    /// All operations.
    pub fn all(&self) -> u64 {
        self.flops().saturating_add(self.dots).saturating_add(self.ints)
    }

    fn add(&mut self, other: Ops, times: u64) {
        let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b.saturating_mul(times));
        sum(&mut self.products, other.products);
        sum(&mut self.dots, other.dots);
        sum(&mut self.floats, other.floats);
        sum(&mut self.ints, other.ints);
    }
}

/// Bytes of a buffer that a function touches, each counted once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Touched {
    /// Reads.
    pub read: u64,
    /// Writes.
    pub written: u64,
}

/// Calls of one kind of kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Calls {
    /// How often it is called.
    pub calls: u64,
    /// Operations of all calls.
    pub ops: u64,
}

/// Forms of kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Tiles of f32.
    Products,
    /// Tiles of 8-bit integers.
    Dots,
    /// The same with short weights; products of so many steps add up within 16 bits.
    ShortDots(u32),
    /// Tiles of 16-bit integers.
    WordDots,
    /// Depthwise rows of f32.
    Depthwise,
    /// Depthwise rows of bytes.
    DepthwiseBytes,
    /// The same by dot products over the rows of a column.
    DepthwiseColumns,
    /// Bytes read from a table.
    Lookups,
}

/// Calls of a kernel from one place.
#[derive(Clone, PartialEq, Debug)]
pub struct KernelWork {
    /// Form.
    pub form: Form,
    /// How often it is called.
    pub calls: u64,
    /// Rows of the tile, outputs of a depthwise row.
    pub rows: u64,
    /// Columns of the panel, channels of a depthwise row.
    pub columns: u64,
    /// Columns that are written.
    pub written: u64,
    /// Steps of k, or taps, or operands that columns of taps make.
    pub steps: u64,
    /// Rounds of the innermost loop.
    pub inner: u64,
    /// Steps are those of a list.
    pub list: bool,
    /// What B has, if that becomes floats as it is loaded.
    pub coded: Option<DType>,
    /// Instructions of the epilogue for a vector of results, and those where bytes are looked up in tables.
    pub epilogue: (u64, u64),
    /// Of the operands that are read in more than one call: bytes that are read again, and bytes that are read between.
    pub again: Vec<(u64, u64)>,
}

/// What a loop does beside its inner loops and the kernels that it calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoopWork {
    /// How often it begins.
    pub entered: u64,
    /// Rounds in all.
    pub rounds: u64,
    /// Rounds of the vector loop that it is, or that it is in.
    pub vector: Option<u64>,
    /// Operations and conversions in all rounds.
    pub ops: u64,
    /// Loads and stores that lie side by side in a vector loop, or are the same in all of its rounds.
    pub moves: u64,
    /// Those that do not.
    pub scattered: u64,
}

/// What one call of a function does.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Work {
    /// Operations.
    pub ops: Ops,
    /// For each buffer of the function, in their order.
    pub bufs: Vec<Touched>,
    /// Kernels by the name of their kind, `tile f32 14x32`.
    pub kernels: BTreeMap<String, Calls>,
    /// The same by the places that they are called from.
    pub parts: Vec<KernelWork>,
    /// Loops that load, store or compute something.
    pub loops: BTreeMap<Var, LoopWork>,
    /// Most rounds of a loop whose rounds are tasks; 1 where there is none.
    pub tasks: u64,
    /// Does the function have a vector loop, any loop?
    pub vector_loops: bool,
    /// Rounds of all innermost statements outside of kernels that store something.
    pub stores: u64,
    /// False: trip counts or branches depend on data or open sizes, and the numbers are what the largest sizes and the longer branches make them;
    /// loops without bound count as one round.
    pub exact: bool,
}

/// Where the bytes that a function moves live. Scratch memory is not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Read from the weights.
    pub weights: u64,
    /// Read from the arena and the caller's inputs.
    pub read: u64,
    /// Written to the arena and the caller's outputs.
    pub written: u64,
}

impl Traffic {
    /// All of it.
    pub fn bytes(&self) -> u64 {
        self.weights.saturating_add(self.read).saturating_add(self.written)
    }
}

impl Work {
    /// Analyses a function. `sizes` are the smallest and largest values of the table of sizes, if it reads that.
    pub fn of(func: &Func, sizes: &[(u64, u64)]) -> Work {
        count::count(func, sizes)
    }

    /// Smallest and largest values of the table of sizes of a plan.
    pub fn sizes(plan: &Plan) -> Vec<(u64, u64)> {
        plan.sizes.iter().flat_map(|(_, dims)| dims).map(|d| d.range(&plan.bounds)).collect()
    }

    /// What moves when the buffers of `func`, which this is the work of, are at `places`. Buffers at one place count once.
    pub fn traffic(&self, func: &Func, places: &[Place]) -> Traffic {
        let (mut weights, mut read, mut written) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let most = |map: &mut BTreeMap<Place, u64>, place: Place, n: u64| {
            let at = map.entry(place).or_default();
            *at = n.max(*at);
        };
        for ((buf, touched), place) in func.bufs.iter().zip(&self.bufs).zip(places) {
            match (&buf.kind, place) {
                (kind, _) if is_own(func, kind) => {}
                (_, Place::WorkerScratch(_)) => {}
                (BufKind::Const(_), _) | (_, Place::Weights(_)) => most(&mut weights, *place, touched.read),
                // What is read again after it was written does not come from elsewhere.
                _ if touched.written > 0 => most(&mut written, *place, touched.written),
                _ => most(&mut read, *place, touched.read),
            }
        }
        let sum = |map: BTreeMap<Place, u64>| map.values().fold(0u64, |a, b| a.saturating_add(*b));
        Traffic { weights: sum(weights), read: sum(read), written: sum(written) }
    }

    /// The kernel that does most of the work, or the kind of the loops.
    pub fn kernel(&self) -> &str {
        match self.kernels.iter().max_by_key(|(_, c)| c.ops) {
            Some((name, _)) => name,
            None if self.stores == 0 => "nothing",
            None if self.ops.all() == 0 => "copy",
            None if self.vector_loops => "vector loops",
            None => "loops",
        }
    }
}

/// Memory that only the function sees; memory of several types is what it was first.
fn is_own(func: &Func, kind: &BufKind) -> bool {
    match kind {
        BufKind::Same(of) => is_own(func, &func.bufs[of.0 as usize].kind),
        _ => matches!(kind, BufKind::Scratch { .. } | BufKind::Sizes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::lir::{BufId, Expr, LoopKind, Stmt};
    use crate::scalar::BinOp;

    fn each(var: Var, lo: Expr, hi: Expr, body: Vec<Stmt>) -> Stmt {
        Stmt::For { var, lo, hi, step: 1, kind: LoopKind::Serial, body }
    }

    /// `y[i] = x[i] + 1`
    fn increment(x: BufId, y: BufId, i: Expr) -> Stmt {
        Stmt::Store(y, i.clone(), Expr::bin(BinOp::Add, Expr::Load(x, Box::new(i)), Expr::f32(1.0)))
    }

    #[test]
    fn rounds_that_decide_on_branches_and_bounds_are_walked_one_by_one() {
        let mut f = Func::default();
        let (x, y) = (f.buf(DType::F32, BufKind::Input(0)), f.buf(DType::F32, BufKind::Output(0)));
        let (i, j, end) = (f.var(DType::I64), f.var(DType::I64), f.var(DType::I64));
        let first = || Expr::Var(i).times(16);
        // Blocks of 16 of 100 elements; the sixth one is left out.
        let last = Expr::bin(BinOp::Min, first().add(Expr::Int(16)), Expr::Int(100));
        let block = each(j, first(), Expr::Var(end), vec![increment(x, y, Expr::Var(j))]);
        let skipped = Stmt::If(Expr::bin(BinOp::Eq, Expr::Var(i), Expr::Int(5)), vec![], vec![block]);
        f.body.push(each(i, Expr::Int(0), Expr::Int(7), vec![Stmt::Set(end, last), skipped]));
        let work = Work::of(&f, &[]);
        assert!(work.exact);
        assert_eq!((work.ops.floats, work.stores), (84, 84));
        assert_eq!(work.bufs, [Touched { read: 336, written: 0 }, Touched { read: 0, written: 336 }]);
        assert_eq!(work.kernel(), "loops");
    }

    #[test]
    fn memory_of_two_types_is_one_place() {
        let mut f = Func::default();
        let (x, y) = (f.buf(DType::U8, BufKind::Input(0)), f.buf(DType::U8, BufKind::Scratch { bytes: 64, per_worker: false }));
        let words = [x, y].map(|b| f.buf(DType::I32, BufKind::Same(b)));
        let i = f.var(DType::I64);
        let copy = Stmt::Store(words[1], Expr::Var(i), Expr::Load(words[0], Box::new(Expr::Var(i))));
        f.body.push(each(i, Expr::Int(0), Expr::Int(16), vec![copy]));
        let places = [Place::Arena(0), Place::Arena(64), Place::Arena(0), Place::Arena(64)];
        assert_eq!(Work::of(&f, &[]).traffic(&f, &places), Traffic { weights: 0, read: 64, written: 0 });
    }

    #[test]
    fn sizes_that_come_with_the_call_give_bounds() {
        let mut f = Func::default();
        let (x, y) = (f.buf(DType::F32, BufKind::Input(0)), f.buf(DType::F32, BufKind::Output(0)));
        let (sizes, i) = (f.buf(DType::I64, BufKind::Sizes), f.var(DType::I64));
        let n = Expr::Load(sizes, Box::new(Expr::Int(1)));
        f.body.push(each(i, Expr::Int(0), n, vec![increment(x, y, Expr::Var(i))]));
        let work = Work::of(&f, &[(1, 2), (3, 9)]);
        assert_eq!((work.exact, work.ops.floats, work.bufs[1].written), (false, 9, 36));
        assert!(Work::of(&f, &[(1, 2), (9, 9)]).exact);
        let traffic = work.traffic(&f, &[Place::Weights(0), Place::Arena(0), Place::Arena(64)]);
        assert_eq!(traffic, Traffic { weights: 36, read: 0, written: 36 });
    }
}
