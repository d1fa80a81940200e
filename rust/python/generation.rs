//! `_core.Generation`.

use super::call::{compute, raise};
use crate::decode;
use crate::error::{Error, Result};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// A batch being decoded.
#[pyclass(frozen, module = "lapwing._core")]
pub struct Generation {
    generation: Mutex<Option<decode::Generation>>,
    closed: AtomicBool,
    processor: Option<Py<PyAny>>,
}

type Event = (usize, u32, f32, Vec<(u32, f32)>);

impl Generation {
    pub fn wrap(generation: decode::Generation, processor: Option<Py<PyAny>>) -> Self {
        Generation { generation: Mutex::new(Some(generation)), closed: AtomicBool::new(false), processor }
    }

    /// The batch; an error while another thread runs it or after it was closed.
    fn lock(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Option<decode::Generation>>> {
        let guard = match self.generation.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => {
                return Err(raise(
                    py,
                    &Error::Option("this generation is running in another thread".to_owned()),
                ));
            }
        };
        if self.closed.load(Ordering::Relaxed) || guard.is_none() {
            return Err(raise(py, &Error::Option("this generation is closed".to_owned())));
        }
        Ok(guard)
    }
}

/// Calls the Python function: (ids so far, logits) -> logits.
fn call_processor(function: &Py<PyAny>, ids: &[u32], logits: &mut [f32]) -> Result<()> {
    Python::attach(|py| {
        let mut call = || -> PyResult<()> {
            let array = PyArray1::from_slice(py, logits);
            let result = function.bind(py).call1((ids.to_vec(), array))?;
            let result: PyReadonlyArray1<'_, f32> = result.extract().map_err(|_| {
                raise(
                    py,
                    &Error::Option(
                        "the logits processor must return a float32 array of one dimension".to_owned(),
                    ),
                )
            })?;
            let result = result.as_array();
            if result.len() != logits.len() {
                let text = format!(
                    "the logits processor returned {} values: expected {}",
                    result.len(),
                    logits.len()
                );
                return Err(raise(py, &Error::Option(text)));
            }
            logits.iter_mut().zip(result).for_each(|(to, &from)| *to = from);
            Ok(())
        };
        call().map_err(|error| {
            let text = error.to_string();
            // Kept for the caller: the interpreter raises it when the call returns.
            RAISED.with(|r| *r.borrow_mut() = Some(error));
            Error::Option(format!("the logits processor failed: {text}"))
        })
    })
}

thread_local! {
    /// What the logits processor raised, on the thread that called it.
    static RAISED: std::cell::RefCell<Option<PyErr>> = const { std::cell::RefCell::new(None) };
}

#[pymethods]
impl Generation {
    fn advance(&self, py: Python<'_>, steps: usize) -> PyResult<Vec<Event>> {
        let mut guard = self.lock(py)?;
        let generation = guard.as_mut().expect("checked by lock");
        let model = std::sync::Arc::clone(generation.model());
        let processor = self.processor.as_ref();
        let result = compute(py, &model, Some(&self.closed), |s| {
            let custom = |ids: &[u32], logits: &mut [f32]| match processor {
                Some(function) => call_processor(function, ids, logits),
                None => Ok(()),
            };
            let custom: Option<decode::process::Custom<'_>> =
                if processor.is_some() { Some(&custom) } else { None };
            generation.advance(s, steps, custom)
        });
        if self.closed.load(Ordering::Relaxed) {
            guard.take();
        }
        let events = result.map_err(|e| RAISED.with(|r| r.borrow_mut().take()).unwrap_or(e))?;
        Ok(events.into_iter().map(|e| (e.sequence, e.token, e.logprob, e.top)).collect())
    }

    fn finished(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.lock(py)?.as_ref().is_none_or(decode::Generation::finished))
    }

    fn unfinished(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.lock(py)?.as_ref().map_or(0, decode::Generation::unfinished))
    }

    fn stop(&self, py: Python<'_>, sequence: usize, reason: &str) -> PyResult<()> {
        let mut guard = self.lock(py)?;
        let generation = guard.as_mut().expect("checked by lock");
        generation.stop(sequence, reason).map_err(|e| raise(py, &e))
    }

    fn results(&self, py: Python<'_>) -> PyResult<Vec<Vec<decode::Hypothesis>>> {
        Ok(self.lock(py)?.as_ref().map(decode::Generation::results).unwrap_or_default())
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Ok(mut guard) = self.generation.try_lock() {
            guard.take();
        }
    }
}
