//! How models and generations end while threads use them.
//!
//! `close` never waits. It raises a flag that calls see (as the hook of the pool they ask now and then), and frees what
//! no call holds; each call frees the rest when it ends. So it may come from any thread, a signal's handler or a
//! processor in the middle of a step.

use crate::decode;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};

/// Whether a model is closed, and the generations that hold its memory.
#[derive(Default)]
pub struct Life {
    closed: AtomicBool,
    running: Mutex<Vec<Weak<Running>>>,
}

impl Life {
    /// The error of a model that has been closed.
    pub fn over() -> Error {
        Error::Closed("the model is closed: load it again".to_owned())
    }

    /// The error of a call that runs, once the model is closed.
    pub fn end(&self) -> Option<Error> {
        let over = || {
            Error::Closed("the model is closed, and this call was not at its end: load it again".to_owned())
        };
        self.closed.load(Ordering::SeqCst).then(over)
    }

    fn add(&self, running: &Arc<Running>) {
        let mut known = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| other.strong_count() > 0);
        known.push(Arc::downgrade(running));
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let known = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        known.iter().filter_map(Weak::upgrade).for_each(|running| running.release());
    }
}

/// A generation until it is closed, or one of the models that compute it.
pub struct Running {
    generation: Mutex<Option<decode::Generation>>,
    closed: AtomicBool,
    lives: Vec<Arc<Life>>,
}

impl Running {
    pub fn new(generation: decode::Generation, lives: Vec<Arc<Life>>) -> Arc<Self> {
        let running = Arc::new(Running {
            generation: Mutex::new(Some(generation)),
            closed: AtomicBool::new(false),
            lives,
        });
        for life in &running.lives {
            life.add(&running);
        }
        // A model that was closed before it knew of this one.
        running.release();
        running
    }

    /// Why nothing more is computed, if so.
    pub fn end(&self) -> Option<Error> {
        self.lives.iter().find_map(|life| life.end()).or_else(|| {
            let closed = self.closed.load(Ordering::SeqCst);
            closed.then(|| Error::Option("this generation is closed: begin another".to_owned()))
        })
    }

    /// Runs `body` with the generation, which no other thread may use meanwhile.
    pub fn with<R>(&self, body: impl FnOnce(&mut decode::Generation) -> R) -> Result<R> {
        let mut guard = match self.generation.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Either another call, or a close that frees it.
                let busy = || Error::Option("this generation is running in another thread".to_owned());
                return Err(self.end().unwrap_or_else(busy));
            }
        };
        let result = match (self.end(), guard.as_mut()) {
            (None, Some(generation)) => Ok(body(generation)),
            (end, _) => Err(end.unwrap_or_else(Life::over)),
        };
        drop(guard);
        // Whoever closed it meanwhile found it in use.
        self.release();
        result
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.release();
    }

    /// Frees the generation if it is to end and no call holds it; a call that does frees it when it ends.
    fn release(&self) {
        if self.end().is_some() {
            let held = match self.generation.try_lock() {
                Ok(mut guard) => guard.take(),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
                Err(TryLockError::WouldBlock) => None,
            };
            drop(held);
        }
    }
}
