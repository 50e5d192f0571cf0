//! A small pool of threads behind `parallel_for`.
//!
//! Worker w of n runs tasks `w*tasks/n .. (w+1)*tasks/n`, always the same ones: the same worker finds the same data in its caches in the next
//! layer, and nothing is shared but one counter. The calling thread is worker 0. Idle workers spin for a moment, because the next layer
//! usually follows at once, then sleep. A call while the pool is busy (from a task, or from another thread that shares the pool) runs its
//! tasks on the calling thread.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::hooks::{Hooks, Parallel, Task};

/// Rounds that a thread spins before it sleeps: some tens of microseconds.
const SPINS: u32 = 10_000;
/// Rounds after which it offers its core to others: some hundreds of nanoseconds.
const ROUNDS: u32 = 64;

/// What the workers are to do.
#[derive(Clone, Copy)]
struct Job {
    /// The task; its true lifetime is that of the call that put it here, which returns only after `pending` is zero.
    task: Task<'static>,
    tasks: u32,
    workers: u32,
}

struct Shared {
    /// Written by the caller before it raises `generation`, read by workers until they lower `pending`.
    job: UnsafeCell<Option<Job>>,
    /// Number of jobs so far; a change is the signal to begin.
    generation: AtomicU64,
    /// Workers that have not finished the job.
    pending: AtomicU32,
    stop: AtomicBool,
    begun: Sleep,
    finished: Sleep,
}

/// Threads that wait for a change of an atomic which others make: first awake, then asleep. Who makes the change pays for waking only if someone sleeps.
struct Sleep {
    /// Rounds that a thread stays awake.
    rounds: u32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Sleep {
    const fn new(rounds: u32) -> Sleep {
        Sleep { rounds, sleepers: AtomicU32::new(0), lock: Mutex::new(()), wake: Condvar::new() }
    }

    /// Returns when `changed` has a value, which it makes of one load that is sequentially consistent.
    fn until<T>(&self, changed: impl Fn() -> Option<T>) -> T {
        for round in 1..=self.rounds {
            if let Some(value) = changed() {
                return value;
            }
            // Who makes the change may be waiting for this core.
            if round % ROUNDS == 0 { thread::yield_now() } else { spin_loop() }
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Either the change is seen below, or who makes it sees that someone sleeps, and waits for the lock before it wakes.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            if let Some(value) = changed() {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                return value;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// To be called after the change, which must be sequentially consistent.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}

// SAFETY: `job` is written only while no worker reads it (`pending` is zero), and `generation` orders the write before the reads.
#[expect(unsafe_code, reason = "one cell handed over by an atomic")]
unsafe impl Sync for Shared {}

/// Threads that run a model's tasks. Dropping it joins them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held by the thread that uses the workers.
    busy: AtomicBool,
}

impl ThreadPool {
    /// A pool of `threads` workers, the calling thread counted: `threads - 1` are started. 0 counts as 1.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn new(threads: u32) -> io::Result<ThreadPool> {
        // With fewer cores than threads, who stays awake keeps the others from working.
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let rounds = if threads as usize <= cores { SPINS } else { 0 };
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            generation: AtomicU64::new(0),
            pending: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            begun: Sleep::new(rounds),
            finished: Sleep::new(rounds),
        });
        let mut pool = ThreadPool { shared, threads: Vec::new(), busy: AtomicBool::new(false) };
        for worker in 1..threads {
            let shared = pool.shared.clone();
            // On failure the pool is dropped, which joins those that have started.
            pool.threads.push(thread::Builder::new().name(format!("onnxc-{worker}")).spawn(move || shared.work(worker))?);
        }
        Ok(pool)
    }

    /// Number of workers, the calling thread counted.
    pub fn threads(&self) -> u32 {
        self.threads.len() as u32 + 1
    }

    /// Hooks with this pool.
    pub fn hooks(&self) -> Hooks<'_> {
        Hooks { parallel: Some(self), profile: None }
    }

    /// Runs `f(i, worker)` for every `i < tasks` on at most `max_workers` workers.
    pub fn run<F: Fn(u32, u32) + Sync>(&self, tasks: u32, max_workers: u32, f: F) {
        let task = Task::of(&f);
        self.parallel_for(tasks, max_workers, task);
    }
}

