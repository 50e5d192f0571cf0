//! Threads for models that run in this process: parked workers that share the tasks of one loop at a time.
//!
//! Each worker has tasks of its own, the same ones in every loop, so that it finds what it has written in its caches; who is done takes others'.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// How often a worker looks for new work before it parks.
const SPINS: u32 = 20_000;

type Job<'a> = dyn Fn(u32, u32) + Sync + 'a;

/// The next task of a worker's own, on a cache line by itself.
#[derive(Default)]
#[repr(align(64))]
struct Next(AtomicU32);

struct Shared {
    /// Number of the current job; odd while it runs.
    generation: AtomicU64,
    /// One for each worker.
    next: Vec<Next>,
    tasks: AtomicU32,
    /// Workers that have not left the current job.
    busy: AtomicUsize,
    job: Mutex<Option<&'static Job<'static>>>,
    sleep: Mutex<bool>,
    wake: Condvar,
}

/// A pool of `threads - 1` workers; the caller is worker 0.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    handles: Vec<std::thread::JoinHandle<()>>,
    /// One loop at a time.
    turn: Mutex<()>,
}

impl Pool {
    /// Starts the workers.
    pub fn new(threads: u32) -> Pool {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            next: (0..threads.max(1)).map(|_| Next::default()).collect(),
            tasks: AtomicU32::new(0),
            busy: AtomicUsize::new(0),
            job: Mutex::new(None),
            sleep: Mutex::new(false),
            wake: Condvar::new(),
        });
        let handles = (1..threads).map(|worker| {
            let shared = shared.clone();
            std::thread::spawn(move || work(&shared, worker))
        });
        Pool { handles: handles.collect(), shared, turn: Mutex::new(()) }
    }

    /// Workers with the caller.
    pub fn threads(&self) -> u32 {
        self.handles.len() as u32 + 1
    }

    /// Runs `job(i, worker)` for every `i < tasks`.
    pub fn run(&self, tasks: u32, job: &Job<'_>) {
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let s = &*self.shared;
        *lock(&s.job) = Some(extend(job));
        (0..).zip(&s.next).for_each(|(worker, next)| next.0.store(s.first(worker, tasks), Ordering::Relaxed));
        s.tasks.store(tasks, Ordering::Relaxed);
        s.busy.store(self.handles.len(), Ordering::Relaxed);
        {
            let _guard = lock(&s.sleep);
            s.generation.fetch_add(1, Ordering::Release);
        }
        s.wake.notify_all();
        take(s, job, 0);
        let mut spins = 0u32;
        while s.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins > SPINS { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        *lock(&s.job) = None;
    }
}

#[expect(unsafe_code, reason = "workers outlive the borrow in their type, not in time")]
fn extend<'a>(job: &'a Job<'a>) -> &'static Job<'static> {
    // SAFETY: `run` returns only after every worker has left the job, and clears it then.
    unsafe { std::mem::transmute::<&'a Job<'a>, &'static Job<'static>>(job) }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    /// The first of so many tasks that is a worker's own.
    fn first(&self, worker: u32, tasks: u32) -> u32 {
        (u64::from(worker) * u64::from(tasks) / self.next.len() as u64) as u32
    }
}

/// Runs a worker's own tasks, then what is left of others'.
fn take(s: &Shared, job: &Job<'_>, worker: u32) {
    let (workers, tasks) = (s.next.len() as u32, s.tasks.load(Ordering::Relaxed));
    for owner in (worker..workers).chain(0..worker) {
        let end = s.first(owner + 1, tasks);
        loop {
            let i = s.next[owner as usize].0.fetch_add(1, Ordering::Relaxed);
            if i >= end {
                break;
            }
            job(i, worker);
        }
    }
}

fn work(s: &Shared, worker: u32) {
    let mut seen = 0u64;
    loop {
        let mut spins = 0;
        while s.generation.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let mut stop = lock(&s.sleep);
            while s.generation.load(Ordering::Acquire) == seen && !*stop {
                stop = s.wake.wait(stop).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            if *stop {
                return;
            }
        }
        seen = s.generation.load(Ordering::Acquire);
        let job = *lock(&s.job);
        if let Some(job) = job {
            take(s, job, worker);
        }
        s.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        *lock(&self.shared.sleep) = true;
        self.shared.wake.notify_all();
        for handle in self.handles.drain(..) {
            // A worker that panicked has nothing to give back.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_with_a_valid_worker() {
        let pool = Pool::new(3);
        for round in 0..200u32 {
            let counts: Vec<AtomicU32> = (0..17).map(|_| AtomicU32::new(0)).collect();
            pool.run(17, &|i, worker| {
                assert!(worker < 3);
                counts[i as usize].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }
}
