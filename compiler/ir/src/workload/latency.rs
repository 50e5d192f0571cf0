//! How long work takes: an analytical model of one layer.
//!
//! The walk over a lowered function ([`super::Work`]) counts steps of a few kinds ([`Steps`]): multiplications of tiles with what surrounds them, epilogues,
//! loops, calls, and bytes by the cache that they come from. The description of a target has the cycles that a step of each kind takes
//! ([`Machine`]), and time is their sum, with memory in parallel as far as it can be. Constants are those of kinds of kernels, fitted to all layers of many
//! networks together and to no layer by itself.
//!
//! The levels follow the distance between uses: what a loop reads again comes from the smallest cache that holds everything that is read between (Mattson
//! et al., "Evaluation techniques for storage hierarchies", 1970, for whole operands instead of lines). Latency that computation hides is not modelled
//! further than by the part of memory time that stays visible.

use serde::{Deserialize, Serialize};

use super::roof::curve;
use super::{Form, KernelWork, LoopWork, Traffic, Work};
use crate::kernel::LOOKUP_BYTES;
use crate::target::{Level, Machine, TargetDesc};

/// Steps of each kind; one call of a function has so many. Vectors are of the target's width.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Steps {
    /// Vectors multiplied and added by f32 tiles.
    pub fma: f64,
    /// The same of products of 8-bit integers, four of each lane.
    pub dot: f64,
    /// The same with short weights, within 16 bits.
    #[serde(default)]
    pub short_dot: f64,
    /// The same of 16-bit integers, two of each lane.
    #[serde(default)]
    pub word_dot: f64,
    /// Vectors of sums within 16 bits that are added to those of 32 bits.
    #[serde(default)]
    pub short_sum: f64,
    /// Those of [`Steps::fma`] that are of tiles of one vector.
    #[serde(default)]
    pub lone: f64,
    /// Elements of A that tiles spread over a vector.
    pub splat: f64,
    /// Vectors of B that tiles load.
    pub panel: f64,
    /// Those of them that become floats as they are loaded: bytes, numbers of a table's elements.
    pub decoded: [f64; 2],
    /// Steps of lists, and the elements of A that they spread.
    pub listed: (f64, f64),
    /// Times that the innermost loop of a tile begins.
    pub inner: f64,
    /// Calls of kernels.
    pub calls: f64,
    /// Vectors of results that tiles begin and store.
    pub results: f64,
    /// Operations of epilogues on vectors, with loads of their operands.
    pub epilogue: f64,
    /// Vectors multiplied and added by depthwise kernels: f32, bytes, dot products of columns.
    pub depthwise: [f64; 3],
    /// Operations of vector loops, on vectors.
    pub vector_ops: f64,
    /// Vectors that vector loops load and store side by side.
    pub vector_moves: f64,
    /// Elements that vector loops load and store far from each other.
    pub scattered: f64,
    /// Operations, loads and stores of loops that go element by element.
    pub plain: f64,
    /// Beginnings of innermost loops.
    pub loops: f64,
    /// Bytes that are read again, each time, and how many are read between.
    pub again: Vec<(u64, u64)>,
}

/// All that the time of a layer is predicted from, beside what the core takes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Terms {
    /// Steps of all tasks.
    pub steps: Steps,
    /// Tasks that run side by side, and meet behind the layer.
    pub threads: f64,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of activations, read and written.
    pub near: u64,
    /// Bytes that the whole inference touches.
    pub around: u64,
    /// Does the second cache hold less than that?
    pub cold: bool,
    /// Threads that the code is made for: what one has written another one may read.
    pub team: f64,
    /// Does each task read weights of its own?
    pub own_weights: bool,
    /// Bytes of the first cache.
    pub l1: u64,
}

/// What a layer is predicted to take.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Latency {
    /// Seconds of arithmetic, of loops and calls.
    pub compute: f64,
    /// Seconds of bringing what was not used just before.
    pub memory: f64,
    /// Seconds in all: less than the sum.
    pub seconds: f64,
}

impl Steps {
    /// Counts the steps of work. `plain` says that the target has no vector code for the loops.
    pub fn of(work: &Work, target: &TargetDesc, plain: bool) -> Steps {
        let (mut s, lanes) = (Steps::default(), target.lanes.max(1));
        work.parts.iter().for_each(|p| s.kernel(p, u64::from(lanes), target));
        work.loops.values().for_each(|l| s.loops(l, f64::from(lanes), plain));
        s
    }

