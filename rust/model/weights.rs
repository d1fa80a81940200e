//! A model's weights: what they are, and by which names and shapes a checkpoint gives them.
//!
//! One walk over the description names every tensor, its shape and its use. It is made twice: first to list
//! what is needed ([`needed`]), then, when everything has arrived, to take the packed tensors ([`Weights::take`]); so
//! the names stand in one place.

use super::spec;
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
pub(super) enum Loaded {
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

pub struct AttentionWeights {
    pub input_norm: Option<Norm>,
    pub output_norm: Option<Norm>,
    pub residual_norm: Option<Norm>,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    pub query_norm: Option<Norm>,
    pub key_norm: Option<Norm>,
    /// `[buckets, heads]`
    pub relative_bias: Option<Vec<f32>>,
    pub position_query: Option<Linear>,
    pub position_key: Option<Linear>,
}

pub struct FeedForwardWeights {
    pub input_norm: Option<Norm>,
    pub output_norm: Option<Norm>,
    pub residual_norm: Option<Norm>,
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
}

pub struct ConvolutionWeights {
    /// `[hidden, hidden / groups * kernel]`
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub norm: Norm,
}

pub struct LayerWeights {
    pub attention: AttentionWeights,
    pub cross_attention: Option<AttentionWeights>,
    pub feed_forward: FeedForwardWeights,
    pub convolution: Option<ConvolutionWeights>,
}

pub struct StackWeights {
    pub token: Arc<Matrix>,
    pub position: Vec<f32>,
    pub segment: Vec<f32>,
    pub embedding_norm: Option<Norm>,
    pub projection: Option<Linear>,
    pub relative: Vec<f32>,
    pub layers: Vec<LayerWeights>,
    pub norm: Option<Norm>,
    pub output: Option<Linear>,
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
    pub encoder: Option<StackWeights>,
    pub decoder: Option<StackWeights>,
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
struct Walk<'a> {
    needed: Vec<Needed>,
    loaded: Option<&'a HashMap<String, Loaded>>,
}

impl Walk<'_> {
    fn matrix(&mut self, name: String, outputs: usize, inputs: usize, purpose: Use) -> Arc<Matrix> {
        match self.loaded.and_then(|l| l.get(&name)) {
            Some(Loaded::Matrix(matrix)) => Arc::clone(matrix),
            _ => {
                self.needed.push(Needed { name, shape: vec![outputs, inputs], purpose });
                Arc::new(Matrix::empty())
            }
        }
    }

