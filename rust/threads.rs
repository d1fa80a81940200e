//! The thread pool (first version: serial).

use crate::error::{Error, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asked now and then by the calling thread; true stops the work.
pub type Hook<'a> = &'a mut (dyn FnMut() -> bool + Send);

/// Runs regions of chunks on `threads` threads, the caller among them.
pub struct Pool {
    interrupted: AtomicBool,
    serial: Mutex<()>,
}

impl Pool {
    pub fn new(_threads: usize) -> Self {
        Pool { interrupted: AtomicBool::new(false), serial: Mutex::new(()) }
    }

    pub fn threads(&self) -> usize {
        1
    }

    /// Runs `f(chunk, thread)` for every chunk in `0..chunks` and waits for all.
    pub fn run(&self, chunks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        for chunk in 0..chunks {
            f(chunk, 0);
        }
    }

    /// Cuts `data` into pieces of `length` (the last may be shorter) and runs `f(piece index, piece, thread)`.
    pub fn run_mut<T: Send>(
        &self,
        data: &mut [T],
        length: usize,
        f: &(dyn Fn(usize, &mut [T], usize) + Sync),
    ) {
        for (i, piece) in data.chunks_mut(length.max(1)).enumerate() {
            f(i, piece, 0);
        }
    }

    /// Runs `body` with `hook` asked at most every 20 ms between chunks; a `true` interrupts.
    pub fn with_hook<R>(&self, _hook: Hook<'_>, body: impl FnOnce() -> R) -> R {
        let _one_at_a_time = self.serial.lock();
        self.interrupted.store(false, Ordering::Relaxed);
        body()
    }

    /// An error once the work has been interrupted: results since are incomplete.
    pub fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// How many threads to use by default.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
