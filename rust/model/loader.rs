//! Loading: checks shape and values of each tensor and packs it when it is added.

use super::spec;
use super::walk::{Loaded, Needed, Use};
use super::weights::{Weights, needed};
use crate::error::{Error, Result};
use crate::matmul::{Activations, Matrix};
use crate::ops::kv::KvType;
use crate::tensor::{DType, Source, WeightType};
use crate::threads::Team;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Types in which a model is stored and computed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The type of all matrices; `None` keeps the stored types.
    pub weights: Option<WeightType>,
    /// Rounding of the activations in products with 8-bit weights.
    pub activations: Activations,
    /// The type of a decoder's cached keys and values; `None` selects f32 if all weights are f32, else f16.
    pub kv_type: Option<KvType>,
}

/// Packs tensors one by one.
pub struct Loader {
    spec: spec::Model,
    options: Options,
    needed: HashMap<String, Needed>,
    order: Vec<String>,
    loaded: HashMap<String, Loaded>,
    bytes: HashMap<&'static str, usize>,
    parameters: usize,
    /// Whether every matrix so far is f32.
    all_f32: bool,
}

impl Loader {
    pub fn new(spec: spec::Model, options: Options) -> Self {
        let list = needed(&spec);
        Loader {
            spec,
            options,
            order: list.iter().map(|n| n.name.clone()).collect(),
            needed: list.into_iter().map(|n| (n.name.clone(), n)).collect(),
            loaded: HashMap::new(),
            bytes: HashMap::new(),
            parameters: 0,
            all_f32: true,
        }
    }

    pub fn spec(&self) -> &spec::Model {
        &self.spec
    }

    pub fn options(&self) -> Options {
        self.options
    }

    /// The type of keys and values; f32 for an encoder, which has no cache.
    pub fn kv_type(&self) -> KvType {
        let f32 = self.all_f32 || self.spec.decoder.is_none();
        self.options.kv_type.unwrap_or(if f32 { KvType::F32 } else { KvType::F16 })
    }

    /// Names and shapes of the needed tensors, in the order of the model.
    pub fn tensors(&self) -> Vec<(&str, &[usize])> {
        self.order.iter().map(|name| (name.as_str(), self.needed[name].shape.as_slice())).collect()
    }

    fn weight_type(&self, purpose: Use, stored: DType) -> WeightType {
        match (self.options.weights, purpose) {
            (_, Use::Router) => WeightType::F32,
            (Some(WeightType::Q4), Use::Vocabulary) => WeightType::Q6,
            (Some(weights), _) => weights,
            (None, _) => match stored {
                DType::F32 => WeightType::F32,
                DType::F16 => WeightType::F16,
                DType::Bf16 => WeightType::Bf16,
            },
        }
    }

