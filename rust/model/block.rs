//! The blocks of a layer, [`attention`] and [`feed_forward`], each with its norms and its residual,
//! `x = residual_norm(x + residual_scale * output_norm(block(input_norm(x))))`.
//!
//! Here stands what both share: the memory they work in, the norms and the residual around them, and the layer in which
//! they run beside each other.

mod attention;
mod feed_forward;
mod positions;

use super::cache::Cache;
use super::spec;
use super::view::{View, Views};
use super::weights::{AttentionWeights, FeedForwardWeights, LayerWeights, Linear};
use crate::matmul::{self, Input, Target, linear};
use crate::ops;
use crate::ops::kv::{KvBlocks, Sequences};
use crate::ops::leaders::Leaders;
use crate::ops::norm::Norm;
use crate::simd::add_scaled;
use crate::tensor::{Buffer, sized};
use crate::threads::Team;
use positions::Positions;
use std::ops::Range;
use std::sync::Mutex;

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
    attention: ops::attention::Scratch,
    /// Hidden states, `[rows, hidden]`.
    pub x: Buffer<f32>,
    normed: Buffer<f32>,
    q: Buffer<f32>,
    k: Buffer<f32>,
    v: Buffer<f32>,
    context: Buffer<f32>,
    y: Buffer<f32>,
    inner: Buffer<f32>,
    positions: Positions,
    pub views: Views,
    /// States of another width than the hidden ones', on their way in or out.
    pub narrow: Buffer<f32>,
    /// Logits of a step.
    pub logits: Buffer<f32>,
    pub leaders: Leaders,
    /// Of the last whole sequences, and of which stack they were: memory that the next ones use again.
    pub passing: Option<(usize, Cache)>,
    /// For threads that run sequences on their own.
    pub apart: Vec<Mutex<Workspace>>,
}

/// What a caller wants to see of an attention.
pub type Watch<'a> = Option<&'a mut Vec<f32>>;

/// Everything a block reads besides its weights.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub team: &'a Team<'a>,
    pub view: &'a View,
    /// Blocks of the cached sequences, and of the sources.
    pub tables: [&'a [Vec<u32>]; 2],
    pub rows: usize,
    pub hidden: usize,
    pub part: Part,
}

impl<'a> Pass<'a> {
    /// What self-attention attends to.
    fn sequences(&self) -> Sequences<'a> {
        Sequences { list: &self.view.own, tables: self.tables[0] }
    }

    /// What cross-attention attends to.
    fn sources(&self) -> Sequences<'a> {
        Sequences { list: &self.view.sources, tables: self.tables[1] }
    }
}

/// What is done of a self-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// Keys and values are stored, and nobody attends to them yet.
    Keys,
    /// The rest, for any of the rows.
    Queries,
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
        self.positions.begin();
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
    fn products(&mut self, pass: &Pass<'_>, source: Source<'_>, targets: &[Target<'_>]) {
        let n = pass.rows * pass.hidden;
        let normalize;
        let input = match source {
            Source::Normed => Input::from(&self.normed[..n]),
            Source::Through(None) => Input::from(&self.x[..n]),
            Source::Through(Some(norm)) => {
                normalize = |row: usize, x: &[f32], to: &mut [f32]| norm.row(row, x, to);
                Input { values: &self.x[..n], prologue: Some(&normalize) }
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
                let sum = Target { add: Some(end.scale), ..l.target(x) };
                linear(pass.team, &mut self.product, input.into(), pass.rows, &[sum]);
                if let Some(norm) = end.residual_norm {
                    norm.normalize_in_place(pass.team, &mut self.x[..n], pass.hidden);
                }
            }
            _ => {
                let y = sized(&mut self.y, n);
                linear(pass.team, &mut self.product, input.into(), pass.rows, &[l.target(y)]);
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

    /// Attention and feed-forward from the same x, both added to it.
    pub fn parallel(
        &mut self,
        pass: &Pass<'_>,
        layer: &spec::Layer,
        w: &LayerWeights,
        kv: &mut KvBlocks,
        watch: Watch<'_>,
    ) {
        let source = self.source(pass, w.attention.input_norm.as_ref(), layer.attention.residual_after_norm);
        self.attend(pass, &layer.attention, &w.attention, source, kv, None, watch);
        // `residual` leaves `normed` alone, so the feed-forward still sees the norm of the old x.
        self.input(pass, w.feed_forward.input_norm.as_ref());
        self.residual(pass, End::of_attention(&layer.attention, &w.attention));
        self.inner(pass, &layer.feed_forward, &w.feed_forward, Source::Normed);
    }
}
