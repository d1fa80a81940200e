//! A model's weights: what they are, and by which names and shapes a checkpoint gives them.
//!
//! One walk over the description names every tensor, its shape and its use. It is made twice: first to list
//! what is needed ([`needed`]), then, when everything has arrived, to take the packed tensors ([`Weights::take`]); so
//! the names stand in one place.

use super::spec;
use super::stack::Stack;
use crate::matmul::{Matrix, Target};
use crate::ops::norm::Norm;
use std::collections::HashMap;
use std::sync::Arc;

/// What a tensor is for, which decides how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Weights of a linear layer.
    Linear,
    /// Token table or language head: kept in 6 bits where the rest has 4.
    Vocabulary,
    /// Router of experts: its rounding decides which experts run, so it stays in f32.
    Router,
    /// Vectors and small tables: always f32.
    Values,
}

/// A tensor that the description needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    pub name: String,
    pub shape: Vec<usize>,
    pub purpose: Use,
}

/// A tensor as it is kept: packed, or as plain numbers.
#[derive(Clone)]
pub enum Loaded {
    Matrix(Arc<Matrix>),
    Values(Arc<Vec<f32>>),
}

/// A linear layer.
pub struct Linear {
    pub weight: Arc<Matrix>,
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// The product `out[rows, outputs] = x weight.T + bias`.
    pub fn target<'a>(&'a self, out: &'a mut [f32]) -> Target<'a> {
        Target::new(&self.weight, self.bias.as_deref(), out)
    }
}

pub struct DenseWeights {
    pub linear: Linear,
    pub norm: Option<Norm>,
}

pub struct LanguageHeadWeights {
    pub transform: Vec<DenseWeights>,
    pub output: Linear,
}

/// All weights of a model.
pub struct Weights {
    pub encoder: Option<Stack>,
    pub decoder: Option<Stack>,
    pub language_head: Option<LanguageHeadWeights>,
    pub pooler: Vec<DenseWeights>,
    pub head: Vec<DenseWeights>,
}

impl Weights {
    /// The weights of `spec`, each tensor of [`needed`] from `loaded`.
    pub(super) fn take(spec: &spec::Model, loaded: &HashMap<String, Loaded>) -> Self {
        let mut walk = Walk { needed: Vec::new(), loaded: Some(loaded) };
        let weights = walk.model(spec);
        debug_assert!(walk.needed.is_empty());
        weights
    }
}

/// Every tensor that `spec` needs, in the order of the model.
pub fn needed(spec: &spec::Model) -> Vec<Needed> {
    let mut walk = Walk { needed: Vec::new(), loaded: None };
    walk.model(spec);
    walk.needed
}

/// Walks the description, either listing what is needed or taking what has been loaded.
pub struct Walk<'a> {
    needed: Vec<Needed>,
    loaded: Option<&'a HashMap<String, Loaded>>,
}

impl Walk<'_> {
    pub(super) fn matrix(
        &mut self,
        name: String,
        outputs: usize,
        inputs: usize,
        purpose: Use,
    ) -> Arc<Matrix> {
        match self.loaded.and_then(|l| l.get(&name)) {
            Some(Loaded::Matrix(matrix)) => Arc::clone(matrix),
            _ => {
                self.needed.push(Needed { name, shape: vec![outputs, inputs], purpose });
                Arc::new(Matrix::empty())
            }
        }
    }

    pub(super) fn values(&mut self, name: String, shape: Vec<usize>) -> Vec<f32> {
        match self.loaded.and_then(|l| l.get(&name)) {
            Some(Loaded::Values(values)) => values.to_vec(),
            _ => {
                self.needed.push(Needed { name, shape, purpose: Use::Values });
                Vec::new()
            }
        }
    }

    pub(super) fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Linear {
        let weight = self.matrix(format!("{name}.weight"), outputs, inputs, Use::Linear);
        let bias = bias.then(|| self.values(format!("{name}.bias"), vec![outputs]));
        Linear { weight, bias }
    }

    pub(super) fn norm(&mut self, name: &str, norm: Option<&spec::Norm>, shape: &[usize]) -> Option<Norm> {
        let norm = norm?;
        let mut tensor = |wanted: bool, part: &str| match wanted {
            true => self.values(format!("{name}.{part}"), shape.to_vec()),
            false => Vec::new(),
        };
        let (weight, bias) = (tensor(norm.weight, "weight"), tensor(norm.bias, "bias"));
        Some(Norm { kind: norm.kind, eps: norm.eps as f32, weight, bias })
    }

    fn dense(&mut self, name: &str, layers: &[spec::Dense], mut width: usize) -> (Vec<DenseWeights>, usize) {
        let mut out = Vec::new();
        for (i, dense) in layers.iter().enumerate() {
            let name = format!("{name}.{i}");
            let linear = self.linear(&name, dense.outputs, width, dense.bias);
            width = dense.outputs;
            out.push(DenseWeights {
                linear,
                norm: self.norm(&format!("{name}.norm"), dense.norm.as_ref(), &[width]),
            });
        }
        (out, width)
    }

    fn model(&mut self, m: &spec::Model) -> Weights {
        let source = m.encoder.as_ref().map_or(0, spec::Stack::output_width);
        let encoder = m.encoder.as_ref().map(|s| Stack::load(s, self, "encoder", 0));
        let decoder = m.decoder.as_ref().map(|s| Stack::load(s, self, "decoder", source));
        let states = m.last_stack().output_width();
        let language_head = m.language_head.as_ref().map(|h| {
            let (transform, width) = self.dense("language_head.transform", &h.transform, states);
            let weight = self.matrix("language_head.weight".to_owned(), h.vocab_size, width, Use::Vocabulary);
            let bias = h.bias.then(|| self.values("language_head.bias".to_owned(), vec![h.vocab_size]));
            LanguageHeadWeights { transform, output: Linear { weight, bias } }
        });
        let mut head = |name: &str, head: &Option<spec::Head>| {
            head.as_ref().map_or_else(Vec::new, |h| self.dense(name, &h.layers, states).0)
        };
        let pooler = head("pooler", &m.pooler);
        let head = head("head", &m.head);
        Weights { encoder, decoder, language_head, pooler, head }
    }
}