    /// Packs `source` under all of `names`; names with the same use share the packed tensor.
    pub fn add(&mut self, team: &Team<'_>, names: &[String], source: &Source<'_>) -> Result<()> {
        let mut done: Vec<(Use, Loaded)> = Vec::new();
        for name in names {
            let Some(needed) = self.needed.get(name) else {
                return Err(Error::Checkpoint(format!("tensor {name} is not part of this model")));
            };
            if self.loaded.contains_key(name) {
                return Err(Error::Checkpoint(format!("tensor {name} was given twice")));
            }
            let expected: usize = needed.shape.iter().product();
            let columns = if needed.purpose == Use::Values { source.columns() } else { needed.shape[1] };
            if source.rows() * source.columns() != expected || source.columns() != columns {
                return Err(Error::Checkpoint(format!(
                    "tensor {name} has shape [{}, {}]: expected {:?}",
                    source.rows(),
                    source.columns(),
                    needed.shape
                )));
            }
            if let Some((_, loaded)) = done.iter().find(|(purpose, _)| *purpose == needed.purpose) {
                self.loaded.insert(name.clone(), loaded.clone());
                continue;
            }
            let purpose = needed.purpose;
            let named = |e: Error| match e {
                Error::Checkpoint(text) => Error::Checkpoint(format!("tensor {name}: {text}")),
                other => other,
            };
            let loaded = match purpose {
                Use::Values => {
                    let mut values = vec![0.0; expected];
                    for (row, out) in values.chunks_mut(source.columns().max(1)).enumerate() {
                        source.row_into(row, out);
                    }
                    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                        return Err(named(Error::Checkpoint(format!(
                            "value {i} is {}: expected finite weights",
                            values[i]
                        ))));
                    }
                    *self.bytes.entry("f32").or_default() += 4 * expected;
                    Loaded::Values(Arc::new(values))
                }
                Use::Linear | Use::Vocabulary | Use::Router => {
                    let to = self.weight_type(purpose, source.dtype());
                    let matrix = Matrix::pack(source, to, team).map_err(named)?;
                    let matrix = matrix.with_activations(self.options.activations);
                    self.all_f32 &= to == WeightType::F32;
                    *self.bytes.entry(to.name()).or_default() += matrix.bytes();
                    Loaded::Matrix(Arc::new(matrix))
                }
            };
            self.parameters += expected;
            self.loaded.insert(name.clone(), loaded.clone());
            done.push((purpose, loaded));
        }
        team.check()
    }

    /// Parameters, and bytes by weight type, of a model whose tensors are `tensors`: the names of each, and its
    /// stored type. Names with the same use share a tensor, as in `add`.
    pub fn sizes(&self, tensors: &[(Vec<String>, DType)]) -> Result<(usize, BTreeMap<&'static str, usize>)> {
        let (mut parameters, mut bytes) = (0, BTreeMap::new());
        for (names, stored) in tensors {
            let mut done = Vec::new();
            for needed in names.iter().filter_map(|name| self.needed.get(name)) {
                if done.contains(&needed.purpose) {
                    continue;
                }
                let count: usize = needed.shape.iter().product();
                let (name, size) = if needed.purpose == Use::Values {
                    ("f32", 4 * count)
                } else {
                    let to = self.weight_type(needed.purpose, *stored);
                    (to.name(), Matrix::size(needed.shape[0], needed.shape[1], to)?)
                };
                parameters += count;
                *bytes.entry(name).or_default() += size;
                done.push(needed.purpose);
            }
        }
        Ok((parameters, bytes))
    }

    /// The packed tensors so far, in the order of the model.
    pub(super) fn loaded(&self) -> impl Iterator<Item = (&str, &Loaded)> {
        self.order.iter().filter_map(|name| Some((name.as_str(), self.loaded.get(name)?)))
    }

    pub(super) fn parameters(&self) -> usize {
        self.parameters
    }

    pub(super) fn set_parameters(&mut self, parameters: usize) {
        self.parameters = parameters;
    }

    /// Adds packed tensors, each under all of its names; adds none if one does not fit.
    pub(super) fn put(&mut self, tensors: Vec<(&[String], Loaded)>) -> Result<()> {
        for (names, loaded) in &tensors {
            for name in *names {
                let needed = self.needed.get(name);
                let fits = needed.is_some_and(|needed| match loaded {
                    Loaded::Matrix(m) => {
                        needed.purpose != Use::Values && needed.shape == [m.outputs(), m.inputs()]
                    }
                    Loaded::Values(v) => {
                        needed.purpose == Use::Values && needed.shape.iter().product::<usize>() == v.len()
                    }
                });
                if !fits {
                    return Err(Error::Checkpoint(format!("tensor {name} does not fit this model")));
                }
            }
        }
        for (names, loaded) in tensors {
            let (loaded, kind, bytes) = match loaded {
                Loaded::Matrix(m) => {
                    let m = Arc::try_unwrap(m).map_err(|_| Error::Internal("a shared matrix".to_owned()))?;
                    let (kind, bytes) = (m.weight_type(), m.bytes());
                    self.all_f32 &= kind == WeightType::F32;
                    let m = m.with_activations(self.options.activations);
                    (Loaded::Matrix(Arc::new(m)), kind.name(), bytes)
                }
                Loaded::Values(v) => {
                    let bytes = 4 * v.len();
                    (Loaded::Values(v), "f32", bytes)
                }
            };
            *self.bytes.entry(kind).or_default() += bytes;
            for name in names {
                self.loaded.insert(name.clone(), loaded.clone());
            }
        }
        Ok(())
    }

    /// The weights; an error lists all missing tensors.
    pub fn finish(self) -> Result<(spec::Model, Weights, Summary)> {
        let missing: Vec<&str> =
            self.order.iter().map(String::as_str).filter(|name| !self.loaded.contains_key(*name)).collect();
        if !missing.is_empty() {
            return Err(Error::Checkpoint(format!(
                "{} tensors are missing: {}",
                missing.len(),
                missing.join(", ")
            )));
        }
        let weights = Weights::take(&self.spec, &self.loaded);
        let mut bytes: Vec<(&'static str, usize)> = self.bytes.into_iter().collect();
        bytes.sort_unstable();
        Ok((self.spec, weights, Summary { parameters: self.parameters, bytes }))
    }
}

/// Sizes of a loaded model.
#[derive(Debug, Clone)]
pub struct Summary {
    pub parameters: usize,
    /// Bytes by weight type.
    pub bytes: Vec<(&'static str, usize)>,
}
