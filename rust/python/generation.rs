//! `_core.Generation`.

use super::call::{compute, raise};
use super::life::{Life, Running};
use crate::decode;
use crate::error::{Error, Result};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use std::sync::Arc;

/// A batch being decoded.
#[pyclass(frozen, module = "lapwing._core")]
pub struct Generation {
    running: Arc<Running>,
    processor: Option<Py<PyAny>>,
}

type Event = (usize, u32, f32, Vec<(u32, f32)>);

impl Generation {
    /// ``lives`` are those of the models that compute.
    pub fn wrap(generation: decode::Generation, processor: Option<Py<PyAny>>, lives: Vec<Arc<Life>>) -> Self {
        Generation { running: Running::new(generation, lives), processor }
    }

    /// Looks at the batch or changes it; an error while another thread runs it or after it was closed.
    fn with<R>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut decode::Generation) -> Result<R>,
    ) -> PyResult<R> {
        self.running.with(body).and_then(|found| found).map_err(|e| raise(py, &e))
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
        let processor = self.processor.as_ref();
        let run = |generation: &mut decode::Generation| {
            let model = Arc::clone(generation.model());
            compute(py, &model, &|| self.running.end(), |s| {
                let custom = |ids: &[u32], logits: &mut [f32]| match processor {
                    // The function may have closed the model: the hook would tell only some steps later.
                    Some(function) => call_processor(function, ids, logits)
                        .and_then(|()| self.running.end().map_or(Ok(()), Err)),
                    None => Ok(()),
                };
                let custom: Option<decode::process::Custom<'_>> =
                    if processor.is_some() { Some(&custom) } else { None };
                let mut events = Vec::new();
                generation.advance(s, steps, custom, &mut events).map(|()| events)
            })
        };
        let result = self.running.with(run).map_err(|e| raise(py, &e))?;
        let events = result.map_err(|e| RAISED.with(|r| r.borrow_mut().take()).unwrap_or(e))?;
        Ok(events.into_iter().map(|e| (e.sequence, e.token, e.logprob, e.top)).collect())
    }

    fn finished(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |generation| Ok(generation.finished()))
    }

    fn unfinished(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |generation| Ok(generation.unfinished()))
    }

    fn stop(&self, py: Python<'_>, sequence: usize, reason: &str) -> PyResult<()> {
        self.with(py, |generation| generation.stop(sequence, reason))
    }

    fn results(&self, py: Python<'_>) -> PyResult<Vec<Vec<decode::Hypothesis>>> {
        self.with(py, |generation| Ok(generation.results()))
    }

    fn close(&self) {
        self.running.close();
    }
}
