//! Self-attention: queries, keys and values, their norms and rotations, the cached keys and values, and the
//! output layer. Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>

use super::operator::{Capture, Captured, Operator, Widths};
use super::pass::{Part, Pass};
use super::positions::{Alibi, BiasBy, BiasRule, Positions, RelativeBias, Rotary};
use super::stream::Stream;
use crate::error::Result;
use crate::model::bounds::{Site, finite, norms, positive, refuse, size};
use crate::model::describe::{Norm as NormSpec, mirror};
use crate::model::state::{State, StateKind};
use crate::model::walk::{Linear, Walk};
use crate::ops;
use crate::ops::attention::{Scores, probabilities};
use crate::ops::kv::{KvBlocks, KvShape, Sequences};
use crate::ops::norm::Norm;
use crate::ops::rotary::rotate;
use crate::tensor::{Buffer, sized};
use crate::threads::Team;
use serde::{Deserialize, Serialize};

mirror!(/// Queries that grow with the logarithm of their position.
QueryScale { beta: f64, original_length: usize });

/// The unit over which queries and keys are normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormOver {
    #[default]
    Head,
    Heads,
    All,
}

mirror!(/// Attention of a sequence to itself.
AttentionSpec {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    #[serde(default)] causal: bool,
    #[serde(default)] window: Option<usize>,
    #[serde(default)] softcap: Option<f64>,
    #[serde(default)] query_bias: bool,
    #[serde(default)] key_bias: bool,
    #[serde(default)] value_bias: bool,
    #[serde(default)] output_bias: bool,
    #[serde(default)] query_norm: Option<NormSpec>,
    #[serde(default)] key_norm: Option<NormSpec>,
    #[serde(default)] norm_over: NormOver,
    #[serde(default)] norm_after_rotary: bool,
    #[serde(default)] clip: Option<f64>,
    #[serde(default)] rotary: Option<Rotary>,
    #[serde(default)] query_scale: Option<QueryScale>,
    #[serde(default)] relative_bias: Option<RelativeBias>,
    #[serde(default)] alibi: Option<Alibi>,
});

impl NormOver {
    /// Shape of the weights of a norm over `heads` heads.
    pub(super) fn shape(self, heads: usize, head_dim: usize) -> Vec<usize> {
        match self {
            NormOver::Head => vec![head_dim],
            NormOver::Heads => vec![heads, head_dim],
            NormOver::All => vec![heads * head_dim],
        }
    }

    /// Normalizes `x: [rows, heads * head_dim]`.
    pub(super) fn apply(
        self,
        team: &Team<'_>,
        norm: Option<&Norm>,
        x: &mut [f32],
        [heads, head_dim]: [usize; 2],
    ) {
        if let Some(norm) = norm {
            let row = if self == NormOver::All { heads * head_dim } else { head_dim };
            norm.normalize_in_place(team, x, row);
        }
    }
}

/// Checks the sizes of heads.
pub(super) fn check_heads(place: &str, heads: usize, kv_heads: usize, head_dim: usize) -> Result<()> {
    size(place, "heads", heads)?;
    size(place, "kv_heads", kv_heads)?;
    size(place, "head_dim", head_dim)?;
    size(place, "heads * head_dim", heads * head_dim)?;
    if !heads.is_multiple_of(kv_heads) {
        return refuse(place, "heads", heads, &format!("a multiple of kv_heads, {kv_heads}"));
    }
    Ok(())
}

/// Reused memory of attention to cached keys and values.
#[derive(Default)]
pub(super) struct Attended {
    scratch: ops::attention::Scratch,
    context: Buffer<f32>,
}

impl Attended {
    /// The mean of the cached values of each query's sequence, weighted by `scores`:
    /// `[rows, heads * value_dim]`; the capture gets the weights.
    pub fn attend(
        &mut self,
        team: &Team<'_>,
        q: &[f32],
        kv: &KvBlocks,
        sequences: Sequences<'_>,
        scores: &Scores<'_>,
        capture: Capture<'_>,
    ) -> &[f32] {
        if let Some(capture) = capture {
            capture.extend(probabilities(q, sequences, kv, scores));
        }
        let context = sized(&mut self.context, q.len() / scores.key_dim * scores.value_dim);
        ops::attention::attention(team, &mut self.scratch, q, sequences, kv, scores, context);
        context
    }
}

