//! The Python bindings of the core: they convert arguments, release the interpreter, call, and convert
//! results.
//!
//! Every call runs without the interpreter. The calling thread polls signals if it is the process's main
//! thread, on which Python handles them, so Ctrl-C ends any work soon. A panic becomes
//! `lapwing.InternalError`.

mod call;
mod closing;
mod generation;
mod loader;
mod machine;
mod model;

use crate::decode::options::{Options, in_vocabulary};
use crate::decode::process::{self, Context};
use crate::error::Error;
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

/// Number of threads used by default.
#[pyfunction]
fn default_threads() -> usize {
    crate::threads::default_threads()
}

/// The instruction set in use.
#[pyfunction]
fn isa(py: Python<'_>) -> PyResult<&'static str> {
    crate::simd::level_or_error().map(crate::simd::Level::name).map_err(|e| call::raise(py, &e))
}

/// Reads a description and writes it back.
#[pyfunction]
fn normalize_spec(py: Python<'_>, spec: &str) -> PyResult<String> {
    let read = crate::model::spec::Model::from_json(spec);
    read.map(|s| s.to_json()).map_err(|e| call::raise(py, &e))
}

/// Name and shape of every tensor that a description needs.
#[pyfunction]
fn spec_tensors(py: Python<'_>, spec: &str) -> PyResult<Vec<(String, Vec<usize>)>> {
    let spec = crate::model::spec::Model::from_json(spec).map_err(|e| call::raise(py, &e))?;
    Ok(crate::model::needed(&spec).into_iter().map(|n| (n.name, n.shape)).collect())
}

/// Parameters, and bytes in memory by weight type, of a description's tensors, without reading any.
#[pyfunction]
fn weight_sizes(
    py: Python<'_>,
    spec: &str,
    weights: &str,
    tensors: Vec<(Vec<String>, String)>,
) -> PyResult<(usize, std::collections::BTreeMap<&'static str, usize>)> {
    use crate::tensor::{DType, WeightType};
    let sizes = || {
        let weights = if weights == "stored" { None } else { Some(WeightType::parse(weights)?) };
        let options = crate::model::Options { weights, ..Default::default() };
        let parse = |(names, dtype): (Vec<String>, String)| Ok((names, DType::parse(&dtype)?));
        let tensors = tensors.into_iter().map(parse).collect::<crate::error::Result<Vec<_>>>()?;
        crate::model::Loader::new(crate::model::spec::Model::from_json(spec)?, options).sizes(&tensors)
    };
    sizes().map_err(|e| call::raise(py, &e))
}

/// Renders a chat template with variables given as JSON.
#[pyfunction]
fn render_template(py: Python<'_>, source: &str, variables: &str) -> PyResult<String> {
    let result = py.detach(|| call::guarded(|| crate::template::render(source, variables)));
    result.map_err(|e| call::raise(py, &e))
}

type Scores<'py> = (Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f64>>);

/// Logits processed by the options of a generation, and the probability with which each token is then
/// sampled.
#[pyfunction]
fn process_logits<'py>(
    py: Python<'py>,
    logits: PyReadonlyArray1<'_, f32>,
    options: &str,
    ids: Vec<u32>,
    prompt: usize,
    max_length: usize,
    source: Vec<u32>,
) -> PyResult<Scores<'py>> {
    let mut logits = logits.as_array().to_vec();
    let vocab = logits.len();
    let run = || {
        let options = Options::from_json(options, vocab)?;
        in_vocabulary("ids", ids.iter().chain(&source).copied(), vocab)?;
        if logits.is_empty() || prompt > ids.len() {
            return Err(Error::Option(format!(
                "{vocab} logits and a prompt of {prompt} of {} ids were given: expected at least one logit, and the prompt among the ids",
                ids.len()
            )));
        }
        let context = Context { ids: &ids, prompt, max_length, source: &source };
        process::process(&options, &context, &mut logits, None, &mut Vec::new())?;
        Ok(crate::decode::sample::probabilities(&options, &logits))
    };
    let probabilities = call::guarded(std::panic::AssertUnwindSafe(run)).map_err(|e| call::raise(py, &e))?;
    Ok((PyArray1::from_vec(py, logits), PyArray1::from_vec(py, probabilities)))
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<loader::Loader>()?;
    m.add_class::<model::Model>()?;
    m.add_class::<generation::Generation>()?;
    m.add_class::<machine::Machine>()?;
    m.add_function(wrap_pyfunction!(default_threads, m)?)?;
    m.add_function(wrap_pyfunction!(isa, m)?)?;
    m.add_function(wrap_pyfunction!(normalize_spec, m)?)?;
    m.add_function(wrap_pyfunction!(spec_tensors, m)?)?;
    m.add_function(wrap_pyfunction!(weight_sizes, m)?)?;
    m.add_function(wrap_pyfunction!(render_template, m)?)?;
    m.add_function(wrap_pyfunction!(process_logits, m)?)?;
    Ok(())
}
