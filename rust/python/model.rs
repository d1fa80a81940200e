//! `_core.Model`.

use super::call::{self, Ragged, compute, matrix, ragged, raise, segments};
use super::closing::{CloseFlag, Ending};
use super::generation::{self, Generation};
use crate::decode::options::Options;
use crate::decode::{Engine, Request};
use crate::error::{Error, Result};
use crate::model::{self, Batch, HeadOptions, Session};
use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::{Arc, Mutex, PoisonError};

type Ids<'py> = PyReadonlyArray1<'py, i32>;

/// A loaded model.
#[pyclass(frozen, module = "lapwing._core")]
pub struct Model {
    engine: Mutex<Option<Arc<Engine>>>,
    flag: Arc<CloseFlag>,
}

impl Model {
    pub fn wrap(model: Arc<model::Model>) -> Self {
        Model { engine: Mutex::new(Some(Engine::new(model))), flag: Arc::default() }
    }

    fn engine(&self, py: Python<'_>) -> PyResult<Arc<Engine>> {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        engine.ok_or_else(|| raise(py, &CloseFlag::closed_error()))
    }

    fn get(&self, py: Python<'_>) -> PyResult<Arc<model::Model>> {
        Ok(Arc::clone(self.engine(py)?.model()))
    }

    /// Reads a batch and computes with it.
    fn with<R: Send>(
        &self,
        py: Python<'_>,
        ids: &Ids<'_>,
        starts: &Ids<'_>,
        kinds: Option<&Ids<'_>>,
        body: impl FnOnce(&mut Session<'_>, &Batch<'_>) -> Result<R> + Send,
    ) -> PyResult<R> {
        let model = self.get(py)?;
        let read = || {
            let batch = ragged(ids, starts)?;
            let kinds = segments(kinds, batch.ids.len())?;
            Ok((batch, kinds))
        };
        let (Ragged { ids, starts }, kinds) = read().map_err(|e| raise(py, &e))?;
        compute(py, &model, &|| self.flag.ending(), |s| {
            body(s, &Batch { ids: &ids, starts: &starts, segments: kinds.as_deref(), unseen: None })
        })
    }
}

fn width(model: &model::Model) -> usize {
    let spec = model.spec();
    spec.encoder.as_ref().or(spec.decoder.as_ref()).map_or(0, model::spec::Stack::output_width)
}

fn outputs(head: Option<&model::spec::Head>, width: usize) -> usize {
    head.map_or(width, |head| head.output_width(width))
}

