//! Attention: queries, keys and values, their norms and rotations, the cache, and the output layer.
//!
//! Self-attention stores its keys and values and attends to all of its sequence; cross-attention attends to those of a
//! source, stored once. DeBERTa's, which scores content and position apart, is in `disentangled`.

use super::{End, Part, Pass, Source, Watch, Workspace};
use crate::matmul::linear;
use crate::model::spec;
use crate::model::weights::AttentionWeights;
use crate::ops::attention::{self, Scores};
use crate::ops::kv::{KvBlocks, Sequences};
use crate::ops::norm::Norm;
use crate::ops::rotary::rotate;
use crate::tensor::sized;
use crate::threads::Team;

impl Workspace {
    /// Self-attention with its norms and residual, or the part of it that the pass is for.
    pub fn self_attention(
        &mut self,
        pass: &Pass<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        kv: &mut KvBlocks,
        watch: Watch<'_>,
    ) {
        let source = self.source(pass, w.input_norm.as_ref(), a.residual_after_norm);
        self.attend(pass, a, w, source, kv, Some(End::of_attention(a, w)), watch);
    }

    /// Cross-attention to sources whose keys and values are in `kv`.
    pub fn cross_attention(
        &mut self,
        pass: &Pass<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        kv: &KvBlocks,
        watch: Watch<'_>,
    ) {
        let source = self.source(pass, w.input_norm.as_ref(), a.residual_after_norm);
        let mut q = std::mem::take(&mut self.q);
        let qs = sized(&mut q, pass.rows * a.query_size());
        self.products(pass, source, &[w.query.target(qs)]);
        self.head_norm(pass.team, w.query_norm.as_ref(), a, qs, a.query_size());
        self.mix(pass, a, w, qs, pass.sources(), kv, Some(End::of_attention(a, w)), watch);
        self.q = q;
    }

    /// Keys and values of the sources' states, one after the other, for one layer's cross-attention.
    pub fn cross_keys(
        &mut self,
        team: &Team<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        states: &[f32],
        sources: Sequences<'_>,
        kv: &mut KvBlocks,
    ) {
        let rows = sources.list.last().map_or(0, |source| source.rows.end);
        let n = rows * a.kv_size();
        let (mut k, mut v) = (std::mem::take(&mut self.k), std::mem::take(&mut self.v));
        let (ks, vs) = (sized(&mut k, n), sized(&mut v, n));
        let targets = &[w.key.target(ks), w.value.target(vs)];
        linear(team, &mut self.product, states.into(), rows, targets);
        self.head_norm(team, w.key_norm.as_ref(), a, ks, a.kv_size());
        kv.store_all(team, sources, ks, vs);
        (self.k, self.v) = (k, v);
    }

    fn head_norm(
        &self,
        team: &Team<'_>,
        norm: Option<&Norm>,
        a: &spec::Attention,
        x: &mut [f32],
        width: usize,
    ) {
        if let Some(norm) = norm {
            let row = if a.norm_over == spec::NormOver::All { width } else { a.head_dim };
            norm.normalize_in_place(team, x, row);
        }
    }

    /// Queries, keys and values, stored and attended to.
    pub(super) fn attend(
        &mut self,
        pass: &Pass<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        source: Source<'_>,
        kv: &mut KvBlocks,
        end: Option<End<'_>>,
        watch: Watch<'_>,
    ) {
        let (rows, team) = (pass.rows, pass.team);
        let qn = if pass.part == Part::Keys { 0 } else { rows * a.query_size() };
        let kn = if pass.part == Part::Queries { 0 } else { rows * a.kv_size() };
        let (mut q, mut k, mut v) =
            (std::mem::take(&mut self.q), std::mem::take(&mut self.k), std::mem::take(&mut self.v));
        let (qs, ks, vs) = (sized(&mut q, qn), sized(&mut k, kn), sized(&mut v, kn));
        let targets = [w.key.target(ks), w.value.target(vs), w.query.target(qs)];
        let asked = match pass.part {
            Part::All => &targets[..],
            Part::Keys => &targets[..2],
            Part::Queries => &targets[2..],
        };
        self.products(pass, source, asked);
        if let Some(clip) = a.clip {
            let clip = clip as f32;
            for x in [&mut *qs, &mut *ks, &mut *vs] {
                x.iter_mut().for_each(|v| *v = v.clamp(-clip, clip));
            }
        }
        if !a.norm_after_rotary {
            self.head_norm(team, w.query_norm.as_ref(), a, qs, a.query_size());
            self.head_norm(team, w.key_norm.as_ref(), a, ks, a.kv_size());
        }
        if let Some(rotary) = &a.rotary {
            let angles = self.positions.angles(rotary, &pass.view.spans);
            rotate(team, qs, a.heads, a.head_dim, angles);
            rotate(team, ks, a.kv_heads, a.head_dim, angles);
        }
        if a.norm_after_rotary {
            self.head_norm(team, w.query_norm.as_ref(), a, qs, a.query_size());
            self.head_norm(team, w.key_norm.as_ref(), a, ks, a.kv_size());
        }
        if pass.part != Part::Queries {
            kv.store_all(team, pass.sequences(), ks, vs);
        }
        if pass.part != Part::Keys {
            self.look(pass, a, w, qs, kv, end, watch);
        }
        (self.q, self.k, self.v) = (q, k, v);
    }

    /// Queries attend to the keys and values of their sequences up to their own.
    fn look(
        &mut self,
        pass: &Pass<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        qs: &mut [f32],
        kv: &KvBlocks,
        end: Option<End<'_>>,
        watch: Watch<'_>,
    ) {
        if let Some(scale) = &a.query_scale {
            for span in &pass.view.spans {
                for row in span.rows.clone() {
                    let position = span.first + row - span.rows.start;
                    let blocks = (position / scale.original_length) as f64;
                    let factor = (1.0 + scale.beta * crate::simd::log(1.0 + blocks)) as f32;
                    qs[row * a.query_size()..][..a.query_size()].iter_mut().for_each(|q| *q *= factor);
                }
            }
        }
        self.positions.make_bias(a, w.relative_bias.as_deref(), &pass.view.spans);
        self.mix(pass, a, w, qs, pass.sequences(), kv, end, watch);
    }

    /// Attention proper and the output layer.
    fn mix(
        &mut self,
        pass: &Pass<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        q: &[f32],
        sequences: Sequences<'_>,
        kv: &KvBlocks,
        end: Option<End<'_>>,
        watch: Watch<'_>,
    ) {
        let scores = Scores {
            heads: a.heads,
            kv_heads: a.kv_heads,
            key_dim: a.head_dim,
            value_dim: a.head_dim,
            scale: a.scale as f32,
            causal: a.causal,
            window: a.window,
            softcap: a.softcap.map(|c| c as f32),
            distance_bias: self.positions.bias(a),
        };
        if let Some(watch) = watch {
            watch.extend(attention::probabilities(q, sequences, kv, &scores));
        }
        let n = pass.rows * a.query_size();
        let mut buffer = std::mem::take(&mut self.context);
        let context = sized(&mut buffer, n);
        attention::attention(pass.team, &mut self.attention, q, sequences, kv, &scores, context);
        self.project(pass, &w.output, context, end);
        self.context = buffer;
    }
}
