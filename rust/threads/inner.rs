//! The workers and the protocol of a region.
//!
//! `epoch` counts regions. `gate` holds the epoch (upper half), whether the region is closed, and the number
//! of workers inside. The caller writes the job, opens the gate, raises the epoch and works; when no chunk is
//! left it closes the gate and waits until no worker is inside. A worker may read the job only between
//! entering, which succeeds only while the gate of its epoch is open, and leaving; so the job, which borrows
//! from the caller's stack, is never used after the region.
//!
//! No wake-up is lost: the caller raises the epoch and then reads `sleepers`, a worker raises `sleepers` and
//! then reads the epoch (both sequentially consistent), so the caller wakes the worker, or the worker sees
//! the epoch.

use super::affinity;
use super::futex::Futex;
use crate::error::{Error, Result};
use std::any::Any;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// A value with cache lines of its own (two: processors fetch them in pairs).
#[repr(align(128))]
struct Line<T>(T);

type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// The task of a region and its number of chunks.
#[derive(Clone, Copy)]
struct Job {
    task: Task<'static>,
    chunks: usize,
}

const CLOSED: u64 = 1 << 31;
const INSIDE: u64 = CLOSED - 1;

/// How long a thread without work spins. Measured: the regions of a token follow within 1-3 us; beyond 10 us
/// spinning mostly takes the processor from other threads.
const SPIN: Duration = Duration::from_micros(8);

/// After a rest of `REST` the workers are kept from waking on their caller's core, for the first `REST_ENDS`
/// of a turn. Measured: keeping them away at all times costs each step of a stream of a tiny model a tenth of
/// its time.
const REST: Duration = Duration::from_millis(1);
const REST_ENDS: Duration = Duration::from_millis(5);

/// Limit of waits that end with a wake-up only.
const LONG: Duration = Duration::from_secs(3600);

/// How often a caller calls its hook: often enough for a reaction within 200 ms.
pub const HOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A worker as its caller sees it.
#[derive(Default)]
struct Worker {
    /// Its id in the system; 0 until it has started.
    number: AtomicI32,
    /// The core where it ran last.
    core: AtomicI32,
    /// Whether `cores` is set.
    moved: AtomicBool,
    /// Its affinity before it was kept from its caller's core.
    cores: Mutex<Option<affinity::Cores>>,
}

impl Worker {
    /// Keeps a sleeping worker from waking on the caller's core.
    fn move_away(&self) {
        let number = self.number.load(Relaxed);
        let mut cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
        if number != 0 && cores.is_none() {
            *cores = affinity::away(number);
            self.moved.store(cores.is_some(), Release);
        }
    }

    /// Restores the affinity of the worker, which calls it, and records its core.
    fn awake(&self) {
        if self.moved.load(Acquire) {
            let mut cores = self.cores.lock().unwrap_or_else(PoisonError::into_inner);
            self.moved.store(false, Relaxed);
            if let Some(cores) = cores.take() {
                cores.apply();
            }
        }
        self.core.store(affinity::core(), Relaxed);
    }
}

struct Shared {
    workers: Vec<Line<Worker>>,
    epoch: Line<Futex>,
    gate: Line<AtomicU64>,
    sleepers: Line<AtomicU32>,
    caller_sleeps: Line<Futex>,
    next: Vec<Line<AtomicUsize>>,
    job: UnsafeCell<Option<Job>>,
    stop: AtomicBool,
    quit: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the caller while the gate is closed and empty, and read only by workers
// that have entered; the gate's atomics order the two.
unsafe impl Sync for Shared {}
// SAFETY: as above; the job's task is `Sync`.
unsafe impl Send for Shared {}

impl Shared {
    /// The next chunk for `thread`: from its own share, then from those of the other threads.
    fn take(&self, thread: usize, chunks: usize) -> Option<usize> {
        let n = self.next.len();
        for i in 0..n {
            let share = (thread + i) % n;
            let end = chunks * (share + 1) / n;
            if self.next[share].0.load(Relaxed) < end {
                let chunk = self.next[share].0.fetch_add(1, Relaxed);
                if chunk < end {
                    return Some(chunk);
                }
            }
        }
        None
    }

