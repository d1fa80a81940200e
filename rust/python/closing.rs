//! Closing of models and generations that threads may be using.
//!
//! `close` never waits. It sets a flag that calls poll through the hook of their pool, and frees everything
//! that no call holds; each call frees the rest when it ends. So it can be called from any thread, from a
//! signal handler, and from a processor in the middle of a step.

use crate::decode::Call;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};

/// Whether a model is closed, and the generations that hold its memory.
#[derive(Default)]
pub struct CloseFlag {
    closed: AtomicBool,
    generations: Mutex<Vec<Weak<SharedGeneration>>>,
}

impl CloseFlag {
    /// The error of a model that has been closed.
    pub fn closed_error() -> Error {
        Error::Closed("the model is closed: load it again".to_owned())
    }

    /// The error of a running call, once the model is closed.
    pub fn ending(&self) -> Option<Error> {
        let error =
            || Error::Closed("the model was closed before this call had finished: load it again".to_owned());
        self.closed.load(Ordering::SeqCst).then(error)
    }

    fn add(&self, generation: &Arc<SharedGeneration>) {
        let mut known = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| other.strong_count() > 0);
        known.push(Arc::downgrade(generation));
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let known = std::mem::take(&mut *self.generations.lock().unwrap_or_else(PoisonError::into_inner));
        known.iter().filter_map(Weak::upgrade).for_each(|generation| generation.release());
    }
}

/// The flags that end a generation: its own, and those of the models that compute it.
pub struct Ending {
    closed: AtomicBool,
    models: Vec<Arc<CloseFlag>>,
}

impl Ending {
    pub fn new(models: Vec<Arc<CloseFlag>>) -> Arc<Ending> {
        Arc::new(Ending { closed: AtomicBool::new(false), models })
    }

    /// The error of a generation that has ended.
    pub fn error(&self) -> Option<Error> {
        self.models.iter().find_map(|model| model.ending()).or_else(|| {
            let closed = self.closed.load(Ordering::SeqCst);
            closed.then(|| Error::Option("this generation is closed: begin another".to_owned()))
        })
    }
}

/// A generation until it is closed.
pub struct SharedGeneration {
    call: Mutex<Option<Call>>,
    ending: Arc<Ending>,
}

impl SharedGeneration {
    pub fn new(call: Call, ending: Arc<Ending>) -> Arc<Self> {
        let shared = Arc::new(SharedGeneration { call: Mutex::new(Some(call)), ending });
        for model in &shared.ending.models {
            model.add(&shared);
        }
        // A model may have been closed before this generation was added to it.
        shared.release();
        shared
    }

    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Runs `body` with exclusive use of the call.
    pub fn with<R>(&self, body: impl FnOnce(&mut Call) -> R) -> Result<R> {
        let mut guard = match self.call.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                // Either another thread, or a close that frees it.
                let busy = || Error::Option("this generation is running in another thread".to_owned());
                return Err(self.ending.error().unwrap_or_else(busy));
            }
        };
        let result = match (self.ending.error(), guard.as_mut()) {
            (None, Some(call)) => Ok(body(call)),
            (error, _) => Err(error.unwrap_or_else(CloseFlag::closed_error)),
        };
        drop(guard);
        // A concurrent `close` may have found it in use.
        self.release();
        result
    }

    pub fn close(&self) {
        self.ending.closed.store(true, Ordering::SeqCst);
        self.release();
    }

    /// Frees the call if it must end and no thread uses it; else the thread that uses it frees it afterwards.
    fn release(&self) {
        if self.ending.error().is_some() {
            let held = match self.call.try_lock() {
                Ok(mut guard) => guard.take(),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
                Err(TryLockError::WouldBlock) => None,
            };
            drop(held);
        }
    }
}
