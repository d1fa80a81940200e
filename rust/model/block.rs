//! The blocks of a layer: attention and feed-forward, each with its norms and its residual,
//! `x = residual_norm(x + residual_scale * output_norm(block(input_norm(x))))`.

use super::cache::{Cache, Tables};
use super::spec;
use super::weights::{AttentionWeights, FeedForwardWeights, Linear};
use crate::matmul::{self, Input, Target, linear};
use crate::ops::attention::{self, Scores, Sequence};
use crate::ops::kv::{KvBlocks, New};
use crate::ops::leaders::Leaders;
use crate::ops::norm::Norm;
use crate::ops::position_bias::{DistanceBias, bucket};
use crate::ops::rotary::{Angles, rotate};
use crate::simd::{Activation, add_scaled};
use crate::tensor::{Buffer, sized};
use crate::threads::Team;
use half::bf16;
use std::ops::Range;
use std::sync::Mutex;

/// How a bias depends on the distance.
#[derive(Debug, Clone, Default, PartialEq)]
struct Rule {
    alibi: Option<spec::Alibi>,
    /// What the attention scales by, where the rule needs it.
    scale: f64,
    relative: Option<spec::RelativeBias>,
}

/// Successive rows of a batch that belong to one sequence.
#[derive(Debug, Clone)]
pub struct Span {
    /// Number of the sequence in its cache.
    pub sequence: usize,
    pub rows: Range<usize>,
    /// Position of the first row.
    pub first: usize,
    /// Length that the sequence will have at the end of the call; decides between short and long rotations.
    pub total: usize,
    /// The sequence in the cross-attention's cache, in an encoder-decoder, and its length.
    pub source: usize,
    pub source_length: usize,
}

/// Memory that forward passes reuse, so that decoding a token allocates nothing of size.
#[derive(Default)]
pub struct Workspace {
    pub product: matmul::Scratch,
    attention: attention::Scratch,
    /// Hidden states, `[rows, hidden]`.
    pub x: Buffer<f32>,
    normed: Buffer<f32>,
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
    context: Buffer<f32>,
    y: Buffer<f32>,
    inner: Buffer<f32>,
    angles: Angles,
    /// Rotation that `angles` was made for, within one pass.
    rotary: Option<spec::Rotary>,
    /// The last biases by distance, and the rule and the numbers that they were made of.
    bias: Option<(DistanceBias, Rule, Vec<f32>)>,
    frequencies: Vec<f64>,
    /// Rows that the language head reads.
    pub picked: Buffer<f32>,
    /// Logits of a step.
    pub logits: Buffer<f32>,
    pub leaders: Leaders,
    /// Of the last whole sequences, and of which stack they were: memory that the next ones use again.
    pub passing: Option<(usize, Cache)>,
    /// For threads that run sequences on their own.
    pub apart: Vec<Mutex<Workspace>>,
}

/// `y[rows, outputs] = x weight.T + bias`.
fn target<'a>(l: &'a Linear, out: &'a mut [f32]) -> Target<'a> {
    let stride = l.weight.outputs();
    Target {
        weight: &l.weight,
        bias: l.bias.as_deref(),
        gate: None,
        activation: Activation::Identity,
        add: None,
        out,
        stride,
    }
}

/// What a caller wants to see of an attention.
pub type Watch<'a> = Option<&'a mut Vec<f32>>;

/// Everything a block reads besides its weights.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub team: &'a Team<'a>,
    pub spans: &'a [Span],
    pub rows: usize,
    pub hidden: usize,
}

/// What a block's first products are made of.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// What `normed` holds.
    Normed,
    /// The rows of x, each through this norm.
    Through(Option<&'a Norm>),
}

/// What a block does after its last layer.
#[derive(Clone, Copy)]
struct End<'a> {
    output_norm: Option<&'a Norm>,
    residual_norm: Option<&'a Norm>,
    scale: f32,
    /// The residual is the block's input after its norm.
    after_norm: bool,
}

