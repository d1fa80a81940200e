//! A walk over a description names every tensor, its shape and its use. It runs twice, to list the needed
//! tensors and to take the packed ones, so each name is written once.

use super::describe;
use crate::matmul::{Matrix, Target};
use crate::ops::norm::Norm;
use std::collections::HashMap;
use std::sync::Arc;

/// The use of a tensor, which decides how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Weights of a linear layer.
    Linear,
    /// Token table or language head: 6 bits in q4 models.
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

/// A loaded tensor: packed, or plain numbers.
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

/// A walk that either lists the needed tensors or takes the loaded ones.
pub struct Walk<'a> {
    needed: Vec<Needed>,
    loaded: Option<&'a HashMap<String, Loaded>>,
}

impl<'a> Walk<'a> {
    /// A walk that lists the needed tensors.
    pub(super) fn list() -> Self {
        Walk { needed: Vec::new(), loaded: None }
    }

    /// A walk that takes the loaded tensors.
    pub(super) fn take(loaded: &'a HashMap<String, Loaded>) -> Self {
        Walk { needed: Vec::new(), loaded: Some(loaded) }
    }

    /// The tensors that were not loaded.
    pub(super) fn needed(self) -> Vec<Needed> {
        self.needed
    }

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

    pub(super) fn norm(
        &mut self,
        name: &str,
        norm: Option<&describe::Norm>,
        shape: &[usize],
    ) -> Option<Norm> {
        let norm = norm?;
        let mut tensor = |wanted: bool, part: &str| match wanted {
            true => self.values(format!("{name}.{part}"), shape.to_vec()),
            false => Vec::new(),
        };
        let (weight, bias) = (tensor(norm.weight, "weight"), tensor(norm.bias, "bias"));
        Some(Norm { kind: norm.kind, eps: norm.eps as f32, weight, bias })
    }
}
