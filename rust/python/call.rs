//! What every call needs: errors, panics, signals, arrays.

use crate::error::{Error, Result};
use crate::model::{Model, Session};
use crate::threads::{Hook, Pool, Team};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError};
use pyo3::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

/// The exception of `lapwing.errors` for an error.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let name = match error {
        Error::Checkpoint(_) => "CheckpointError",
        Error::Spec(_) => "SpecError",
        Error::Option(_) => "OptionError",
        Error::ContextLength(_) => "ContextLengthError",
        Error::Numerical(_) => "NumericalError",
        Error::Internal(_) => "InternalError",
        Error::Closed(_) => "ModelClosedError",
        Error::Memory(text) => return PyMemoryError::new_err(text.clone()),
        Error::Interrupted => return PyKeyboardInterrupt::new_err("interrupted"),
    };
    let make = || py.import("lapwing.errors")?.getattr(name)?.call1((error.to_string(),));
    match make() {
        Ok(exception) => PyErr::from_value(exception),
        Err(failed) => failed,
    }
}

/// Runs `body`; a panic becomes an error.
pub fn guarded<R>(body: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Error::of_panic(&*panic)))
}

/// Whether this is the thread on which Python handles signals.
fn handles_signals() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: both calls only read.
        unsafe { libc::gettid() == libc::getpid() }
    }
    #[cfg(not(target_os = "linux"))]
    true
}

/// The reason for which a call must end, if any.
pub type End<'a> = &'a (dyn Fn() -> Option<Error> + Sync);

/// The hook of a pool that ends a call at Python's signals, and at a `close` by another thread.
struct Interrupt<'a> {
    end: Option<End<'a>>,
    signals: bool,
    raised: Mutex<Option<PyErr>>,
    ended: Mutex<Option<Error>>,
}

impl<'a> Interrupt<'a> {
    fn new(end: Option<End<'a>>) -> Self {
        Interrupt { end, signals: handles_signals(), raised: Mutex::new(None), ended: Mutex::new(None) }
    }

    fn ask(&self) -> bool {
        if let Some(error) = self.end.and_then(|end| end()) {
            *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            return true;
        }
        if !self.signals {
            return false;
        }
        match Python::attach(|py| py.check_signals()) {
            Ok(()) => false,
            Err(error) => {
                *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                true
            }
        }
    }

    fn finish<R>(self, py: Python<'_>, result: Result<R>) -> PyResult<R> {
        let raised = self.raised.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        // After an interrupt results are incomplete, even if the call returned a value.
        match (result, raised, ended) {
            (_, Some(error), _) => Err(error),
            (_, None, Some(error)) | (Err(error), None, None) => Err(raise(py, &error)),
            (Ok(value), None, None) => Ok(value),
        }
    }
}

/// Runs `body` with a hook that it polls, without the interpreter.
pub fn interruptible<R: Send>(
    py: Python<'_>,
    end: End<'_>,
    body: impl FnOnce(Hook<'_>) -> Result<R> + Send,
) -> PyResult<R> {
    let interrupt = Interrupt::new(Some(end));
    let result = py.detach(|| guarded(|| body(&|| interrupt.ask())));
    interrupt.finish(py, result)
}

/// Runs `body` on the model's threads, without the interpreter.
pub fn compute<R: Send>(
    py: Python<'_>,
    model: &Model,
    end: End<'_>,
    body: impl FnOnce(&mut Session<'_>) -> Result<R> + Send,
) -> PyResult<R> {
    interruptible(py, end, |hook| model.session(hook, body))
}

/// Runs `body` on the threads of a pool, without the interpreter.
pub fn work<R: Send>(
    py: Python<'_>,
    pool: &Pool,
    body: impl FnOnce(&Team<'_>) -> Result<R> + Send,
) -> PyResult<R> {
    let interrupt = Interrupt::new(None);
    let result = py.detach(|| guarded(|| pool.enter(&|| interrupt.ask(), body)));
    interrupt.finish(py, result)
}

/// Ids of several sequences.
pub struct Ragged {
    pub ids: Vec<u32>,
    pub starts: Vec<usize>,
}

impl Ragged {
    pub fn parts(&self) -> Vec<Vec<u32>> {
        self.starts.windows(2).map(|w| self.ids[w[0]..w[1]].to_vec()).collect()
    }
}

/// Reads ids; refuses negative ones.
pub fn ids(what: &str, array: &PyReadonlyArray1<'_, i32>) -> Result<Vec<u32>> {
    let convert = |(i, &id): (usize, &i32)| {
        u32::try_from(id).map_err(|_| {
            Error::Option(format!("{what} {id} at position {i} is out of range: expected ids from 0 up"))
        })
    };
    array.as_array().iter().enumerate().map(convert).collect()
}

/// Reads ids and borders.
pub fn ragged(array: &PyReadonlyArray1<'_, i32>, starts: &PyReadonlyArray1<'_, i32>) -> Result<Ragged> {
    let ids = ids("token id", array)?;
    let starts: Vec<usize> =
        starts.as_array().iter().map(|&s| usize::try_from(s).unwrap_or(usize::MAX)).collect();
    let sorted = starts.windows(2).all(|w| w[0] <= w[1]);
    if starts.first() != Some(&0) || starts.last() != Some(&ids.len()) || !sorted {
        return Err(Error::Option(format!(
            "starts must rise from 0 to the number of ids, {}: got {} borders",
            ids.len(),
            starts.len()
        )));
    }
    Ok(Ragged { ids, starts })
}

/// Reads segment ids, as many as there are tokens.
pub fn segments(array: Option<&PyReadonlyArray1<'_, i32>>, tokens: usize) -> Result<Option<Vec<u32>>> {
    let Some(array) = array else { return Ok(None) };
    let segments = ids("segment id", array)?;
    if segments.len() != tokens {
        return Err(Error::Option(format!(
            "segment_ids has {} entries: expected one per token, {tokens}",
            segments.len()
        )));
    }
    Ok(Some(segments))
}

/// A matrix of `columns` columns for Python.
pub fn matrix(py: Python<'_>, values: Vec<f32>, columns: usize) -> PyResult<Bound<'_, PyArray2<f32>>> {
    let rows = values.len() / columns.max(1);
    PyArray1::from_vec(py, values).reshape([rows, columns])
}
