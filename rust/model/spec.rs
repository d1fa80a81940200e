//! The description of a model, as Python sends it: a mirror of `python/lapwing/spec.py`, which documents
//! every field. A test checks that every description survives the round trip. Descriptions of bodies are in
//! their files in `blocks/`, those of stems in `stem.rs`.

pub use super::blocks::positions::Rotary;
pub use super::blocks::{BlockSpec as Block, BodySpec as Body};
pub use super::describe::Norm;
use super::describe::{mirror, one};
pub use super::stem::StemSpec as Stem;
use crate::error::{Error, Result};
use crate::ops::pool::Pooling;
use crate::simd::Activation;
use serde::{Deserialize, Serialize};

mirror!(/// Blocks that run one after the other.
Layer { blocks: Vec<Block> });

mirror!(/// A table of relative positions that all layers share.
RelativeTable { rows: usize, #[serde(default)] norm: Option<Norm> });

mirror!(/// Stem, layers and final norm.
Stack {
    hidden_size: usize,
    stem: Stem,
    layers: Vec<Layer>,
    max_length: usize,
    #[serde(default)] relative: Option<RelativeTable>,
    #[serde(default)] final_norm: Option<Norm>,
    #[serde(default)] output_size: Option<usize>,
});

mirror!(/// A dense layer of a head.
Dense {
    outputs: usize,
    bias: bool,
    activation: Activation,
    #[serde(default)] norm: Option<Norm>,
    #[serde(default)] residual: bool,
});

mirror!(/// A norm as a layer of a head.
Normalization { norm: Norm });

mirror!(/// Scales a row to unit length.
UnitLength {});

/// One layer of a head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HeadLayer {
    Dense(Dense),
    Normalization(Normalization),
    UnitLength(UnitLength),
}

mirror!(/// A task head, or what makes embeddings of states.
Head {
    pool: Vec<Pooling>,
    layers: Vec<HeadLayer>,
    #[serde(default)] token_layers: usize,
    #[serde(default)] mixture: Option<usize>,
});

impl Head {
    /// Width of the output, for states of this width.
    pub fn output_width(&self, states: usize) -> usize {
        let mut width = states;
        for i in 0..=self.layers.len() {
            if i == self.token_layers {
                width *= self.pool.len().max(1);
            }
            if let Some(HeadLayer::Dense(dense)) = self.layers.get(i) {
                width = dense.outputs;
            }
        }
        width
    }
}

mirror!(/// Logits over the vocabulary.
LanguageHead {
    vocab_size: usize,
    #[serde(default)] bias: bool,
    #[serde(default = "one")] scale: f64,
    #[serde(default)] softcap: Option<f64>,
    #[serde(default)] transform: Vec<HeadLayer>,
});

mirror!(
    /// A whole model.
    Model {
        #[serde(default)] encoder: Option<Stack>,
        #[serde(default)] decoder: Option<Stack>,
        #[serde(default)] language_head: Option<LanguageHead>,
        #[serde(default)] pooler: Option<Head>,
        #[serde(default)] head: Option<Head>,
        #[serde(default)] embeddings: Vec<Head>,
    }
);

impl Body {
    /// Whether rows can be computed to which no other row attends.
    pub fn hides_tokens(&self) -> bool {
        matches!(self, Body::Attention(_) | Body::FeedForward(_) | Body::Experts(_))
    }
}

impl Stack {
    /// Width of the final states.
    pub fn output_width(&self) -> usize {
        self.output_size.unwrap_or(self.hidden_size)
    }

    /// Maximum length of a sequence in tokens.
    pub fn longest(&self) -> usize {
        self.stem.longest().unwrap_or(usize::MAX).min(self.max_length)
    }

    /// Entries of the token table.
    pub fn vocab_size(&self) -> usize {
        self.stem.vocab_size()
    }

    /// The bodies of all blocks, in order.
    pub fn bodies(&self) -> impl Iterator<Item = &Body> {
        self.layers.iter().flat_map(|layer| &layer.blocks).map(|block| &block.body)
    }
}

impl Model {
    /// Reads and checks a description.
    pub fn from_json(text: &str) -> Result<Model> {
        let model: Model = serde_json::from_str(text)
            .map_err(|e| Error::Spec(format!("the description cannot be read: {e}")))?;
        model.validate()?;
        Ok(model)
    }

    /// Writes it back.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a description is plain data")
    }

    /// The stack that reads text: the encoder, if any.
    pub fn reader(&self) -> &Stack {
        self.encoder.as_ref().or(self.decoder.as_ref()).expect("validated: there is a stack")
    }

    /// The stack whose states are the model's: the decoder, if any.
    pub fn last_stack(&self) -> &Stack {
        self.decoder.as_ref().or(self.encoder.as_ref()).expect("validated: there is a stack")
    }
}