/// Loaded self-attention.
pub struct Attention {
    spec: AttentionSpec,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    bias: Option<BiasRule>,
}

/// Reused memory of passes.
#[derive(Default)]
pub struct Scratch {
    attended: Attended,
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
    positions: Positions,
}

impl Operator for Attention {
    type Spec = AttentionSpec;
    type Scratch = Scratch;
    const NAME: &'static str = "attention";
    const SPLITS: bool = true;
    const CAPTURED: Option<Captured> = Some(Captured::SelfAttention);

    fn validate(a: &AttentionSpec, place: &str, site: &Site) -> Result<()> {
        check_heads(place, a.heads, a.kv_heads, a.head_dim)?;
        finite(place, "scale", a.scale)?;
        if a.window == Some(0) {
            return refuse(place, "window", 0, "at least 1");
        }
        if site.decoder && !a.causal {
            return refuse(place, "causal", false, "true in a decoder");
        }
        for (field, value) in [("softcap", a.softcap), ("clip", a.clip)] {
            if let Some(value) = value {
                positive(place, field, value)?;
            }
        }
        norms(place, &[("query_norm", &a.query_norm), ("key_norm", &a.key_norm)])?;
        if let Some(rotary) = &a.rotary {
            rotary.validate(&format!("{place}.rotary"), a.head_dim)?;
        }
        if let Some(q) = &a.query_scale {
            finite(place, "query_scale.beta", q.beta)?;
            size(place, "query_scale.original_length", q.original_length)?;
        }
        if let Some(relative) = &a.relative_bias {
            relative.validate(place)?;
        }
        if let Some(alibi) = &a.alibi {
            if alibi.slopes.len() != a.heads {
                return refuse(place, "alibi.slopes", alibi.slopes.len(), &format!("{} slopes", a.heads));
            }
            alibi.slopes.iter().try_for_each(|&slope| finite(place, "alibi.slopes", slope))?;
            if a.relative_bias.is_some() {
                return refuse(place, "alibi", "given", "not together with relative_bias");
            }
        }
        Ok(())
    }

