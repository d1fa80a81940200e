//! The weights of a whole model.

use super::spec;
use super::stack::Stack;
use super::walk::{Linear, Loaded, Needed, Use, Walk};
use crate::ops::norm::Norm;
use std::collections::HashMap;

/// A loaded layer of a head.
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