    fn kernel(&mut self, p: &KernelWork, lanes: u64, target: &TargetDesc) {
        let calls = p.calls as f64;
        if p.form == Form::Lookups {
            let bytes = calls * p.columns as f64;
            self.calls += calls;
            self.vector_ops += f64::from(target.byte_lookups) * bytes / LOOKUP_BYTES as f64;
            // A load and a store.
            self.vector_moves += 2.0 * bytes / (4 * lanes) as f64;
            return;
        }
        let vectors = p.columns.div_ceil(lanes) as f64;
        let results = calls * (p.rows * p.written.div_ceil(lanes)) as f64;
        self.calls += calls;
        self.results += results;
        self.epilogue += results * if target.byte_tables { p.epilogue.1 } else { p.epilogue.0 } as f64;
        let depthwise = match p.form {
            Form::Products | Form::Dots | Form::ShortDots(_) | Form::WordDots => {
                // Vectors of a panel behind the columns that are written are left out.
                let vectors = p.written.div_ceil(lanes) as f64;
                let steps = calls * p.steps as f64;
                let products = match p.form {
                    Form::Dots => &mut self.dot,
                    Form::WordDots => &mut self.word_dot,
                    Form::ShortDots(together) => {
                        self.short_sum += steps / p.inner as f64 * sums(p, together) * p.rows as f64 * vectors;
                        &mut self.short_dot
                    }
                    _ => &mut self.fma,
                };
                *products += steps * p.rows as f64 * vectors;
                if vectors == 1.0 && p.form == Form::Products {
                    self.lone += steps * p.rows as f64;
                }
                self.splat += steps * p.rows as f64;
                self.panel += steps * vectors;
                if let Some(dtype) = p.coded {
                    self.decoded[usize::from(dtype.bits() < 8)] += steps * vectors;
                }
                if p.list {
                    self.listed = (self.listed.0 + steps, self.listed.1 + steps * p.rows as f64);
                }
                self.inner += steps / p.inner as f64;
                None
            }
            Form::Depthwise => Some(0),
            Form::DepthwiseBytes => Some(1),
            Form::DepthwiseColumns => Some(2),
            Form::Lookups => None,
        };
        if let Some(kind) = depthwise {
            self.depthwise[kind] += calls * (p.rows * p.steps) as f64 * vectors;
        }
        for (bytes, between) in &p.again {
            self.again.push((*bytes, *between));
        }
    }

    fn loops(&mut self, l: &LoopWork, lanes: f64, plain: bool) {
        match l.vector.filter(|_| !plain && lanes > 1.0) {
            Some(rounds) => {
                let itself = l.rounds == rounds.saturating_mul(l.entered);
                let rounds = rounds.max(1) as f64;
                // The last vector may be filled in part.
                let filled = rounds / (rounds / lanes).ceil();
                // A loop in a vector loop begins once for all lanes.
                self.loops += l.entered as f64 / if itself { 1.0 } else { filled };
                self.vector_ops += l.ops as f64 / filled;
                self.vector_moves += l.moves as f64 / filled;
                self.scattered += l.scattered as f64;
            }
            None => {
                self.loops += l.entered as f64;
                self.plain += (l.ops + l.moves + l.scattered) as f64;
            }
        }
    }
}

/// How often a run of the innermost loop adds sums of `together` steps within 16 bits to those of 32 bits. The last steps of a list come one by one.
fn sums(p: &KernelWork, together: u32) -> f64 {
    let together = u64::from(together.max(1));
    let apart = if p.list { p.inner % together } else { u64::from(!p.inner.is_multiple_of(together)) };
    (p.inner / together + apart) as f64
}

impl Machine {
    /// Cycles of a tile of so many rows and vectors, for so many steps of k.
    pub fn tile(&self, rows: f64, vectors: f64, steps: f64, int8: bool) -> f64 {
        let product = if int8 { self.dot } else { self.fma };
        steps * (rows * vectors * product + rows * self.splat + vectors * self.panel)
    }