    fn values(&mut self, name: String, shape: Vec<usize>) -> Vec<f32> {
        match self.loaded.and_then(|l| l.get(&name)) {
            Some(Loaded::Values(values)) => values.to_vec(),
            _ => {
                self.needed.push(Needed { name, shape, purpose: Use::Values });
                Vec::new()
            }
        }
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Linear {
        let weight = self.matrix(format!("{name}.weight"), outputs, inputs, Use::Linear);
        let bias = bias.then(|| self.values(format!("{name}.bias"), vec![outputs]));
        Linear { weight, bias }
    }

    fn norm(&mut self, name: &str, norm: Option<&spec::Norm>, shape: &[usize]) -> Option<Norm> {
        let norm = norm?;
        let mut tensor = |wanted: bool, part: &str| match wanted {
            true => self.values(format!("{name}.{part}"), shape.to_vec()),
            false => Vec::new(),
        };
        let (weight, bias) = (tensor(norm.weight, "weight"), tensor(norm.bias, "bias"));
        Some(Norm { kind: norm.kind, eps: norm.eps as f32, weight, bias })
    }

    fn attention(
        &mut self,
        name: &str,
        a: &spec::Attention,
        width: usize,
        source: usize,
    ) -> AttentionWeights {
        let (q, kv) = (a.query_size(), a.kv_size());
        let head_shape = |heads: usize| match a.norm_over {
            spec::NormOver::Head => vec![a.head_dim],
            spec::NormOver::Heads => vec![heads, a.head_dim],
            spec::NormOver::All => vec![heads * a.head_dim],
        };
        let own = a.disentangled.as_ref().filter(|d| !d.share_key);
        AttentionWeights {
            input_norm: self.norm(&format!("{name}.input_norm"), a.input_norm.as_ref(), &[width]),
            output_norm: self.norm(&format!("{name}.output_norm"), a.output_norm.as_ref(), &[width]),
            residual_norm: self.norm(&format!("{name}.residual_norm"), a.residual_norm.as_ref(), &[width]),
            query: self.linear(&format!("{name}.query"), q, width, a.query_bias),
            key: self.linear(&format!("{name}.key"), kv, source, a.key_bias),
            value: self.linear(&format!("{name}.value"), kv, source, a.value_bias),
            output: self.linear(&format!("{name}.output"), width, q, a.output_bias),
            query_norm: self.norm(&format!("{name}.query_norm"), a.query_norm.as_ref(), &head_shape(a.heads)),
            key_norm: self.norm(&format!("{name}.key_norm"), a.key_norm.as_ref(), &head_shape(a.kv_heads)),
            relative_bias: a
                .relative_bias
                .as_ref()
                .map(|r| self.values(format!("{name}.relative_bias.weight"), vec![r.buckets, a.heads])),
            position_query: own
                .filter(|d| d.position_to_content)
                .map(|_| self.linear(&format!("{name}.position_query"), q, width, a.query_bias)),
            position_key: own
                .filter(|d| d.content_to_position)
                .map(|_| self.linear(&format!("{name}.position_key"), kv, width, a.key_bias)),
        }
    }

    fn layer(&mut self, name: &str, layer: &spec::Layer, width: usize, source: usize) -> LayerWeights {
        let f = &layer.feed_forward;
        let attention = self.attention(&format!("{name}.attention"), &layer.attention, width, width);
        let cross_attention = layer
            .cross_attention
            .as_ref()
            .map(|a| self.attention(&format!("{name}.cross_attention"), a, width, source));
        let name_f = format!("{name}.feed_forward");
        let feed_forward = FeedForwardWeights {
            input_norm: self.norm(&format!("{name_f}.input_norm"), f.input_norm.as_ref(), &[width]),
            output_norm: self.norm(&format!("{name_f}.output_norm"), f.output_norm.as_ref(), &[width]),
            residual_norm: self.norm(&format!("{name_f}.residual_norm"), f.residual_norm.as_ref(), &[width]),
            gate: f.gated.then(|| self.linear(&format!("{name_f}.gate"), f.width, width, f.gate_bias)),
            up: self.linear(&format!("{name_f}.up"), f.width, width, f.up_bias),
            down: self.linear(&format!("{name_f}.down"), width, f.width, f.down_bias),
        };
        let convolution = layer.convolution.as_ref().map(|c| {
            let name = format!("{name}.convolution");
            ConvolutionWeights {
                weight: self.values(format!("{name}.weight"), vec![width, width / c.groups * c.kernel]),
                bias: self.values(format!("{name}.bias"), vec![width]),
                norm: self.norm(&format!("{name}.norm"), Some(&c.norm), &[width]).expect("given"),
            }
        });
        LayerWeights { attention, cross_attention, feed_forward, convolution }
    }

    fn stack(&mut self, name: &str, s: &spec::Stack, source: usize) -> StackWeights {
        let (token_width, width) = (s.embedding_width(), s.hidden_size);
        let projected = s.embedding_size.is_some();
        let table_width = if s.project_before_positions { width } else { token_width };
        let mut table = |part: &str, rows: usize| match rows {
            0 => Vec::new(),
            _ => self.values(format!("{name}.embedding.{part}.weight"), vec![rows, table_width]),
        };
        let (position, segment) = (table("position", s.positions), table("segment", s.segments));
        let relative = match s.relative_rows {
            0 => Vec::new(),
            rows => self.values(format!("{name}.relative.weight"), vec![rows, width]),
        };
        let relative_norm = self.norm(&format!("{name}.relative.norm"), s.relative_norm.as_ref(), &[width]);
        StackWeights {
            token: self.matrix(
                format!("{name}.embedding.token.weight"),
                s.vocab_size,
                token_width,
                Use::Vocabulary,
            ),
            position,
            segment,
            embedding_norm: self.norm(
                &format!("{name}.embedding.norm"),
                s.embedding_norm.as_ref(),
                &[table_width],
            ),
            projection: projected.then(|| {
                let bias = s.embedding_projection_bias;
                self.linear(&format!("{name}.embedding.projection"), width, token_width, bias)
            }),
            relative: normed(relative, relative_norm, width),
            layers: s
                .layers
                .iter()
                .enumerate()
                .map(|(i, layer)| self.layer(&format!("{name}.layers.{i}"), layer, width, source))
                .collect(),
            norm: self.norm(&format!("{name}.norm"), s.final_norm.as_ref(), &[width]),
            output: s.output_size.map(|o| self.linear(&format!("{name}.output"), o, width, false)),
        }
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
        let encoder = m.encoder.as_ref().map(|s| self.stack("encoder", s, 0));
        let decoder = m.decoder.as_ref().map(|s| self.stack("decoder", s, source));
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

/// DeBERTa's table of relative positions, normalized once.
fn normed(mut table: Vec<f32>, norm: Option<Norm>, width: usize) -> Vec<f32> {
    if let Some(norm) = norm.filter(|_| !table.is_empty()) {
        crate::threads::Pool::new(1).run_alone(|team| norm.normalize_in_place(team, &mut table, width));
    }
    table
}
