//! A value that each process has of its own: a forked child makes another.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// A value of this process. After a `fork` the parent's value is leaked in the child: its threads do not
/// exist there, and its locks may be held by them.
pub struct PerProcess<T> {
    value: AtomicPtr<T>,
    /// Process that `value` belongs to; 0 while it is being replaced.
    process: AtomicU32,
}

impl<T> PerProcess<T> {
    pub fn new(value: T) -> Self {
        PerProcess {
            value: AtomicPtr::new(Box::into_raw(Box::new(value))),
            process: AtomicU32::new(std::process::id()),
        }
    }

    /// The value of this process, made by `make` where a fork has left only the parent's.
    pub fn get(&self, make: impl FnOnce() -> T) -> &T {
        let process = std::process::id();
        loop {
            let owner = self.process.load(Ordering::Acquire);
            if owner == process {
                break;
            }
            if owner != 0
                && self.process.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
            {
                self.value.store(Box::into_raw(Box::new(make())), Ordering::Release);
                self.process.store(process, Ordering::Release);
                break;
            }
            std::thread::yield_now();
        }
        // SAFETY: the pointer came from `Box::into_raw` and is freed only when `self` is dropped.
        unsafe { &*self.value.load(Ordering::Acquire) }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        if *self.process.get_mut() == std::process::id() {
            // SAFETY: from `Box::into_raw`; no reference is left, as `self` is borrowed mutably.
            drop(unsafe { Box::from_raw(*self.value.get_mut()) });
        }
    }
}

// SAFETY: owns a `T` and hands out shared references to it, as an `Arc<T>` does.
unsafe impl<T: Send + Sync> Send for PerProcess<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}