    /// Cycles in which so many bytes come from where `held` bytes stay.
    pub fn moving(&self, bytes: f64, held: u64) -> f64 {
        bytes / self.rate(held, |l| l.read)
    }

    /// Cycles in which so many bytes are written and read again, `held` of them at a time, while other data passes through the same caches.
    pub fn spilling(&self, bytes: f64, held: u64) -> f64 {
        bytes / self.rate(held, |l| l.spilled)
    }

    /// Between levels a part stays in the nearer one: the rate changes with the logarithm of the size.
    fn rate(&self, held: u64, of: impl Fn(&Level) -> f64) -> f64 {
        let points: Vec<(u64, f64)> = self.levels.iter().map(|l| (l.bytes, of(l))).collect();
        curve(&points, held).max(1e-3)
    }

    /// Cycles of moving memory that are seen beside so many cycles of computation.
    pub fn seen(&self, moving: f64, computing: f64) -> f64 {
        (moving - computing).max(0.0) + self.visible * moving.min(computing)
    }

    /// Cycles of steps, but for what they read again from far away.
    pub fn cycles(&self, s: &Steps) -> f64 {
        let depthwise: f64 = s.depthwise.iter().zip(&self.depthwise).map(|(n, cycles)| n * cycles).sum();
        depthwise
            + s.fma * self.fma
            + s.dot * self.dot
            + s.short_dot * self.short_dot
            + s.word_dot * self.word_dot
            + s.short_sum * self.short_sum
            + s.lone * self.lone
            + s.splat * self.splat
            + s.panel * self.panel
            + s.decoded[0] * self.decode[0]
            + s.decoded[1] * self.decode[1]
            + s.listed.0 * self.list.0
            + s.listed.1 * self.list.1
            + s.inner * self.inner
            + s.calls * self.call
            + s.results * self.result
            + s.epilogue * self.epilogue
            + s.vector_ops * self.vector_op
            + s.vector_moves * self.vector_move
            + s.scattered * self.scattered
            + s.plain * self.plain
            + s.loops * self.enter
    }
}

impl Terms {
    /// Those of a layer that does `work` and moves `moved`, in an inference that touches `around` bytes, on the threads that the code is made for. `plain`
    /// says that the target has no vector code for its loops.
    pub fn of(target: &TargetDesc, work: &Work, moved: &Traffic, around: u64, plain: bool) -> Terms {
        let (team, tasks) = (u64::from(target.max_threads.max(1)), work.tasks.max(1));
        Terms {
            steps: Steps::of(work, target, plain),
            // Of three tasks one of two threads has two.
            threads: tasks as f64 / tasks.div_ceil(team) as f64,
            team: team as f64,
            // Products of one row are divided by columns.
            own_weights: !work.parts.is_empty() && work.parts.iter().all(|p| p.rows == 1),
            weights: moved.weights,
            near: moved.read.saturating_add(moved.written),
            around,
            cold: around > target.l2_bytes,
            l1: target.l1_bytes,
        }
    }

    /// What a core takes for them.
    pub fn latency(&self, m: &Machine) -> Latency {
        let compute = m.cycles(&self.steps) / self.threads;
        // What is read again from the first cache costs the loads that are counted.
        let far = |a: &&(u64, u64)| a.1 > self.l1;
        let again: f64 = self.steps.again.iter().filter(far).map(|(bytes, between)| m.moving(*bytes as f64, *between)).sum();
        let shares = if self.own_weights { self.threads } else { 1.0 };
        let weights = m.moving(self.weights as f64 / shares, (self.around as f64 / shares) as u64) + again / self.threads;
        // What was divided otherwise before is in the caches of other cores.
        let exchanged = self.near as f64 * (1.0 - 1.0 / self.team) / m.exchange.max(1e-3);
        let handed = m.spilling(self.near as f64, self.near) / self.threads + exchanged;
        // Code, like weights, comes back with the next inference.
        let begin = m.step + if self.cold { m.cold_step } else { 0.0 } + if self.threads > 1.0 { m.barrier } else { 0.0 };
        let cycles = compute + m.seen(weights, compute) + m.seen(handed, compute) + begin;
        let seconds = |cycles: f64| cycles / (m.ghz * 1e9);
        Latency { compute: seconds(compute), memory: seconds(weights + handed), seconds: seconds(cycles) }
    }
}

