//! `_core.Loader`.

use super::call::{raise, work};
use super::model::Model;
use crate::error::Error;
use crate::matmul::Activations;
use crate::model::{self, packed};
use crate::ops::kv::KvType;
use crate::simd::level_or_error;
use crate::tensor::{DType, Source, WeightType};
use crate::threads::{Pool, default_threads};
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Builds a model: packs each tensor as soon as it is added.
#[pyclass(frozen, module = "lapwing._core")]
pub struct Loader {
    state: Mutex<Option<(model::Loader, Pool)>>,
}

fn used_up() -> Error {
    Error::Option("this loader has finished: make a new one".to_owned())
}

#[pymethods]
impl Loader {
    #[new]
    #[pyo3(signature = (spec, *, weights = "stored", activations = "int16", kv = "auto", threads = None))]
    fn new(
        py: Python<'_>,
        spec: &str,
        weights: &str,
        activations: &str,
        kv: &str,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let make = || {
            level_or_error()?;
            let options = model::Options {
                weights: if weights == "stored" { None } else { Some(WeightType::parse(weights)?) },
                activations: Activations::parse(activations)?,
                kv_type: if kv == "auto" { None } else { Some(KvType::parse(kv)?) },
            };
            if let Some(needed) = options.activations.weights()
                && options.weights != Some(needed)
            {
                return Err(Error::Option(format!(
                    "activations='{activations}' needs weights='{}': this model has weights='{weights}'",
                    needed.name()
                )));
            }
            if threads.is_some_and(|n| n == 0 || n > 256) {
                let n = threads.unwrap_or_default();
                return Err(Error::Option(format!("threads={n} is out of range: expected 1 to 256")));
            }
            let spec = model::spec::Model::from_json(spec)?;
            if spec.decoder.is_none() && options.kv_type.is_some_and(|kv_type| kv_type != KvType::F32) {
                return Err(Error::Option(format!(
                    "kv_cache='{kv}' sets the type of a decoder's cache: this model is an encoder, which has no cache and \
                     computes in f32"
                )));
            }
            let pool = Pool::new(threads.unwrap_or_else(default_threads));
            Ok(Loader { state: Mutex::new(Some((model::Loader::new(spec, options), pool))) })
        };
        make().map_err(|e| raise(py, &e))
    }

    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<(String, Vec<usize>)>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (loader, _) = state.as_ref().ok_or_else(|| raise(py, &used_up()))?;
        Ok(loader.tensors().into_iter().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect())
    }

    fn add(
        &self,
        py: Python<'_>,
        names: Vec<String>,
        array: &Bound<'_, PyUntypedArray>,
        dtype: &str,
    ) -> PyResult<()> {
        let dtype = DType::parse(dtype).map_err(|e| raise(py, &e))?;
        let (data, shape, strides) = layout(array, dtype).map_err(|e| raise(py, &e))?;
        let source = Source::new(data, dtype, shape, strides).map_err(|e| raise(py, &e))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (loader, pool) = state.as_mut().ok_or_else(|| raise(py, &used_up()))?;
        work(py, pool, |team| loader.add(team, &names, &source))
    }

    fn save(&self, py: Python<'_>, key: &str, path: std::path::PathBuf) -> PyResult<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (loader, pool) = state.as_ref().ok_or_else(|| raise(py, &used_up()))?;
        work(py, pool, |team| packed::save(loader, team, key, &path))
    }

    fn restore(&self, py: Python<'_>, key: &str, path: std::path::PathBuf) -> PyResult<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (loader, pool) = state.as_mut().ok_or_else(|| raise(py, &used_up()))?;
        work(py, pool, |team| packed::restore(loader, team, key, &path))
    }

    fn finish(&self, py: Python<'_>) -> PyResult<Model> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (loader, pool) = state.ok_or_else(|| raise(py, &used_up()))?;
        let model = model::Model::new(loader, pool).map_err(|e| raise(py, &e))?;
        Ok(Model::wrap(Arc::new(model)))
    }
}

type Layout<'a> = (&'a [u8], [usize; 2], [usize; 2]);

/// The memory of an array as bytes, its shape as a matrix and its strides in elements.
fn layout<'a>(array: &'a Bound<'_, PyUntypedArray>, dtype: DType) -> Result<Layout<'a>, Error> {
    let size = dtype.bytes();
    let wrong = |what: String| Err(Error::Checkpoint(what));
    if array.dtype().itemsize() != size {
        return wrong(format!(
            "an array with elements of {} bytes was given as {dtype:?}",
            array.dtype().itemsize()
        ));
    }
    let mut shape = [1, 1];
    let mut strides = [0, 1];
    let (from, steps) = (array.shape(), array.strides());
    if from.is_empty() || from.len() > 2 {
        return wrong(format!("an array of {} dimensions was given: expected 1 or 2", from.len()));
    }
    let skip = 2 - from.len();
    for (i, (&n, &step)) in from.iter().zip(steps).enumerate() {
        shape[skip + i] = n;
        match usize::try_from(step) {
            Ok(step) if step % size == 0 => strides[skip + i] = step / size,
            _ if n <= 1 => strides[skip + i] = 0,
            _ => return wrong(format!("an array with a stride of {step} bytes was given")),
        }
    }
    if shape.contains(&0) {
        return Ok((&[], shape, strides));
    }
    let last = (shape[0] - 1) * strides[0] + (shape[1] - 1) * strides[1];
    // SAFETY: numpy keeps every element between the first and the last alive as long as the array, which
    // the caller holds; strides are not negative. The interpreter is released while the bytes are read: a
    // caller that writes to the array meanwhile gets wrong weights, as with any buffer.
    let data = unsafe {
        let pointer = (*array.as_array_ptr()).fields.data.cast::<u8>();
        std::slice::from_raw_parts(pointer, (last + 1) * size)
    };
    Ok((data, shape, strides))
}
