//! Cross-attention: queries of the decoder attend to the keys and values of a source, which are stored once.

use super::attention::{Attended, NormOver, check_heads};
use super::operator::{Capture, Captured, Operator, Widths};
use super::pass::Pass;
use super::stream::Stream;
use crate::error::Result;
use crate::matmul::{self, linear};
use crate::model::bounds::{Site, finite, norms, positive, refuse};
use crate::model::describe::{Norm as NormSpec, mirror};
use crate::model::state::{State, StateKind};
use crate::model::walk::{Linear, Walk};
use crate::ops::attention::Scores;
use crate::ops::kv::{KvBlocks, KvShape, Sequences};
use crate::ops::norm::Norm;
use crate::tensor::{Buffer, sized};
use crate::threads::Team;

mirror!(/// Attention to the states of an encoder.
CrossAttentionSpec {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    #[serde(default)] softcap: Option<f64>,
    #[serde(default)] query_bias: bool,
    #[serde(default)] key_bias: bool,
    #[serde(default)] value_bias: bool,
    #[serde(default)] output_bias: bool,
    #[serde(default)] query_norm: Option<NormSpec>,
    #[serde(default)] key_norm: Option<NormSpec>,
    #[serde(default)] norm_over: NormOver,
});

/// Loaded cross-attention.
pub struct CrossAttention {
    spec: CrossAttentionSpec,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
}

/// Reused memory of passes.
#[derive(Default)]
pub struct Scratch {
    attended: Attended,
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
}

impl Operator for CrossAttention {
    type Spec = CrossAttentionSpec;
    type Scratch = Scratch;
    const NAME: &'static str = "cross_attention";
    const ROW_WISE: bool = true;
    const CAPTURED: Option<Captured> = Some(Captured::CrossAttention);

    fn validate(a: &CrossAttentionSpec, place: &str, site: &Site) -> Result<()> {
        check_heads(place, a.heads, a.kv_heads, a.head_dim)?;
        finite(place, "scale", a.scale)?;
        if let Some(cap) = a.softcap {
            positive(place, "softcap", cap)?;
        }
        norms(place, &[("query_norm", &a.query_norm), ("key_norm", &a.key_norm)])?;
        if !site.source {
            return refuse(place, "kind", "cross_attention", "one only in a decoder beside an encoder");
        }
        Ok(())
    }

    fn load(a: &CrossAttentionSpec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> CrossAttention {
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let shape = |heads| a.norm_over.shape(heads, a.head_dim);
        CrossAttention {
            query: walk.linear(&format!("{name}.query"), q, widths.hidden, a.query_bias),
            key: walk.linear(&format!("{name}.key"), kv, widths.source, a.key_bias),
            value: walk.linear(&format!("{name}.value"), kv, widths.source, a.value_bias),
            output: walk.linear(&format!("{name}.output"), widths.hidden, q, a.output_bias),
            query_norm: walk.norm(&format!("{name}.query_norm"), a.query_norm.as_ref(), &shape(a.heads)),
            key_norm: walk.norm(&format!("{name}.key_norm"), a.key_norm.as_ref(), &shape(a.kv_heads)),
            spec: a.clone(),
        }
    }

    fn state(a: &CrossAttentionSpec, _hidden: usize) -> StateKind {
        StateKind::Sources(KvShape::equal(a.kv_heads, a.head_dim))
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        state: State<'_>,
        scratch: &mut Scratch,
        capture: Capture<'_>,
    ) {
        let a = &self.spec;
        let (kv, tables) = state.blocks();
        let sequences = Sequences { list: &pass.view.sources, tables };
        let Scratch { attended, q, .. } = scratch;
        let q = sized(q, pass.rows * a.heads * a.head_dim);
        stream.products(pass, &[self.query.target(q)]);
        a.norm_over.apply(pass.team, self.query_norm.as_ref(), q, [a.heads, a.head_dim]);
        let scores = Scores {
            heads: a.heads,
            kv_heads: a.kv_heads,
            key_dim: a.head_dim,
            value_dim: a.head_dim,
            scale: a.scale as f32,
            causal: false,
            window: None,
            softcap: a.softcap.map(|c| c as f32),
            distance_bias: None,
        };
        let context = attended.attend(pass.team, q, kv, sequences, &scores, capture);
        stream.project(pass, &self.output, context);
    }
}

impl CrossAttention {
    /// Stores keys and values of the states of concatenated sources, `[rows, width]`.
    pub fn store_source(
        &self,
        team: &Team<'_>,
        (product, scratch): (&mut matmul::Scratch, &mut Scratch),
        states: &[f32],
        sources: Sequences<'_>,
        kv: &mut KvBlocks,
    ) {
        let a = &self.spec;
        let rows = sources.list.last().map_or(0, |source| source.rows.end);
        let n = rows * a.kv_heads * a.head_dim;
        let (k, v) = (sized(&mut scratch.k, n), sized(&mut scratch.v, n));
        linear(team, product, states.into(), rows, &[self.key.target(k), self.value.target(v)]);
        a.norm_over.apply(team, self.key_norm.as_ref(), k, [a.kv_heads, a.head_dim]);
        kv.store_all(team, sources, k, v);
    }
}