/// Predicts a layer; arguments as those of [`Terms::of`].
pub fn predict(target: &TargetDesc, work: &Work, moved: &Traffic, around: u64, plain: bool) -> Latency {
    Terms::of(target, work, moved, around, plain).latency(&target.machine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::lir::Var;
    use crate::workload::testing::target;
    use crate::workload::{Form, KernelWork, LoopWork};

    const LEVELS: [Level; 4] = [level(1 << 10, 64.0), level(1 << 14, 16.0), level(1 << 18, 4.0), level(1 << 22, 1.0)];

    const fn level(bytes: u64, rate: f64) -> Level {
        Level { bytes, read: rate, spilled: rate }
    }

    #[test]
    fn rates_fall_with_the_size() {
        let m = Machine { levels: LEVELS, visible: 0.25, ..Machine::default() };
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got}, not {want}");
        close(m.moving(64.0, 1), 1.0);
        close(m.moving(64.0, 1 << 14), 4.0);
        close(m.moving(64.0, u64::MAX), 64.0);
        // Half way between two levels, by logarithms.
        close(m.spilling(32.0, 1 << 12), 1.0);
        assert_eq!((m.seen(10.0, 100.0), m.seen(100.0, 10.0)), (2.5, 92.5));
    }

    #[test]
    fn steps_are_vectors_of_the_target() {
        let mut work = Work::default();
        let again = vec![(100, 50)];
        work.parts.push(KernelWork {
            form: Form::Products,
            calls: 10,
            rows: 3,
            columns: 32,
            written: 20,
            steps: 8,
            inner: 4,
            list: true,
            coded: Some(DType::U4),
            epilogue: (2, 1),
            again: again.clone(),
        });
        let of = |lanes: u32| TargetDesc { lanes, ..target() };
        assert_eq!(Steps::of(&work, &of(16), false).listed, (80.0, 240.0));
        assert_eq!(Steps::of(&work, &TargetDesc { byte_tables: true, ..target() }, false).epilogue, 60.0);
        assert_eq!(Steps::of(&work, &of(16), false).decoded, [0.0, 160.0]);
        // 20 elements are two vectors, of ten each.
        work.loops.insert(Var(0), LoopWork { entered: 5, rounds: 100, vector: Some(20), ops: 200, moves: 100, scattered: 7 });
        let s = Steps::of(&work, &of(16), false);
        assert_eq!(
            (s.fma, s.splat, s.panel, s.inner, s.calls, s.results, s.epilogue),
            (480.0, 240.0, 160.0, 20.0, 10.0, 60.0, 120.0)
        );
        assert_eq!((s.vector_ops, s.vector_moves, s.scattered, s.plain, s.again), (20.0, 10.0, 7.0, 0.0, again));
        assert_eq!(Steps::of(&work, &of(16), true).plain, 307.0);
        // 20 columns are one vector of 32 lanes, and of 16 two.
        assert_eq!([16, 32].map(|lanes| Steps::of(&work, &of(lanes), false).lone), [0.0, 240.0]);
        assert_eq!(Steps::of(&work, &of(1), false).fma, 10.0 * 8.0 * 3.0 * 20.0);
    }

    #[test]
    fn short_sums_are_those_of_steps_together() {
        let part = |together, list, inner| KernelWork {
            form: Form::ShortDots(together),
            calls: 10,
            rows: 3,
            columns: 16,
            written: 16,
            steps: 2 * inner,
            inner,
            list,
            coded: None,
            epilogue: (0, 0),
            again: Vec::new(),
        };
        let counted = |together, list, inner| {
            let work = Work { parts: vec![part(together, list, inner)], ..Work::default() };
            let s = Steps::of(&work, &TargetDesc { lanes: 8, ..target() }, false);
            assert_eq!((s.dot, s.short_dot), (0.0, (10 * 2 * inner * 3 * 2) as f64));
            s.short_sum / (10 * 2 * 3 * 2) as f64
        };
        assert_eq!((counted(1, false, 7), counted(2, false, 7), counted(4, false, 7)), (7.0, 4.0, 2.0));
        assert_eq!((counted(4, false, 8), counted(4, true, 7)), (2.0, 4.0));
    }
}
