//! Attention: queries, keys and values, their norms and rotations, the cache, and the output layer.
//!
//! Self-attention stores its keys and values and attends to all of its sequence; cross-attention attends to those of a
//! source, stored once. DeBERTa's, which scores content and position apart, is in `disentangled`.

use super::{End, Part, Pass, Source, Span, Watch, Workspace};
use crate::matmul::linear;
use crate::model::cache::Tables;
use crate::model::spec;
use crate::model::weights::AttentionWeights;
use crate::ops::attention::{self, Scores, Sequence};
use crate::ops::kv::{KvBlocks, New};
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
        tables: Tables<'_>,
        watch: Watch<'_>,
    ) {
        let source = self.source(pass, w.input_norm.as_ref(), a.residual_after_norm);
        self.attend(pass, a, w, source, kv, tables, Some(End::of_attention(a, w)), watch);
    }

    /// Cross-attention to sources whose keys and values are in `kv`.
    pub fn cross_attention(
        &mut self,
        pass: &Pass<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        kv: &KvBlocks,
        tables: Tables<'_>,
        watch: Watch<'_>,
    ) {
        let source = self.source(pass, w.input_norm.as_ref(), a.residual_after_norm);
        let mut q = std::mem::take(&mut self.q);
        let qs = sized(&mut q, pass.rows * a.query_size());
        self.products(pass, source, &mut [w.query.target(qs)]);
        self.head_norm(pass.team, w.query_norm.as_ref(), a, qs, a.query_size());
        // Where positions do not matter, successive rows of one source (its beams) are one sequence of queries: they
        // read its keys and values once.
        let positions = a.causal || a.window.is_some() || self.positions.bias(a).is_some() || watch.is_some();
        let together = |one: &Span, next: &Span| {
            !positions && one.source == next.source && one.rows.end == next.rows.start
        };
        let sequence = |spans: &[Span]| Sequence {
            table: tables.table(spans[0].source),
            rows: spans[0].rows.start..spans[spans.len() - 1].rows.end,
            first: spans[0].first,
            length: spans[0].source_length,
        };
        let sequences: Vec<Sequence<'_>> = pass.spans.chunk_by(together).map(sequence).collect();
        self.mix(pass, a, w, qs, &sequences, kv, Some(End::of_attention(a, w)), watch);
        self.q = q;
    }

    /// Keys and values of the sources' states, one after the other, for one layer's cross-attention; `starts` are the
    /// borders between them.
    pub fn cross_keys<'t>(
        &mut self,
        team: &Team<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        states: &[f32],
        starts: &[usize],
        kv: &mut KvBlocks,
        table_of: &dyn Fn(usize) -> &'t [u32],
    ) {
        let rows = starts[starts.len() - 1];
        let n = rows * a.kv_size();
        let (mut k, mut v) = (std::mem::take(&mut self.k), std::mem::take(&mut self.v));
        let (ks, vs) = (sized(&mut k, n), sized(&mut v, n));
        let targets = &mut [w.key.target(ks), w.value.target(vs)];
        linear(team, &mut self.product, states.into(), rows, targets);
        self.head_norm(team, w.key_norm.as_ref(), a, ks, a.kv_size());
        let new = |(i, border): (usize, &[usize])| {
            let part = border[0] * a.kv_size()..border[1] * a.kv_size();
            New { table: table_of(i), position: 0, keys: &ks[part.clone()], values: &vs[part] }
        };
        kv.store_all(team, &starts.windows(2).enumerate().map(new).collect::<Vec<_>>());
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
        tables: Tables<'_>,
        end: Option<End<'_>>,
        watch: Watch<'_>,
    ) {
        let (rows, team) = (pass.rows, pass.team);
        let qn = if pass.part == Part::Keys { 0 } else { rows * a.query_size() };
        let kn = if pass.part == Part::Queries { 0 } else { rows * a.kv_size() };
        let (mut q, mut k, mut v) =
            (std::mem::take(&mut self.q), std::mem::take(&mut self.k), std::mem::take(&mut self.v));
        let (qs, ks, vs) = (sized(&mut q, qn), sized(&mut k, kn), sized(&mut v, kn));
        let mut targets = [w.key.target(ks), w.value.target(vs), w.query.target(qs)];
        let asked = match pass.part {
            Part::All => &mut targets[..],
            Part::Keys => &mut targets[..2],
            Part::Queries => &mut targets[2..],
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
            self.positions.make_angles(rotary, pass.spans);
            rotate(team, qs, a.heads, a.head_dim, &self.positions.angles);
            rotate(team, ks, a.kv_heads, a.head_dim, &self.positions.angles);
        }
        if a.norm_after_rotary {
            self.head_norm(team, w.query_norm.as_ref(), a, qs, a.query_size());
            self.head_norm(team, w.key_norm.as_ref(), a, ks, a.kv_size());
        }
        if pass.part != Part::Queries {
            let new = |span: &'_ Span| {
                let part = span.rows.start * a.kv_size()..span.rows.end * a.kv_size();
                let table = tables.table(span.sequence);
                New { table, position: span.first, keys: &ks[part.clone()], values: &vs[part] }
            };
            kv.store_all(team, &pass.spans.iter().map(new).collect::<Vec<_>>());
        }
        if pass.part != Part::Keys {
            self.look(pass, a, w, qs, kv, tables, end, watch);
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
        tables: Tables<'_>,
        end: Option<End<'_>>,
        watch: Watch<'_>,
    ) {
        if let Some(scale) = &a.query_scale {
            for span in pass.spans {
                for row in span.rows.clone() {
                    let position = span.first + row - span.rows.start;
                    let blocks = (position / scale.original_length) as f64;
                    let factor = (1.0 + scale.beta * crate::simd::log(1.0 + blocks)) as f32;
                    qs[row * a.query_size()..][..a.query_size()].iter_mut().for_each(|q| *q *= factor);
                }
            }
        }
        self.positions.make_bias(a, w.relative_bias.as_deref(), pass.spans);
        let sequences: Vec<Sequence<'_>> = pass
            .spans
            .iter()
            .map(|s| Sequence {
                table: tables.table(s.sequence),
                rows: s.rows.clone(),
                first: s.first,
                length: s.first + s.rows.len(),
            })
            .collect();
        self.mix(pass, a, w, qs, &sequences, kv, end, watch);
    }

    /// Attention proper and the output layer.
    fn mix(
        &mut self,
        pass: &Pass<'_>,
        a: &spec::Attention,
        w: &AttentionWeights,
        q: &[f32],
        sequences: &[Sequence<'_>],
        kv: &KvBlocks,
        end: Option<End<'_>>,
        watch: Watch<'_>,
    ) {
        let scores = Scores {
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            scale: a.scale as f32,
            causal: a.causal,
            window: a.window,
            softcap: a.softcap.map(|c| c as f32),
            distance_bias: self.positions.bias(a),
        };
        if let Some(watch) = watch {
            for sequence in sequences {
                watch.extend(attention::probabilities(q, sequence, kv, &scores));
            }
        }
        let n = pass.rows * a.query_size();
        let mut buffer = std::mem::take(&mut self.context);
        let context = sized(&mut buffer, n);
        attention::attention(pass.team, &mut self.attention, q, sequences, kv, &scores, context);
        self.project(pass, &w.output, context, end);
        self.context = buffer;
    }
}