impl<'a> End<'a> {
    fn of_attention(a: &spec::Attention, w: &'a AttentionWeights) -> End<'a> {
        End {
            output_norm: w.output_norm.as_ref(),
            residual_norm: w.residual_norm.as_ref(),
            scale: a.residual_scale as f32,
            after_norm: a.residual_after_norm,
        }
    }

    fn of_feed_forward(f: &spec::FeedForward, w: &'a FeedForwardWeights) -> End<'a> {
        End {
            output_norm: w.output_norm.as_ref(),
            residual_norm: w.residual_norm.as_ref(),
            scale: f.residual_scale as f32,
            after_norm: f.residual_after_norm,
        }
    }
}

impl Workspace {
    /// Forgets what belongs to one forward pass.
    pub fn begin(&mut self) {
        self.rotary = None;
    }

    /// A block's input, `input_norm(x)`: normalized on its way into the products, unless it is needed `again`.
    fn source<'b>(&mut self, pass: &Pass<'_>, norm: Option<&'b Norm>, again: bool) -> Source<'b> {
        if again {
            self.input(pass, norm);
            return Source::Normed;
        }
        Source::Through(norm)
    }

    /// `targets` from a source.
    fn products(&mut self, pass: &Pass<'_>, source: Source<'_>, targets: &mut [Target<'_>]) {
        let n = pass.rows * pass.hidden;
        let normalize;
        let input = match source {
            Source::Normed => Input::from(&self.normed[..n]),
            Source::Through(None) => Input::from(&self.x[..n]),
            Source::Through(Some(norm)) => {
                normalize = |row: usize, x: &[f32], to: &mut [f32]| norm.row(row, x, to);
                Input { values: &self.x[..n], before: Some(&normalize) }
            }
        };
        linear(pass.team, &mut self.product, input, pass.rows, targets);
    }

    /// Writes `input_norm(x)`, or a copy of x, to `normed`.
    fn input(&mut self, pass: &Pass<'_>, norm: Option<&Norm>) {
        let n = pass.rows * pass.hidden;
        let (x, normed) = (&self.x[..n], sized(&mut self.normed, n));
        match norm {
            Some(norm) => norm.normalize(pass.team, x, pass.hidden, normed),
            None => normed.copy_from_slice(x),
        }
    }

    /// A block's last layer, of `input: [rows, _]`, and what follows it; without `end` the output is left in `y`.
    fn project(&mut self, pass: &Pass<'_>, l: &Linear, input: &[f32], end: Option<End<'_>>) {
        let n = pass.rows * pass.hidden;
        match end {
            Some(end) if end.output_norm.is_none() && !end.after_norm => {
                let x = &mut self.x[..n];
                let sum = Target { add: Some(end.scale), ..target(l, x) };
                linear(pass.team, &mut self.product, input.into(), pass.rows, &mut [sum]);
                if let Some(norm) = end.residual_norm {
                    norm.normalize_in_place(pass.team, &mut self.x[..n], pass.hidden);
                }
            }
            _ => {
                let y = sized(&mut self.y, n);
                linear(pass.team, &mut self.product, input.into(), pass.rows, &mut [target(l, y)]);
                if let Some(end) = end {
                    self.residual(pass, end);
                }
            }
        }
    }

    /// `x += scale * output_norm(y)`, then the residual norm.
    fn residual(&mut self, pass: &Pass<'_>, end: End<'_>) {
        let End { output_norm, residual_norm, scale, after_norm } = end;
        let n = pass.rows * pass.hidden;
        let (x, y) = (&mut self.x[..n], &mut self.y[..n]);
        if let Some(norm) = output_norm {
            norm.normalize_in_place(pass.team, y, pass.hidden);
        }
        if after_norm {
            x.copy_from_slice(&self.normed[..n]);
        }
        add_scaled(x, scale, y);
        if let Some(norm) = residual_norm {
            norm.normalize_in_place(pass.team, x, pass.hidden);
        }
    }

    fn make_angles(&mut self, rotary: &spec::Rotary, spans: &[Span]) {
        if self.rotary.as_ref() == Some(rotary) {
            return;
        }
        self.angles.clear(rotary.inv_freq.len(), rotary.interleaved);
        for span in spans {
            let (mut frequencies, mut scale) = (rotary.inv_freq.as_slice(), rotary.scale);
            if let Some(long) = rotary.long.as_ref().filter(|long| span.total > long.after) {
                (frequencies, scale) = (&long.inv_freq, long.scale);
            }
            if let Some(d) = rotary.dynamic.as_ref().filter(|d| span.total > d.original_length) {
                let dim = 2.0 * rotary.inv_freq.len() as f64;
                let grown = d.factor * span.total as f64 / d.original_length as f64 - (d.factor - 1.0);
                let base = d.base * grown.powf(dim / (dim - 2.0));
                self.frequencies.clear();
                self.frequencies.extend((0..rotary.inv_freq.len()).map(|j| base.powf(-2.0 * j as f64 / dim)));
                frequencies = &self.frequencies;
            }
            for row in 0..span.rows.len() {
                self.angles.push(span.first + row, frequencies, scale);
            }
        }
        self.rotary = Some(rotary.clone());
    }

    /// Makes the table of biases, unless the last one serves: layers mostly share theirs, and the next token of a
    /// sequence needs hardly more.
    fn make_bias(&mut self, a: &spec::Attention, table: Option<&[f32]>, spans: &[Span]) {
        let scale = if a.alibi.as_ref().is_some_and(|alibi| alibi.rounded) { a.scale } else { 0.0 };
        let rule = Rule { alibi: a.alibi.clone(), scale, relative: a.relative_bias.clone() };
        let table = table.unwrap_or_default();
        if rule == Rule::default() {
            return;
        }
        let reach = spans.iter().map(|s| s.first + s.rows.len()).max().unwrap_or(1);
        if let Some((bias, old, numbers)) = &self.bias
            && bias.reach() >= reach
            && *old == rule
            && numbers == table
        {
            return;
        }
        let reach = reach.next_power_of_two();
        let bias = if let Some(r) = &rule.relative {
            let rows: Vec<usize> = (-(reach as isize)..=reach as isize)
                .map(|d| bucket(d, r.buckets, r.max_distance, r.bidirectional))
                .collect();
            DistanceBias::new(a.heads, reach, |h, d| table[rows[(d + reach as isize) as usize] * a.heads + h])
        } else {
            let alibi = rule.alibi.as_ref().expect("one of the two");
            let slopes = &alibi.slopes;
            if alibi.rounded {
                let round = |x: f32| bf16::from_f32(x).to_f32();
                DistanceBias::of_keys(a.heads, reach, |h, k| {
                    a.scale as f32 * round(round(slopes[h] as f32) * round(k as f32))
                })
            } else {
                DistanceBias::new(a.heads, reach, |h, d| (slopes[h] * d as f64) as f32)
            }
        };
        self.bias = Some((bias, rule, table.to_vec()));
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
    fn attend(
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
        let (qn, kn) = (rows * a.query_size(), rows * a.kv_size());
        let (mut q, mut k, mut v) =
            (std::mem::take(&mut self.q), std::mem::take(&mut self.k), std::mem::take(&mut self.v));
        let (qs, ks, vs) = (sized(&mut q, qn), sized(&mut k, kn), sized(&mut v, kn));
        self.products(pass, source, &mut [target(&w.query, qs), target(&w.key, ks), target(&w.value, vs)]);
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
            self.make_angles(rotary, pass.spans);
            rotate(team, qs, a.heads, a.head_dim, &self.angles);
            rotate(team, ks, a.kv_heads, a.head_dim, &self.angles);
        }
        if a.norm_after_rotary {
            self.head_norm(team, w.query_norm.as_ref(), a, qs, a.query_size());
            self.head_norm(team, w.key_norm.as_ref(), a, ks, a.kv_size());
        }
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
        let new = |span: &'_ Span| {
            let part = span.rows.start * a.kv_size()..span.rows.end * a.kv_size();
            let table = tables.table(span.sequence);
            New { table, position: span.first, keys: &ks[part.clone()], values: &vs[part] }
        };
        kv.store_all(team, &pass.spans.iter().map(new).collect::<Vec<_>>());
        self.make_bias(a, w.relative_bias.as_deref(), pass.spans);
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
        (self.q, self.k, self.v) = (q, k, v);
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
            distance_bias: self
                .bias
                .as_ref()
                .map(|b| &b.0)
                .filter(|_| a.alibi.is_some() || a.relative_bias.is_some()),
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

    /// Self-attention with its norms and residual.
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

    /// The block's input after its norm, for operators of their own.
    pub fn block_input(&mut self, pass: &Pass<'_>, norm: Option<&Norm>) -> Vec<f32> {
        self.input(pass, norm);
        self.normed[..pass.rows * pass.hidden].to_vec()
    }

    /// Adds an operator's output with the block's norms and residual.
    pub fn block_output(&mut self, pass: &Pass<'_>, y: &[f32], a: &spec::Attention, w: &AttentionWeights) {
        sized(&mut self.y, y.len()).copy_from_slice(y);
        self.residual(pass, End::of_attention(a, w));
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
        self.products(pass, source, &mut [target(&w.query, qs)]);
        self.head_norm(pass.team, w.query_norm.as_ref(), a, qs, a.query_size());
        let sequences: Vec<Sequence<'_>> = pass
            .spans
            .iter()
            .map(|s| Sequence {
                table: tables.table(s.source),
                rows: s.rows.clone(),
                first: s.first,
                length: s.source_length,
            })
            .collect();
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
        let targets = &mut [target(&w.key, ks), target(&w.value, vs)];
        linear(team, &mut self.product, states.into(), rows, targets);
        self.head_norm(team, w.key_norm.as_ref(), a, ks, a.kv_size());
        let new = |(i, border): (usize, &[usize])| {
            let part = border[0] * a.kv_size()..border[1] * a.kv_size();
            New { table: table_of(i), position: 0, keys: &ks[part.clone()], values: &vs[part] }
        };
        kv.store_all(team, &starts.windows(2).enumerate().map(new).collect::<Vec<_>>());
        (self.k, self.v) = (k, v);
    }

    /// The feed-forward network of a source.
    fn inner(&mut self, pass: &Pass<'_>, f: &spec::FeedForward, w: &FeedForwardWeights, source: Source<'_>) {
        let mut buffer = std::mem::take(&mut self.inner);
        let inner = sized(&mut buffer, pass.rows * f.width);
        let up = Target {
            gate: w.gate.as_ref().map(|g| (&*g.weight, g.bias.as_deref())),
            activation: f.activation,
            ..target(&w.up, inner)
        };
        self.products(pass, source, &mut [up]);
        self.project(pass, &w.down, inner, Some(End::of_feed_forward(f, w)));
        self.inner = buffer;
    }

    /// The feed-forward block with its norms and residual.
    pub fn feed_forward(&mut self, pass: &Pass<'_>, f: &spec::FeedForward, w: &FeedForwardWeights) {
        let source = self.source(pass, w.input_norm.as_ref(), f.residual_after_norm);
        self.inner(pass, f, w, source);
    }

    /// Attention and feed-forward from the same x, both added to it.
    pub fn parallel(
        &mut self,
        pass: &Pass<'_>,
        layer: &spec::Layer,
        w: &super::weights::LayerWeights,
        kv: &mut KvBlocks,
        tables: Tables<'_>,
        watch: Watch<'_>,
    ) {
        let source = self.source(pass, w.attention.input_norm.as_ref(), layer.attention.residual_after_norm);
        self.attend(pass, &layer.attention, &w.attention, source, kv, tables, None, watch);
        // `residual` leaves `normed` alone, so the feed-forward still sees the norm of the old x.
        self.input(pass, w.feed_forward.input_norm.as_ref());
        self.residual(pass, End::of_attention(&layer.attention, &w.attention));
        self.inner(pass, &layer.feed_forward, &w.feed_forward, Source::Normed);
    }
}
