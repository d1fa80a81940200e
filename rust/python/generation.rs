//! `_core.Generation`.

use super::call::{interruptible, raise};
use super::closing::{Ending, SharedGeneration};
use crate::decode::{Call, Event, FinishReason, Hypothesis, Processor};
use crate::error::{Error, Result};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Exception of a logits processor.
pub type Raised = Arc<Mutex<Option<PyErr>>>;

/// Prompts being continued.
#[pyclass(frozen, module = "lapwing._core")]
pub struct Generation {
    shared: Arc<SharedGeneration>,
    raised: Raised,
}

type PyEvent = (usize, u32, f32, Vec<(u32, f32)>);
type PyHypothesis = (Vec<u32>, f32, &'static str, Vec<(f32, Vec<(u32, f32)>)>);

impl Generation {
    pub fn wrap(call: Call, ending: Arc<Ending>, raised: Raised) -> Self {
        Generation { shared: SharedGeneration::new(call, ending), raised }
    }

    /// Runs `body` with the call; an error while another thread uses it or after it was closed.
    fn with<R>(&self, py: Python<'_>, body: impl FnOnce(&mut Call) -> Result<R>) -> PyResult<R> {
        self.shared.with(body).and_then(|found| found).map_err(|e| raise(py, &e))
    }
}

/// The processor of a call: a Python function (ids so far, logits) -> logits.
pub fn processor(function: Py<PyAny>, ending: Arc<Ending>, raised: Raised) -> Processor {
    Arc::new(move |ids, logits| {
        // The function may have closed the model, which the hook would notice only some steps later.
        call_processor(&function, &raised, ids, logits).and_then(|()| ending.error().map_or(Ok(()), Err))
    })
}

/// Calls the Python function: (ids so far, logits) -> logits.
fn call_processor(function: &Py<PyAny>, raised: &Raised, ids: &[u32], logits: &mut [f32]) -> Result<()> {
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
            // Kept for `advance`, which raises it.
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Error::Option(format!("the logits processor failed: {text}"))
        })
    })
}

#[pymethods]
impl Generation {
    fn advance(&self, py: Python<'_>, steps: usize) -> PyResult<Vec<PyEvent>> {
        let run = |call: &mut Call| {
            interruptible(py, &|| self.shared.ending().error(), |hook| {
                let mut events = Vec::new();
                call.advance(hook, steps, &mut events).map(|()| events)
            })
        };
        let result = self.shared.with(run).map_err(|e| raise(py, &e))?;
        let raised = || self.raised.lock().unwrap_or_else(PoisonError::into_inner).take();
        let events = result.map_err(|e| raised().unwrap_or(e))?;
        Ok(events
            .into_iter()
            .map(|Event { sequence, token, logprob, top }| (sequence, token, logprob, top))
            .collect())
    }

    fn finished(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |call| call.finished())
    }

    fn unfinished(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |call| call.unfinished())
    }

    fn stop(&self, py: Python<'_>, sequence: usize, reason: &str) -> PyResult<()> {
        self.with(py, |call| call.stop(sequence, FinishReason::parse(reason)?))
    }

    fn results(&self, py: Python<'_>) -> PyResult<Vec<Vec<PyHypothesis>>> {
        let found = self.with(py, |call| call.results())?;
        let one = |Hypothesis { ids, score, reason, scored }| {
            (ids, score, reason.map_or("", FinishReason::name), scored)
        };
        Ok(found.into_iter().map(|hypotheses| hypotheses.into_iter().map(one).collect()).collect())
    }

    fn close(&self) {
        self.shared.close();
    }
}
