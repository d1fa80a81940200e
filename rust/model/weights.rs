//! The weights of a whole model.

use super::spec;
use super::stack::Stack;
use super::walk::{Linear, Loaded, Needed, Use, Walk};
use crate::ops::norm::Norm;
use crate::simd::Activation;
use std::collections::HashMap;

/// A loaded layer of a head.
pub enum HeadLayer {
    Dense { linear: Linear, activation: Activation, residual: Residual, norm: Option<Norm> },
    Norm(Norm),
    UnitLength,
}

/// What a dense layer adds to its output.
pub enum Residual {
    Nothing,
    Input,
    Projection(Linear),
}

#[derive(Default)]
pub struct HeadWeights {
    pub layers: Vec<HeadLayer>,
    /// Weights of the stack's states, from the first one that counts.
    pub mixture: Vec<f32>,
}

pub struct LanguageHeadWeights {
    pub transform: Vec<HeadLayer>,
    pub output: Linear,
}

/// All weights of a model.
pub struct Weights {
    pub encoder: Option<Stack>,
    pub decoder: Option<Stack>,
    pub language_head: Option<LanguageHeadWeights>,
    pub pooler: HeadWeights,
    pub head: HeadWeights,
    pub embeddings: Vec<HeadWeights>,
}

impl Weights {
    /// The weights of `spec`, each tensor of [`needed`] from `loaded`.
    pub(super) fn take(spec: &spec::Model, loaded: &HashMap<String, Loaded>) -> Self {
        let mut walk = Walk::take(loaded);
        let weights = walk.model(spec);
        debug_assert!(walk.needed().is_empty(), "all tensors are loaded");
        weights
    }
}

/// Every tensor that `spec` needs, in the order of the model.
pub fn needed(spec: &spec::Model) -> Vec<Needed> {
    let mut walk = Walk::list();
    walk.model(spec);
    walk.needed()
}

impl Walk<'_> {
    /// A layer of a head, and the width of its output.
    fn head_layer(&mut self, name: &str, layer: &spec::HeadLayer, width: usize) -> (HeadLayer, usize) {
        match layer {
            spec::HeadLayer::Dense(dense) => {
                let outputs = dense.outputs;
                let linear = self.linear(name, outputs, width, dense.bias);
                let residual = match dense.residual {
                    false => Residual::Nothing,
                    true if width == outputs => Residual::Input,
                    true => {
                        Residual::Projection(self.linear(&format!("{name}.residual"), outputs, width, false))
                    }
                };
                let norm = self.norm(&format!("{name}.norm"), dense.norm.as_ref(), &[outputs]);
                (HeadLayer::Dense { linear, activation: dense.activation, residual, norm }, outputs)
            }
            spec::HeadLayer::Normalization(layer) => {
                let norm = self.norm(&format!("{name}.norm"), Some(&layer.norm), &[width]);
                (HeadLayer::Norm(norm.expect("the norm is given")), width)
            }
            spec::HeadLayer::UnitLength(_) => (HeadLayer::UnitLength, width),
        }
    }

    fn head(&mut self, name: &str, head: &spec::Head, stack: &spec::Stack) -> HeadWeights {
        let mixture = head.mixture.map_or_else(Vec::new, |first| {
            self.values(format!("{name}.mixture"), vec![stack.layers.len() + 1 - first])
        });
        let mut width = stack.output_width();
        let mut layers = Vec::new();
        for (i, layer) in head.layers.iter().enumerate() {
            if i == head.token_layers {
                width *= head.pool.len().max(1);
            }
            let (layer, outputs) = self.head_layer(&format!("{name}.{i}"), layer, width);
            layers.push(layer);
            width = outputs;
        }
        HeadWeights { layers, mixture }
    }

    fn model(&mut self, m: &spec::Model) -> Weights {
        let source = m.encoder.as_ref().map_or(0, spec::Stack::output_width);
        let encoder = m.encoder.as_ref().map(|s| Stack::load(s, self, "encoder", 0));
        let decoder = m.decoder.as_ref().map(|s| Stack::load(s, self, "decoder", source));
        let states = m.last_stack().output_width();
        let language_head = m.language_head.as_ref().map(|h| {
            let mut width = states;
            let mut transform = Vec::new();
            for (i, layer) in h.transform.iter().enumerate() {
                let (layer, outputs) = self.head_layer(&format!("language_head.transform.{i}"), layer, width);
                transform.push(layer);
                width = outputs;
            }
            let weight = self.matrix("language_head.weight".to_owned(), h.vocab_size, width, Use::Vocabulary);
            let bias = h.bias.then(|| self.values("language_head.bias".to_owned(), vec![h.vocab_size]));
            LanguageHeadWeights { transform, output: Linear { weight, bias } }
        });
        let mut head = |name: &str, head: &Option<spec::Head>| {
            head.as_ref().map_or_else(HeadWeights::default, |h| self.head(name, h, m.last_stack()))
        };
        let pooler = head("pooler", &m.pooler);
        let head = head("head", &m.head);
        let each = m.embeddings.iter().enumerate();
        let embeddings = each.map(|(i, h)| self.head(&format!("embeddings.{i}"), h, m.reader())).collect();
        Weights { encoder, decoder, language_head, pooler, head, embeddings }
    }
}
