//! The thread pool: `threads - 1` workers and the caller run *regions*, each a number of chunks.
//!
//! A region costs well under a microsecond when the workers are awake. They spin for a few microseconds after
//! their last chunk and then sleep without a timer, so an idle pool uses no processor. Other busy processes
//! slow a pool down in proportion: a worker enters a region by compare-and-swap while it is open, so the
//! caller never waits for a worker that has not woken up, and runs its chunks instead. Each thread works
//! through a contiguous share of the chunks, so that it reads memory in long streams, and then takes chunks
//! from the other shares. The system chooses the cores of threads, except those of workers that wake after a
//! rest (`affinity`).
//!
//! A [`Team`] runs the work of one caller at a time: [`Pool::enter`]. It polls a hook that may stop the work
//! (Ctrl-C). A pool survives `fork`: the child starts workers of its own.

mod affinity;
mod count;
mod futex;
mod inner;
mod per_process;

pub use affinity::Pinned;
pub use count::default_threads;
pub use inner::{HOOK_INTERVAL, nested_call};
pub use per_process::PerProcess;

use crate::error::{Error, Result};
use inner::{Inner, Turn};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Polled by the calling thread; `true` stops the work.
pub type Hook<'a> = &'a dyn Fn() -> bool;

/// Threads that wait for work.
pub struct Pool {
    threads: usize,
    inner: PerProcess<Inner>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included. They start with the first region that needs them.
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, 256);
        Pool { threads, inner: PerProcess::new(Inner::new(threads)) }
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    fn inner(&self) -> &Inner {
        self.inner.get(|| Inner::new(self.threads))
    }

    /// Whether the calling thread holds the pool: then it must not wait for others, which may wait for it.
    pub fn held_by_this_thread(&self) -> bool {
        self.inner().held_by(std::thread::current().id())
    }

    /// Waits until no other caller has the pool, then runs `body` with it. `hook` is called at most every 20
    /// ms, from this thread, while it waits and while regions run.
    pub fn enter<R>(&self, hook: Hook<'_>, body: impl FnOnce(&Team<'_>) -> Result<R>) -> Result<R> {
        let inner = self.inner();
        let turn = inner.turn(hook)?;
        body(&Team::new(inner, hook, turn))
    }

    /// [`Pool::enter`]; `None` where another caller has the pool.
    pub fn enter_if_free<R>(
        &self,
        hook: Hook<'_>,
        body: impl FnOnce(&Team<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        let inner = self.inner();
        inner.turn_if_free().map(|turn| body(&Team::new(inner, hook, turn))).transpose()
    }

    /// [`Pool::enter`] without a hook.
    pub fn run_alone<R>(&self, body: impl FnOnce(&Team<'_>) -> R) -> R {
        let (inner, hook): (_, Hook<'_>) = (self.inner(), &|| false);
        let turn = inner.turn(hook).expect("the hook never stops, and no call is inside of another");
        body(&Team::new(inner, hook, turn))
    }
}

/// The threads of a pool while one caller has it, or a single one of them ([`Team::per_thread`]).
pub struct Team<'a> {
    workers: Workers<'a>,
    hook: Hook<'a>,
    asked: Cell<Instant>,
    interrupted: Cell<bool>,
}

enum Workers<'a> {
    Pool { inner: &'a Inner, _turn: Turn<'a> },
    Alone { stopped: &'a AtomicBool },
}

impl<'a> Team<'a> {
    fn new(inner: &'a Inner, hook: Hook<'a>, turn: Turn<'a>) -> Self {
        Team::with(Workers::Pool { inner, _turn: turn }, hook)
    }

    fn with(workers: Workers<'a>, hook: Hook<'a>) -> Self {
        Team { workers, hook, asked: Cell::new(Instant::now()), interrupted: Cell::new(false) }
    }

    pub fn threads(&self) -> usize {
        match &self.workers {
            Workers::Pool { inner, .. } => inner.threads(),
            Workers::Alone { .. } => 1,
        }
    }

    /// Whether other callers wait for the pool.
    pub fn contended(&self) -> bool {
        match &self.workers {
            Workers::Pool { inner, .. } => inner.contended(),
            Workers::Alone { .. } => false,
        }
    }

    /// Runs `f(chunk, thread)` for every chunk in `0..chunks` and waits for all of them; after an interrupt
    /// the remaining chunks are skipped. A panic in a chunk is raised again here.
    pub fn run(&self, chunks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        if chunks == 0 || self.interrupted.get() {
            return;
        }
        let stopped = match &self.workers {
            Workers::Pool { inner, .. } => inner.region(chunks, f, &|| self.ask()),
            Workers::Alone { .. } => (0..chunks).any(|chunk| {
                f(chunk, 0);
                self.ask()
            }),
        };
        if stopped {
            self.interrupted.set(true);
        }
    }

    /// Pins each thread to a core of its own, if there are enough, until the value is dropped. For
    /// measurements only: pinned threads cannot give way to other processes.
    pub fn pin(&self) -> Pinned {
        Pinned::new(self.threads(), &|threads, f| self.run(threads, f))
    }

    /// Runs `f(chunk, thread, team)` for every chunk, with a team of only the thread that runs it: for work
    /// without common regions, such as independent sequences. An interrupt ends all of them.
    pub fn per_thread(&self, chunks: usize, f: &(dyn Fn(usize, usize, &Team<'_>) + Sync)) {
        struct Caller<'a>(Hook<'a>);
        // SAFETY: only thread 0, which is the calling thread, calls the hook.
        unsafe impl Sync for Caller<'_> {}
        impl Caller<'_> {
            fn hook(&self) -> Hook<'_> {
                self.0
            }
        }
        let (caller, stopped) = (Caller(self.hook), AtomicBool::new(false));
        self.run(chunks, &|chunk, thread| {
            let hook: Hook<'_> = if thread == 0 { caller.hook() } else { &|| false };
            f(chunk, thread, &Team::with(Workers::Alone { stopped: &stopped }, hook));
        });
        if stopped.into_inner() {
            self.interrupted.set(true);
        }
    }

    /// Splits `data` into pieces of `length` (the last may be shorter) and runs `f(index, piece, thread)`.
    pub fn run_mut<T: Send>(
        &self,
        data: &mut [T],
        length: usize,
        f: &(dyn Fn(usize, &mut [T], usize) + Sync),
    ) {
        struct Pointer<T>(*mut T);
        // SAFETY: only used to hand out disjoint pieces, each to one thread.
        unsafe impl<T: Send> Sync for Pointer<T> {}
        impl<T> Pointer<T> {
            fn at(&self, offset: usize) -> *mut T {
                self.0.wrapping_add(offset)
            }
        }
        let (total, length) = (data.len(), length.max(1));
        let pointer = Pointer(data.as_mut_ptr());
        self.run(total.div_ceil(length), &|i, thread| {
            let start = i * length;
            let n = length.min(total - start);
            // SAFETY: pieces of different chunks are disjoint, each chunk runs once, and `data` is borrowed
            // until the region has ended.
            let piece = unsafe { std::slice::from_raw_parts_mut(pointer.at(start), n) };
            f(i, piece, thread);
        });
    }

    /// An error once the work has been interrupted; results since then are incomplete. Also calls the hook.
    pub fn check(&self) -> Result<()> {
        if self.interrupted.get() || self.ask() {
            self.interrupted.set(true);
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    fn ask(&self) -> bool {
        let stopped = match &self.workers {
            Workers::Pool { .. } => None,
            Workers::Alone { stopped } => Some(stopped),
        };
        if stopped.is_some_and(|stopped| stopped.load(Ordering::Relaxed)) {
            return true;
        }
        let now = Instant::now();
        if now.duration_since(self.asked.get()) < HOOK_INTERVAL {
            return false;
        }
        let stop = (self.hook)();
        self.asked.set(Instant::now());
        if let Some(stopped) = stopped.filter(|_| stop) {
            stopped.store(true, Ordering::Relaxed);
        }
        stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for round in 0..300 {
                let chunks = round % 37;
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run_alone(|team| {
                    team.run(chunks, &|i, t| {
                        assert!(t < threads);
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} {round}");
            }
        }
    }

    #[test]
    fn pieces_cover_the_data() {
        let pool = Pool::new(3);
        let mut data = vec![0usize; 1001];
        pool.run_alone(|team| {
            team.run_mut(&mut data, 64, &|i, piece, _| {
                for (j, v) in piece.iter_mut().enumerate() {
                    *v += i * 64 + j;
                }
            });
        });
        assert!(data.iter().enumerate().all(|(i, &v)| i == v));
    }

    #[test]
    fn dropping_a_pool_ends_workers_that_are_still_starting() {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for round in 0..20_000 {
                let pool = Pool::new(3);
                pool.run_alone(|team| team.run(2 + round % 3, &|_, _| ()));
            }
            sender.send(()).expect("the test waits");
        });
        // The drop would wait forever for a worker that misses the end.
        assert!(receiver.recv_timeout(Duration::from_secs(120)).is_ok());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
        let pool = Pool::new(2);
        for at in [0, 50, 99] {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run_alone(|team| team.run(100, &|i, _| assert!(i != at, "chunk {i}")));
            }));
            assert!(caught.is_err());
            let sum = AtomicUsize::new(0);
            pool.run_alone(|team| {
                team.run(100, &|i, _| {
                    sum.fetch_add(i, Ordering::Relaxed);
                })
            });
            assert_eq!(sum.load(Ordering::Relaxed), 4950);
        }
    }

    #[test]
    fn an_interrupt_skips_the_remaining_chunks() {
        let pool = Pool::new(2);
        let ran = AtomicUsize::new(0);
        let result = pool.enter(&|| true, |team| {
            team.run(1_000_000, &|_, _| {
                ran.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            });
            team.check()
        });
        assert_eq!(result, Err(Error::Interrupted));
        assert!(ran.load(Ordering::Relaxed) < 10_000);
        assert!(pool.run_alone(|team| team.check()).is_ok());
    }

    #[test]
    fn per_thread_runs_every_chunk_and_stops_all_threads() {
        let pool = Pool::new(3);
        let counts: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
        pool.run_alone(|team| {
            team.per_thread(counts.len(), &|i, thread, own| {
                assert!(thread < 3 && own.threads() == 1);
                own.run(4, &|_, thread| {
                    assert_eq!(thread, 0);
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(own.check().is_ok());
            });
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 4));
        let ran = AtomicUsize::new(0);
        let result = pool.enter(&|| true, |team| {
            team.per_thread(3, &|_, _, own| {
                own.run(1_000_000, &|_, _| {
                    ran.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                });
            });
            team.check()
        });
        assert_eq!(result, Err(Error::Interrupted));
        assert!(ran.load(Ordering::Relaxed) < 10_000);
    }

    #[test]
    fn a_waiting_caller_can_be_interrupted() {
        let pool = Pool::new(2);
        pool.run_alone(|_| {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| pool.enter(&|| true, |_| Ok(())));
                assert_eq!(waiting.join().expect("no panic"), Err(Error::Interrupted));
            });
        });
        assert_eq!(pool.enter(&|| true, |_| Ok(3)), Ok(3));
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run_alone(|team| {
                            team.run(8, &|_, _| {
                                total.fetch_add(1, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 4 * 200 * 8);
    }

    #[cfg(unix)]
    #[test]
    fn a_forked_child_has_workers_of_its_own() {
        let pool = Pool::new(2);
        pool.run_alone(|team| team.run(4, &|_, _| ()));
        // SAFETY: the child only runs the pool and leaves with `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let sum = AtomicUsize::new(0);
            pool.run_alone(|team| {
                team.run(100, &|i, _| {
                    sum.fetch_add(i, Ordering::Relaxed);
                })
            });
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(i32::from(sum.load(Ordering::Relaxed) != 4950)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
    }
}