    /// Runs one chunk. A panic stops the region and is kept for the caller.
    fn run(&self, task: Task<'_>, chunk: usize, thread: usize) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(chunk, thread))) {
            self.stop.store(true, Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    }

    fn worker(&self, thread: usize, mut seen: u32) {
        let own = &self.workers[thread - 1].0;
        own.number.store(affinity::own(), Relaxed);
        loop {
            if !spin_until(SPIN, || self.epoch.0.value.load(Acquire) != seen) {
                self.sleepers.0.fetch_add(1, SeqCst);
                while self.epoch.0.value.load(SeqCst) == seen {
                    self.epoch.0.wait(seen, LONG);
                }
                self.sleepers.0.fetch_sub(1, SeqCst);
            }
            // In this order: `quit` is set before the epoch is raised, so a worker that sees the last epoch
            // sees `quit`.
            seen = self.epoch.0.value.load(Acquire);
            own.awake();
            if self.quit.load(Acquire) {
                return;
            }
            if !self.enter(seen) {
                continue;
            }
            // SAFETY: inside the gate the caller does not write the job.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                while !self.stop.load(Relaxed) {
                    let Some(chunk) = self.take(thread, job.chunks) else { break };
                    self.run(job.task, chunk, thread);
                }
            }
            self.gate.0.fetch_sub(1, AcqRel);
            if self.caller_sleeps.0.value.load(SeqCst) != 0 {
                self.caller_sleeps.0.value.store(0, SeqCst);
                self.caller_sleeps.0.wake_all();
            }
        }
    }

    fn enter(&self, epoch: u32) -> bool {
        let mut gate = self.gate.0.load(Acquire);
        loop {
            if (gate >> 32) as u32 != epoch || gate & CLOSED != 0 {
                return false;
            }
            match self.gate.0.compare_exchange_weak(gate, gate + 1, AcqRel, Acquire) {
                Ok(_) => return true,
                Err(now) => gate = now,
            }
        }
    }
}

fn spin_until(limit: Duration, done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= limit {
            return false;
        }
    }
}

/// The error of a call that would wait for itself.
pub fn nested_call() -> Error {
    Error::Option(
        "this call was made from inside of another one on the same model, which it would wait for: \
         a logits processor or a signal handler that needs a model needs one of its own"
            .to_owned(),
    )
}

/// Takes a waiting caller out of the queue where its hook panics.
struct Leaving<'a> {
    inner: &'a Inner,
    own: ThreadId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut turns = self.inner.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.queue.retain(|&other| other != self.own);
        drop(turns);
        self.inner.free.notify_all();
    }
}

/// A caller's turn; it ends when this value is dropped.
pub struct Turn<'a>(&'a Inner);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        (turns.owner, turns.ended) = (None, Some(Instant::now()));
        // Wakes all: only the first of the queue may continue, and `notify_one` may wake another.
        let waiting = !turns.queue.is_empty();
        drop(turns);
        if waiting {
            self.0.free.notify_all();
        }
    }
}

/// The thread that has the turn, the queue of those that wait, and when the last turn began and ended.
#[derive(Default)]
struct Turns {
    owner: Option<ThreadId>,
    /// Callers that wait, in order of arrival: one that leaves and comes back at once must not overtake them.
    queue: VecDeque<ThreadId>,
    began: Option<Instant>,
    ended: Option<Instant>,
}

/// Workers of one process.
pub struct Inner {
    shared: Arc<Shared>,
    turns: Mutex<Turns>,
    /// Notified when a turn has ended.
    free: Condvar,
    /// Whether the pool had rested before this turn, which has just begun.
    rested: AtomicBool,
    workers: Mutex<Option<Vec<JoinHandle<()>>>>,
    started: AtomicBool,
}

