//! `_core.Machine`.

use super::call::{raise, work};
use crate::roofline::{ReadBuffer, multiply_adds};
use crate::threads::{Pool, default_threads};
use pyo3::prelude::*;

/// The roofline of the machine for a number of threads, for benchmarks.
#[pyclass(frozen, module = "lapwing._core")]
pub struct Machine {
    pool: Pool,
    memory: ReadBuffer,
}

#[pymethods]
impl Machine {
    #[new]
    #[pyo3(signature = (*, threads = None, megabytes = 512))]
    fn new(py: Python<'_>, threads: Option<usize>, megabytes: usize) -> PyResult<Self> {
        let memory = ReadBuffer::new(megabytes.saturating_mul(1 << 20)).map_err(|e| raise(py, &e))?;
        let threads = threads.unwrap_or_else(default_threads).clamp(1, 256);
        Ok(Machine { pool: Pool::new(threads), memory })
    }

    /// f32 multiply-adds per second, in billions.
    fn multiply_adds(&self, py: Python<'_>) -> PyResult<f64> {
        work(py, &self.pool, |team| Ok(multiply_adds(team)))
    }

    /// Bytes read per second, in billions.
    fn read(&self, py: Python<'_>) -> PyResult<f64> {
        work(py, &self.pool, |team| Ok(self.memory.read(team)))
    }
}
