//! The description of a model, as Python sends it: a mirror of `python/lapwing/spec.py`, where the meaning of
//! every field is told. A test sends every description there and back.

use crate::error::{Error, Result};
use crate::ops::norm::NormKind;
use crate::simd::Activation;
use serde::{Deserialize, Serialize};

macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident { $($field:ident : $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $(pub $field: $type),* }
    };
}

mirror!(/// Normalization over the last dimension.
Norm { kind: NormKind, eps: f64, weight: bool, bias: bool });

mirror!(LongRotary { after: usize, inv_freq: Vec<f64>, scale: f64 });

mirror!(DynamicRotary { base: f64, factor: f64, original_length: usize });

mirror!(Rotary {
    inv_freq: Vec<f64>,
    scale: f64,
    interleaved: bool,
    long: Option<LongRotary>,
    dynamic: Option<DynamicRotary>,
});

mirror!(RelativeBias { buckets: usize, max_distance: usize, bidirectional: bool });

mirror!(Alibi { slopes: Vec<f64>, rounded: bool });

mirror!(Disentangled {
    span: usize,
    buckets: usize,
    max_distance: usize,
    content_to_position: bool,
    position_to_content: bool,
    share_key: bool,
});

mirror!(QueryScale { beta: f64, original_length: usize });

/// What the norms over queries and keys act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormOver {
    Head,
    Heads,
    All,
}

mirror!(Attention {
    input_norm: Option<Norm>,
    output_norm: Option<Norm>,
    residual_norm: Option<Norm>,
    residual_scale: f64,
    residual_after_norm: bool,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    causal: bool,
    window: Option<usize>,
    softcap: Option<f64>,
    query_bias: bool,
    key_bias: bool,
    value_bias: bool,
    output_bias: bool,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    norm_over: NormOver,
    norm_after_rotary: bool,
    clip: Option<f64>,
    rotary: Option<Rotary>,
    query_scale: Option<QueryScale>,
    relative_bias: Option<RelativeBias>,
    alibi: Option<Alibi>,
    disentangled: Option<Disentangled>,
});

mirror!(FeedForward {
    input_norm: Option<Norm>,
    output_norm: Option<Norm>,
    residual_norm: Option<Norm>,
    residual_scale: f64,
    residual_after_norm: bool,
    width: usize,
    activation: Activation,
    gated: bool,
    gate_bias: bool,
    up_bias: bool,
    down_bias: bool,
});

mirror!(Convolution { kernel: usize, groups: usize, activation: Activation, norm: Norm });

mirror!(Layer {
    attention: Attention,
    feed_forward: FeedForward,
    cross_attention: Option<Attention>,
    parallel: bool,
    convolution: Option<Convolution>,
});

mirror!(TokenDropout { mask: usize, kept: f64 });

mirror!(Stack {
    vocab_size: usize,
    hidden_size: usize,
    layers: Vec<Layer>,
    max_length: usize,
    embedding_size: Option<usize>,
    embedding_scale: f64,
    embedding_projection_bias: bool,
    project_before_positions: bool,
    positions: usize,
    segments: usize,
    embedding_norm: Option<Norm>,
    norm_before_positions: bool,
    unplaced: Option<usize>,
    relative_rows: usize,
    relative_norm: Option<Norm>,
    final_norm: Option<Norm>,
    output_size: Option<usize>,
    token_dropout: Option<TokenDropout>,
});

mirror!(Dense { outputs: usize, bias: bool, activation: Activation, norm: Option<Norm> });

/// How a head gets from tokens to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadPool {
    None,
    First,
    Mean,
    Last,
    MeanOutput,
}

mirror!(Head { pool: HeadPool, layers: Vec<Dense> });

mirror!(LanguageHead {
    vocab_size: usize,
    bias: bool,
    scale: f64,
    softcap: Option<f64>,
    transform: Vec<Dense>,
});

mirror!(
    /// A whole model.
    Model {
        encoder: Option<Stack>,
        decoder: Option<Stack>,
        language_head: Option<LanguageHead>,
        pooler: Option<Head>,
        head: Option<Head>,
    }
);
impl Attention {
    /// Width of all query heads.
    pub fn query_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key heads.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl Stack {
    /// Width of the token table.
    pub fn embedding_width(&self) -> usize {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    /// Width of the final states.
    pub fn output_width(&self) -> usize {
        self.output_size.unwrap_or(self.hidden_size)
    }

    /// Tokens that a sequence may have.
    pub fn longest(&self) -> usize {
        if self.positions > 0 { self.positions.min(self.max_length) } else { self.max_length }
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

    /// The stack whose states are the model's: the decoder where there is one.
    pub fn last_stack(&self) -> &Stack {
        self.decoder.as_ref().or(self.encoder.as_ref()).expect("validated: there is a stack")
    }
}