/// The states of a stack: embedding and layers may differ in width from the last ones.
fn states(py: Python<'_>, all: Vec<Vec<f32>>, tokens: usize) -> PyResult<Vec<Bound<'_, PyArray2<f32>>>> {
    all.into_iter()
        .map(|s| {
            let columns = s.len() / tokens.max(1);
            matrix(py, s, columns)
        })
        .collect()
}

fn cube(py: Python<'_>, values: Vec<f32>, queries: usize, keys: usize) -> PyResult<Bound<'_, PyArray3<f32>>> {
    let heads = values.len() / (queries * keys).max(1);
    PyArray1::from_vec(py, values).reshape([heads, queries, keys])
}

#[pymethods]
impl Model {
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let model = self.get(py)?;
        let info = PyDict::new(py);
        let summary = model.summary();
        let weights = PyDict::new(py);
        for (name, bytes) in &summary.bytes {
            weights.set_item(name, bytes)?;
        }
        info.set_item("parameters", summary.parameters)?;
        info.set_item("bytes", summary.bytes.iter().map(|(_, b)| b).sum::<usize>())?;
        info.set_item("weight_types", weights)?;
        info.set_item("activations", model.activations().name())?;
        info.set_item("kv", model.kv_type().name())?;
        info.set_item("isa", crate::simd::level().name())?;
        info.set_item("threads", model.threads())?;
        Ok(info)
    }

    fn spec_json(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.get(py)?.spec().to_json())
    }

    /// Sets the bound of the prefix cache in bytes, and clears it.
    fn limit_prefixes(&self, py: Python<'_>, bytes: usize) -> PyResult<()> {
        self.engine(py)?.limit_prefixes(bytes);
        Ok(())
    }

    fn prefixes(&self, py: Python<'_>) -> PyResult<(usize, usize, u64)> {
        let found = self.engine(py)?.prefixes();
        Ok((found.sequences, found.bytes, found.reused))
    }

    fn close(&self) {
        let engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.flag.close();
        drop(engine);
    }

    #[pyo3(signature = (ids, starts, segments = None))]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        segments: Option<Ids<'_>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let columns = width(&*self.get(py)?);
        let out = self.with(py, &ids, &starts, segments.as_ref(), |s, b| s.encode(b))?;
        matrix(py, out, columns)
    }

    #[pyo3(signature = (ids, starts, segments = None))]
    fn hidden_states<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        segments: Option<Ids<'_>>,
    ) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
        let out = self.with(py, &ids, &starts, segments.as_ref(), |s, b| s.hidden_states(b))?;
        states(py, out, ids.as_array().len())
    }

    #[pyo3(signature = (ids, layer, segments = None))]
    fn attentions<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        layer: usize,
        segments: Option<Ids<'_>>,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let n = ids.as_array().len();
        let starts = PyArray1::from_vec(py, vec![0, n as i32]);
        let out =
            self.with(py, &ids, &starts.readonly(), segments.as_ref(), |s, b| s.attentions(b, layer))?;
        cube(py, out, n, n)
    }

    #[pyo3(signature = (ids, starts, segments = None))]
    fn pooled<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        segments: Option<Ids<'_>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let model = self.get(py)?;
        let columns = outputs(model.spec().pooler.as_ref(), width(&model));
        let out = self.with(py, &ids, &starts, segments.as_ref(), |s, b| s.pooler(b))?;
        matrix(py, out, columns)
    }

    #[pyo3(signature = (ids, starts, segments = None))]
    fn head<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        segments: Option<Ids<'_>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let model = self.get(py)?;
        let columns = outputs(model.spec().head.as_ref(), width(&model));
        let out = self.with(py, &ids, &starts, segments.as_ref(), |s, b| s.task_head(b))?;
        matrix(py, out, columns)
    }

    #[pyo3(signature = (ids, starts, route = 0, skip = 0, size = None, normalize = None, unseen = None))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        route: usize,
        skip: usize,
        size: Option<usize>,
        normalize: Option<bool>,
        unseen: Option<Vec<usize>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let model = self.get(py)?;
        let columns = size.unwrap_or(outputs(model.spec().embeddings.get(route), width(&model)));
        let options = HeadOptions { skip, size, normalize };
        let out = self.with(py, &ids, &starts, None, |s, b| {
            if unseen.as_ref().is_some_and(|counts| counts.len() != b.len()) {
                return Err(Error::Option("unseen and starts differ in length".to_owned()));
            }
            s.embed(&Batch { unseen: unseen.as_deref(), ..*b }, route, &options)
        })?;
        matrix(py, out, columns)
    }

    fn term_weights<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        sum: bool,
        logs: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let columns = self.get(py)?.vocab_size().map_err(|e| raise(py, &e))?;
        let out = self.with(py, &ids, &starts, None, |s, b| s.term_weights(b, sum, logs))?;
        matrix(py, out, columns)
    }

    #[pyo3(signature = (ids, starts, segments = None))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        segments: Option<Ids<'_>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let columns = self.get(py)?.vocab_size().map_err(|e| raise(py, &e))?;
        let out = self.with(py, &ids, &starts, segments.as_ref(), |s, b| s.all_logits(b))?;
        matrix(py, out, columns)
    }

    fn state_logits<'py>(
        &self,
        py: Python<'py>,
        states: PyReadonlyArray2<'_, f32>,
        normed: bool,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let model = self.get(py)?;
        let columns = model.vocab_size().map_err(|e| raise(py, &e))?;
        let width = states.as_array().ncols();
        let values: Vec<f32> = states.as_array().iter().copied().collect();
        let out = compute(py, &model, &|| self.flag.ending(), |s| s.state_logits(&values, width, normed))?;
        matrix(py, out, columns)
    }

    fn decoder_logits<'py>(
        &self,
        py: Python<'py>,
        source_ids: Ids<'_>,
        source_starts: Ids<'_>,
        ids: Ids<'_>,
        starts: Ids<'_>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let columns = self.get(py)?.vocab_size().map_err(|e| raise(py, &e))?;
        let source = ragged(&source_ids, &source_starts).map_err(|e| raise(py, &e))?;
        let out = self.with(py, &ids, &starts, None, |s, b| {
            s.decoder_logits(
                &Batch { ids: &source.ids, starts: &source.starts, segments: None, unseen: None },
                b,
            )
        })?;
        matrix(py, out, columns)
    }

    fn decoder_head<'py>(
        &self,
        py: Python<'py>,
        source_ids: Ids<'_>,
        source_starts: Ids<'_>,
        ids: Ids<'_>,
        starts: Ids<'_>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let model = self.get(py)?;
        let columns = outputs(model.spec().head.as_ref(), model.spec().last_stack().output_width());
        let source = ragged(&source_ids, &source_starts).map_err(|e| raise(py, &e))?;
        let out = self.with(py, &ids, &starts, None, |s, b| {
            s.decoder_head(
                &Batch { ids: &source.ids, starts: &source.starts, segments: None, unseen: None },
                b,
            )
        })?;
        matrix(py, out, columns)
    }

    fn decoder_hidden_states<'py>(
        &self,
        py: Python<'py>,
        source_ids: Ids<'_>,
        source_starts: Ids<'_>,
        ids: Ids<'_>,
        starts: Ids<'_>,
    ) -> PyResult<Vec<Bound<'py, PyArray2<f32>>>> {
        let source = ragged(&source_ids, &source_starts).map_err(|e| raise(py, &e))?;
        let out = self.with(py, &ids, &starts, None, |s, b| {
            s.decoder_hidden_states(
                &Batch { ids: &source.ids, starts: &source.starts, segments: None, unseen: None },
                b,
            )
        })?;
        states(py, out, ids.as_array().len())
    }

    fn decoder_attentions<'py>(
        &self,
        py: Python<'py>,
        source_ids: Ids<'_>,
        ids: Ids<'_>,
        layer: usize,
        cross: bool,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let (n, m) = (ids.as_array().len(), source_ids.as_array().len());
        let source = call::ids("token id", &source_ids).map_err(|e| raise(py, &e))?;
        let starts = PyArray1::from_vec(py, vec![0, n as i32]);
        let out = self.with(py, &ids, &starts.readonly(), None, |s, b| {
            s.decoder_attentions(
                &Batch { ids: &source, starts: &[0, m], segments: None, unseen: None },
                b,
                layer,
                cross,
            )
        })?;
        cube(py, out, n, if cross { m } else { n })
    }

    #[pyo3(signature = (ids, starts, options, source_ids = None, source_starts = None, processor = None, draft = None, limits = None, row = None))]
    fn generate(
        &self,
        py: Python<'_>,
        ids: Ids<'_>,
        starts: Ids<'_>,
        options: &str,
        source_ids: Option<Ids<'_>>,
        source_starts: Option<Ids<'_>>,
        processor: Option<Py<PyAny>>,
        draft: Option<PyRef<'_, Model>>,
        limits: Option<Vec<usize>>,
        row: Option<usize>,
    ) -> PyResult<Generation> {
        let engine = self.engine(py)?;
        let mut flags = vec![Arc::clone(&self.flag)];
        let guesser = draft.as_ref().map(|draft| draft.get(py)).transpose()?;
        flags.extend(draft.map(|draft| Arc::clone(&draft.flag)));
        let (ending, raised) = (Ending::new(flags), generation::Raised::default());
        let processor = processor
            .map(|function| generation::processor(function, Arc::clone(&ending), Arc::clone(&raised)));
        let make = || {
            let options = Options::from_json(options, engine.model().vocab_size()?)?;
            let prompts = ragged(&ids, &starts)?.parts();
            let sources = match (&source_ids, &source_starts) {
                (Some(ids), Some(starts)) => ragged(ids, starts)?.parts(),
                _ => Vec::new(),
            };
            let limits = limits.unwrap_or_default();
            engine.add(Request { prompts, sources, options, limits, processor, draft: guesser, row })
        };
        let call = make().map_err(|e| raise(py, &e))?;
        Ok(Generation::wrap(call, ending, raised))
    }
}