    fn load(a: &AttentionSpec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> Attention {
        let (width, q, kv) = (widths.hidden, a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let shape = |heads| a.norm_over.shape(heads, a.head_dim);
        Attention {
            query: walk.linear(&format!("{name}.query"), q, width, a.query_bias),
            key: walk.linear(&format!("{name}.key"), kv, width, a.key_bias),
            value: walk.linear(&format!("{name}.value"), kv, width, a.value_bias),
            output: walk.linear(&format!("{name}.output"), width, q, a.output_bias),
            query_norm: walk.norm(&format!("{name}.query_norm"), a.query_norm.as_ref(), &shape(a.heads)),
            key_norm: walk.norm(&format!("{name}.key_norm"), a.key_norm.as_ref(), &shape(a.kv_heads)),
            bias: bias_rule(a, walk, name),
            spec: a.clone(),
        }
    }

    fn state(a: &AttentionSpec, _hidden: usize) -> StateKind {
        StateKind::Blocks { shape: KvShape::equal(a.kv_heads, a.head_dim), window: a.window }
    }

    fn rotary(a: &AttentionSpec) -> Option<&Rotary> {
        a.rotary.as_ref()
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        state: State<'_>,
        scratch: &mut Scratch,
        capture: Capture<'_>,
    ) {
        let (kv, tables) = state.blocks();
        let sequences = Sequences { list: &pass.view.own, tables };
        self.project_inputs(pass, stream, scratch);
        if pass.part != Part::Output {
            kv.store_all(pass.team, sequences, &scratch.k, &scratch.v);
        }
        if pass.part != Part::Store {
            self.attend_project(pass, stream, scratch, (kv, sequences), capture);
        }
    }
}

impl Attention {
    /// Queries, keys and values of the computed part, normalized and rotated.
    fn project_inputs(&self, pass: &Pass<'_>, stream: &mut Stream<'_>, scratch: &mut Scratch) {
        let (a, rows, team) = (&self.spec, pass.rows, pass.team);
        let (q_heads, k_heads) = ([a.heads, a.head_dim], [a.kv_heads, a.head_dim]);
        let qn = if pass.part == Part::Store { 0 } else { rows * a.heads * a.head_dim };
        let kn = if pass.part == Part::Output { 0 } else { rows * a.kv_heads * a.head_dim };
        let Scratch { q, k, v, positions, .. } = scratch;
        let (q, k, v) = (sized(q, qn), sized(k, kn), sized(v, kn));
        let targets = [self.key.target(k), self.value.target(v), self.query.target(q)];
        let computed = match pass.part {
            Part::All => &targets[..],
            Part::Store => &targets[..2],
            Part::Output => &targets[2..],
        };
        stream.products(pass, computed);
        if let Some(clip) = a.clip {
            let clip = clip as f32;
            for x in [&mut *q, &mut *k, &mut *v] {
                x.iter_mut().for_each(|v| *v = v.clamp(-clip, clip));
            }
        }
        let normalize = |q: &mut [f32], k: &mut [f32]| {
            a.norm_over.apply(team, self.query_norm.as_ref(), q, q_heads);
            a.norm_over.apply(team, self.key_norm.as_ref(), k, k_heads);
        };
        if !a.norm_after_rotary {
            normalize(q, k);
        }
        if let Some(rotary) = &a.rotary {
            let angles = positions.angles(rotary, &pass.view.spans, pass.stamp);
            rotate(team, q, a.heads, a.head_dim, angles);
            rotate(team, k, a.kv_heads, a.head_dim, angles);
        }
        if a.norm_after_rotary {
            normalize(q, k);
        }
    }

    /// Attends to the cached keys and values of each query's sequence; the output layer adds the result to
    /// the stream.
    fn attend_project(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        scratch: &mut Scratch,
        (kv, sequences): (&KvBlocks, Sequences<'_>),
        capture: Capture<'_>,
    ) {
        let a = &self.spec;
        let Scratch { attended, q, positions, .. } = scratch;
        let q = &mut q[..pass.rows * a.heads * a.head_dim];
        if let Some(scale) = &a.query_scale {
            scale_queries(scale, pass, q, a.heads * a.head_dim);
        }
        let scores = Scores {
            heads: a.heads,
            kv_heads: a.kv_heads,
            key_dim: a.head_dim,
            value_dim: a.head_dim,
            scale: a.scale as f32,
            causal: a.causal,
            window: a.window,
            softcap: a.softcap.map(|c| c as f32),
            distance_bias: self.bias.as_ref().map(|rule| positions.bias(rule, &pass.view.spans)),
        };
        let context = attended.attend(pass.team, q, kv, sequences, &scores, capture);
        stream.project(pass, &self.output, context);
    }
}

/// The bias by distance, with its table.
fn bias_rule(a: &AttentionSpec, walk: &mut Walk<'_>, name: &str) -> Option<BiasRule> {
    let by = match (&a.alibi, &a.relative_bias) {
        (Some(alibi), _) => BiasBy::Alibi(alibi.clone()),
        (None, Some(relative)) => {
            let shape = vec![relative.buckets, a.heads];
            BiasBy::Buckets(relative.clone(), walk.values(format!("{name}.relative_bias.weight"), shape))
        }
        (None, None) => return None,
    };
    Some(BiasRule { heads: a.heads, scale: a.scale, by })
}

/// Multiplies queries by `1 + beta * log(1 + floor(position / original_length))`.
fn scale_queries(scale: &QueryScale, pass: &Pass<'_>, q: &mut [f32], width: usize) {
    for span in &pass.view.spans {
        for row in span.rows.clone() {
            let position = span.first + row - span.rows.start;
            let blocks = (position / scale.original_length) as f64;
            let factor = (1.0 + scale.beta * crate::simd::log(1.0 + blocks)) as f32;
            q[row * width..][..width].iter_mut().for_each(|q| *q *= factor);
        }
    }
}