// SAFETY: indices are divided into disjoint ranges that together are `0..tasks`, one for each worker number; worker numbers below
// `max_workers`, each with one thread. `pending` with release and acquire makes the effects visible.
#[expect(unsafe_code, reason = "implements the contract of `Parallel`")]
unsafe impl Parallel for ThreadPool {
    fn parallel_for(&self, tasks: u32, max_workers: u32, task: Task) -> bool {
        let workers = self.threads().min(max_workers).min(tasks);
        // A pool that is busy, perhaps with the very task that calls us, is not waited for.
        if workers < 2 || self.busy.swap(true, Ordering::Acquire) {
            run_range(task, 0..tasks, 0);
            return true;
        }
        // SAFETY: only the lifetime changes. `finish` below waits until no worker uses the task.
        let task: Task<'static> = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        self.shared.begin(Job { task, tasks, workers }, self.threads.len() as u32);
        run_range(task, part(tasks, 0, workers), 0);
        self.shared.finish();
        self.busy.store(false, Ordering::Release);
        true
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.signal();
        for thread in self.threads.drain(..) {
            // A worker that has panicked has told so on standard error.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn signal(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.begun.wake();
    }

    #[expect(unsafe_code, reason = "writes the job")]
    fn begin(&self, job: Job, threads: u32) {
        // SAFETY: the caller holds `busy` and the job before this one is finished, so no worker reads the cell.
        unsafe { *self.job.get() = Some(job) };
        self.pending.store(threads, Ordering::Relaxed);
        self.signal();
    }

    fn finish(&self) {
        self.finished.until(|| (self.pending.load(Ordering::SeqCst) == 0).then_some(()));
    }

    /// Body of a worker thread.
    #[expect(unsafe_code, reason = "reads the job")]
    fn work(&self, worker: u32) {
        let mut seen = 0;
        loop {
            seen = self.begun.until(|| Some(self.generation.load(Ordering::SeqCst)).filter(|now| *now != seen));
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: `wait` has seen the generation that follows the write of the job; it stays until `pending` is zero.
            let Some(job) = (unsafe { *self.job.get() }) else { continue };
            if worker < job.workers {
                run_range(job.task, part(job.tasks, worker, job.workers), worker);
            }
            if self.pending.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.finished.wake();
            }
        }
    }
}

/// The tasks of a worker.
fn part(tasks: u32, worker: u32, workers: u32) -> std::ops::Range<u32> {
    let at = |w: u32| (u64::from(tasks) * u64::from(w) / u64::from(workers)) as u32;
    at(worker)..at(worker + 1)
}

#[expect(unsafe_code, reason = "runs tasks")]
fn run_range(task: Task, range: std::ops::Range<u32>, worker: u32) {
    for i in range {
        // SAFETY: the ranges of the workers are disjoint, and each worker number belongs to one thread during a job.
        unsafe { task.run(i, worker) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU8;

    #[test]
    fn every_task_runs_once_and_workers_do_not_overlap() {
        let pool = ThreadPool::new(3).unwrap();
        for round in 0..if cfg!(miri) { 3 } else { 2000 } {
            let tasks = round % 17;
            let ran: Vec<AtomicU8> = (0..tasks).map(|_| AtomicU8::new(0)).collect();
            let inside: [AtomicBool; 3] = std::array::from_fn(|_| AtomicBool::new(false));
            let max = 1 + round % 4;
            pool.run(tasks, max, |i, worker| {
                assert!(worker < max.min(3) && !inside[worker as usize].swap(true, Ordering::SeqCst));
                ran[i as usize].fetch_add(1, Ordering::SeqCst);
                inside[worker as usize].store(false, Ordering::SeqCst);
            });
            assert!(ran.iter().all(|n| n.load(Ordering::SeqCst) == 1), "round {round}");
        }
    }

    #[test]
    fn nested_and_concurrent_calls_finish() {
        let pool = ThreadPool::new(2).unwrap();
        let total = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..if cfg!(miri) { 2 } else { 100 } {
                        pool.run(8, 2, |_, _| pool.run(4, 2, |_, _| _ = total.fetch_add(1, Ordering::Relaxed)));
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 8 * 4 * if cfg!(miri) { 2 } else { 100 });
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = ThreadPool::new(2).unwrap();
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(5));
            let workers = AtomicU32::new(0);
            pool.run(2, 2, |_, worker| _ = workers.fetch_or(1 << worker, Ordering::Relaxed));
            assert_eq!(workers.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn parts_cover_everything() {
        for workers in 1..9 {
            for tasks in 0..40 {
                let mut next = 0;
                for w in 0..workers {
                    let p = part(tasks, w, workers);
                    assert_eq!(p.start, next);
                    next = p.end;
                }
                assert_eq!(next, tasks);
            }
        }
        assert_eq!(part(u32::MAX, 1, 2), u32::MAX / 2..u32::MAX);
    }
}