impl Inner {
    pub fn new(threads: usize) -> Inner {
        let shared = Shared {
            workers: (1..threads).map(|_| Line(Worker::default())).collect(),
            epoch: Line(Futex::default()),
            gate: Line(AtomicU64::new(CLOSED)),
            sleepers: Line(AtomicU32::new(0)),
            caller_sleeps: Line(Futex::default()),
            next: (0..threads).map(|_| Line(AtomicUsize::new(0))).collect(),
            job: UnsafeCell::new(None),
            stop: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            panic: Mutex::new(None),
        };
        Inner {
            shared: Arc::new(shared),
            turns: Mutex::default(),
            free: Condvar::new(),
            rested: AtomicBool::new(false),
            workers: Mutex::new(None),
            started: AtomicBool::new(false),
        }
    }

    pub fn threads(&self) -> usize {
        self.shared.next.len()
    }

    /// Waits for this caller's turn.
    ///
    /// # Errors Where `ask` returns true meanwhile, and where this thread has the turn already and would wait
    /// for itself.
    pub fn turn(&self, ask: &dyn Fn() -> bool) -> Result<Turn<'_>> {
        let own = thread::current().id();
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.owner == Some(own) {
            return Err(nested_call());
        }
        if turns.owner.is_none() && turns.queue.is_empty() {
            return Ok(self.begin(&mut turns));
        }
        turns.queue.push_back(own);
        loop {
            let waited = self.free.wait_timeout(turns, HOOK_INTERVAL);
            turns = waited.unwrap_or_else(PoisonError::into_inner).0;
            if turns.owner.is_none() && turns.queue.front() == Some(&own) {
                turns.queue.pop_front();
                return Ok(self.begin(&mut turns));
            }
            drop(turns); // asking may take a while, and may panic
            let leaving = Leaving { inner: self, own };
            let stop = ask();
            std::mem::forget(leaving);
            turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if stop {
                turns.queue.retain(|&other| other != own);
                drop(turns);
                self.free.notify_all();
                return Err(Error::Interrupted);
            }
        }
    }

    /// This caller's turn, if no other caller has it or waits for it.
    pub fn turn_if_free(&self) -> Option<Turn<'_>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        (turns.owner.is_none() && turns.queue.is_empty()).then(|| self.begin(&mut turns))
    }

    /// Whether it is a thread's turn.
    pub fn held_by(&self, thread: ThreadId) -> bool {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).owner == Some(thread)
    }

    /// Whether callers wait for their turn.
    pub fn contended(&self) -> bool {
        !self.turns.lock().unwrap_or_else(PoisonError::into_inner).queue.is_empty()
    }

    fn begin(&self, turns: &mut Turns) -> Turn<'_> {
        let now = Instant::now();
        self.rested.store(turns.ended.is_none_or(|ended| now - ended > REST), Relaxed);
        (turns.owner, turns.began) = (Some(thread::current().id()), Some(now));
        Turn(self)
    }

    /// Starts the workers. Where the system grants fewer, the threads that exist take the other shares.
    fn start(&self) {
        if self.started.load(Relaxed) {
            return;
        }
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.shared.epoch.0.value.load(Relaxed);
        let started = (1..self.threads()).map_while(|thread| {
            let shared = Arc::clone(&self.shared);
            let name = format!("lapwing-{thread}");
            std::thread::Builder::new().name(name).spawn(move || shared.worker(thread, epoch)).ok()
        });
        *workers = Some(started.collect());
        self.started.store(true, Relaxed);
    }

    /// Keeps sleeping workers that might wake on the caller's core from it, before they are woken.
    fn place(&self) {
        if self.rested.load(Relaxed) {
            let began = self.turns.lock().unwrap_or_else(PoisonError::into_inner).began;
            self.rested.store(began.is_some_and(|began| began.elapsed() < REST_ENDS), Relaxed);
        }
        let (rested, here) = (self.rested.load(Relaxed), affinity::core());
        for Line(worker) in &self.shared.workers {
            if rested || worker.core.load(Relaxed) == here {
                worker.move_away();
            }
        }
    }

    /// Runs all chunks; `ask` is called between the caller's own. Returns whether it returned true, which
    /// stops the region.
    ///
    /// The caller has the turn, so regions never overlap.
    pub fn region(&self, chunks: usize, task: Task<'_>, ask: &dyn Fn() -> bool) -> bool {
        let shared = &*self.shared;
        let threads = self.threads();
        if threads == 1 || chunks == 1 {
            for chunk in 0..chunks {
                task(chunk, 0);
                if ask() {
                    return true;
                }
            }
            return false;
        }
        self.start();
        shared.stop.store(false, Relaxed);
        for (i, next) in shared.next.iter().enumerate() {
            next.0.store(chunks * i / threads, Relaxed);
        }
        // SAFETY: the task outlives the region: this function returns only after the gate is closed and
        // empty, and workers use the job only inside. No worker is inside now.
        unsafe {
            let task = std::mem::transmute::<Task<'_>, Task<'static>>(task);
            *shared.job.get() = Some(Job { task, chunks });
        }
        let epoch = shared.epoch.0.value.load(Relaxed).wrapping_add(1);
        shared.gate.0.store(u64::from(epoch) << 32, Release);
        shared.epoch.0.value.store(epoch, SeqCst);
        if shared.sleepers.0.load(SeqCst) != 0 {
            self.place();
            shared.epoch.0.wake_all();
        }

        let mut stopped = false;
        while !shared.stop.load(Relaxed) {
            let Some(chunk) = shared.take(0, chunks) else { break };
            shared.run(task, chunk, 0);
            if ask() {
                stopped = true;
                shared.stop.store(true, Relaxed);
            }
        }
        let inside = shared.gate.0.fetch_or(CLOSED, AcqRel) & INSIDE;
        let empty = || shared.gate.0.load(Acquire) & INSIDE == 0;
        if inside != 0 && !spin_until(SPIN, empty) {
            while !empty() {
                shared.caller_sleeps.0.value.store(1, SeqCst);
                if !empty() {
                    shared.caller_sleeps.0.wait(1, HOOK_INTERVAL);
                }
                shared.caller_sleeps.0.value.store(0, SeqCst);
                if ask() {
                    stopped = true;
                    shared.stop.store(true, Relaxed);
                }
            }
        }
        if shared.stop.load(Relaxed) {
            let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        }
        stopped
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.quit.store(true, Release);
        self.shared.epoch.0.value.fetch_add(1, SeqCst);
        self.shared.epoch.0.wake_all();
        let workers = self.workers.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        for worker in workers.into_iter().flatten() {
            let _ = worker.join();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
pub mod testing {
    /// How often a thread of this process has gone to sleep.
    pub fn sleeps(thread: i32) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse().ok()).expect("Linux counts them")
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn an_idle_pool_does_not_wake() {
        let inner = Inner::new(4);
        inner.region(100, &|_, _| thread::sleep(Duration::from_millis(1)), &|| false);
        while inner.shared.sleepers.0.load(SeqCst) < 3 {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(50));
        let workers: Vec<i32> =
            inner.shared.workers.iter().map(|worker| worker.0.number.load(Relaxed)).collect();
        let count = || -> Vec<u64> { workers.iter().map(|&worker| testing::sleeps(worker)).collect() };
        let before = count();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(before, count());
    }

    #[test]
    fn sleeping_workers_wake_on_other_cores_and_then_run_on_all() {
        let cores = |thread: i32| affinity::Cores::of(thread).expect("Linux has affinity").list().len();
        let (inner, all) = (Inner::new(2), cores(0));
        let worker = &inner.shared.workers[0].0;
        let found = Mutex::new(0);
        for _ in 0..20 {
            let met = Barrier::new(2);
            let task = |_: usize, thread: usize| {
                if thread == 1 {
                    *found.lock().expect("no panic") = cores(0);
                }
                met.wait();
            };
            inner.region(2, &task, &|| false);
            assert_eq!(*found.lock().expect("no panic"), all);
            while inner.shared.sleepers.0.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            // As the next region does; twice, because a second one may begin before the worker wakes.
            worker.move_away();
            worker.move_away();
            assert_eq!(cores(worker.number.load(Relaxed)), if all > 1 { all - 1 } else { 1 });
        }
    }
}
