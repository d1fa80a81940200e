//! A model: its weights, its threads, and the calls that run it.
//!
//! Ids of a batch lie one after the other, `starts` are the borders between sequences: no padding. Calls go
//! through [`Model::session`], which waits for the model's turn and watches for interruption:
//!
//! * encoders: [`Session::encode`] gives final states, [`Session::task_head`] and [`Session::pooler`] what follows;
//! * decoders: [`Session::forward`] feeds new tokens of cached sequences and leaves their final states in
//!   [`Session::states`]; [`Session::logits`] turns chosen rows into logits;
//! * encoder-decoders: [`Session::cross`] prepares sources once, then as decoders.

mod block;
mod cache;
mod disentangled;
pub mod spec;
mod stack;
mod weights;

pub use block::Span;
pub use cache::{Cache, SequenceId};
pub use stack::Watching;
pub use weights::{Loader, Needed, Options, Summary, Use, needed};

use crate::error::{Error, Result};
use crate::matmul::{Activations, Target, linear};
use crate::ops::kv::KvType;
use crate::ops::pool::Pooling;
use crate::simd::{Activation, activate};
use crate::threads::{Hook, Pool, Team};
use block::{Workspace, sized};
use std::sync::{Mutex, PoisonError, TryLockError};
use weights::{DenseWeights, StackWeights, Weights};

/// Rows that a decoder computes at a time while it reads a prompt.
pub const PREFILL_ROWS: usize = 512;

/// Rows that an encoder gathers from several sequences.
pub const ENCODER_ROWS: usize = 2048;

/// Rows for which logits are computed at a time.
const LOGIT_ROWS: usize = 64;

/// A loaded model.
pub struct Model {
    spec: spec::Model,
    weights: Weights,
    summary: Summary,
    pool: Pool,
    kv_type: KvType,
    activations: Activations,
    workspace: Mutex<Workspace>,
}

/// A ragged batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub ids: &'a [u32],
    /// Borders, one more than there are sequences.
    pub starts: &'a [usize],
    pub segments: Option<&'a [u32]>,
}

impl Batch<'_> {
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Model {
    pub fn new(loader: Loader, pool: Pool) -> Result<Self> {
        let (activations, kv_type) = (loader.options().activations, loader.kv_type());
        let (spec, weights, summary) = loader.finish()?;
        Ok(Model { spec, weights, summary, pool, kv_type, activations, workspace: Mutex::default() })
    }

    pub fn spec(&self) -> &spec::Model {
        &self.spec
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// How the decoder's keys and values are kept, in every call, so that cached and whole-sequence calls give
    /// the same bits. Encoders keep theirs in f32.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Waits for this caller's turn and runs `body`; `hook` is asked now and then whether to stop.
    pub fn session<R>(&self, hook: Hook<'_>, body: impl FnOnce(&mut Session<'_>) -> Result<R>) -> Result<R> {
        self.pool.enter(hook, |team| {
            let mut own = Workspace::default();
            // A forked child may find the lock held by a thread that it does not have.
            let mut guard = match self.workspace.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
                Err(TryLockError::WouldBlock) => None,
            };
            let work = guard.as_deref_mut().unwrap_or(&mut own);
            body(&mut Session { model: self, team, work })
        })
    }

    /// A cache for the decoder's sequences.
    pub fn cache(&self) -> Result<Cache> {
        let decoder = self.spec.decoder.as_ref().ok_or_else(|| missing("a decoder"))?;
        Ok(Cache::new(decoder, self.kv_type(), false))
    }

    /// Longest sequence of the last stack.
    pub fn longest(&self) -> usize {
        self.spec.last_stack().longest()
    }

    /// Entries of a row of logits.
    pub fn vocab_size(&self) -> Result<usize> {
        Ok(self.spec.language_head.as_ref().ok_or_else(|| missing("a language head"))?.vocab_size)
    }
}

fn missing(what: &str) -> Error {
    Error::Option(format!(
        "this model has no {}: the checkpoint is of another kind",
        what.trim_start_matches("a ")
    ))
}

/// A model in the hands of one caller.
pub struct Session<'a> {
    model: &'a Model,
    pub team: &'a Team<'a>,
    work: &'a mut Workspace,
}

fn check_length(length: usize, longest: usize, what: &str) -> Result<()> {
    if length > longest {
        return Err(Error::ContextLength(format!(
            "{what} has {length} tokens: this model takes at most {longest}; shorten or split it"
        )));
    }
    Ok(())
}

impl<'a> Session<'a> {
    fn check(&self, s: &spec::Stack, batch: &Batch<'_>) -> Result<()> {
        stack::check_ids("token id", batch.ids, s.vocab_size)?;
        if let Some(segments) = batch.segments {
            if s.segments == 0 {
                return Err(Error::Option("segment_ids were given: this model has no segments".to_owned()));
            }
            stack::check_ids("segment id", segments, s.segments)?;
        }
        for (i, pair) in batch.starts.windows(2).enumerate() {
            if pair[0] >= pair[1] {
                return Err(Error::Option(format!("sequence {i} is empty: expected at least one token")));
            }
            check_length(pair[1] - pair[0], s.longest(), &format!("sequence {i}"))?;
        }
        Ok(())
    }

    /// Runs a stack over whole sequences, some thousand rows at a time; `each` sees the states of a
    /// group, `[rows, width]`, and which sequences they are.
    fn whole(
        &mut self,
        s: &spec::Stack,
        w: &StackWeights,
        batch: &Batch<'_>,
        mut cross: Option<&mut Cache>,
        watching: &mut Watching,
        each: &mut dyn FnMut(&mut Session<'_>, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        self.check(s, batch)?;
        let mut first = 0;
        while first < batch.len() {
            let mut end = first + 1;
            while end < batch.len() && batch.starts[end + 1] - batch.starts[first] <= ENCODER_ROWS {
                end += 1;
            }
            let decodes = self.model.spec.decoder.as_ref().is_some_and(|d| std::ptr::eq(d, s));
            let kv_type = if decodes { self.model.kv_type } else { KvType::F32 };
            let mut cache = Cache::new(s, kv_type, false);
            let base = batch.starts[first];
            let mut spans = Vec::new();
            for i in first..end {
                let (from, to) = (batch.starts[i], batch.starts[i + 1]);
                let sequence = cache.start();
                cache.extend(sequence, to - from)?;
                let source_length = cross.as_deref().map_or(0, |c| c.length(i));
                let rows = from - base..to - base;
                spans.push(Span { sequence, total: to - from, rows, first: 0, source: i, source_length });
            }
            let range = base..batch.starts[end];
            let segments = batch.segments.map(|t| &t[range.clone()]);
            stack::embed(self.team, s, w, &mut *self.work, &batch.ids[range], segments, &spans);
            stack::layers(
                self.team,
                s,
                w,
                &mut *self.work,
                &spans,
                &mut cache,
                cross.as_deref_mut(),
                watching,
            )?;
            each(&mut Session { model: self.model, team: self.team, work: &mut *self.work }, first..end)?;
            first = end;
        }
        Ok(())
    }

    /// The stack whose final states `states` and the heads use, and its weights; without an encoder's source.
    fn last(&self) -> (&'a spec::Stack, &'a StackWeights) {
        let weights = &self.model.weights;
        let w = weights.decoder.as_ref().or(weights.encoder.as_ref()).expect("there is a stack");
        (self.model.spec.last_stack(), w)
    }

    fn encoder(&self) -> Result<(&'a spec::Stack, &'a StackWeights)> {
        match (&self.model.spec.encoder, &self.model.weights.encoder) {
            (Some(s), Some(w)) => Ok((s, w)),
            _ => Err(missing("an encoder")),
        }
    }

    /// The stack that reads text: the encoder, or a decoder alone.
    fn reader(&self) -> (&'a spec::Stack, &'a StackWeights) {
        self.encoder().unwrap_or_else(|_| self.last())
    }

    /// Final states of the text's stack, `[tokens, width]`.
    pub fn encode(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        let mut out = Vec::new();
        self.whole(s, w, batch, None, &mut Watching::default(), &mut |session, group| {
            let rows = batch.starts[group.end] - batch.starts[group.start];
            out.extend_from_slice(&session.work.x[..rows * s.output_width()]);
            Ok(())
        })?;
        Ok(out)
    }

    /// The embedding and every layer's output, `[tokens, width]` each.
    pub fn hidden_states(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f32>>> {
        let (s, w) = self.reader();
        let mut all: Vec<Vec<f32>> = vec![Vec::new(); s.layers.len() + 1];
        for i in 0..batch.len() {
            let (from, to) = (batch.starts[i], batch.starts[i + 1]);
            let one = Batch {
                ids: &batch.ids[from..to],
                starts: &[0, to - from],
                segments: batch.segments.map(|t| &t[from..to]),
            };
            let mut watching = Watching { states: Some(Vec::new()), ..Watching::default() };
            self.whole(s, w, &one, None, &mut watching, &mut |_, _| Ok(()))?;
            for (to, from) in all.iter_mut().zip(watching.states.unwrap_or_default()) {
                to.extend(from);
            }
        }
        Ok(all)
    }

    /// Attention probabilities of a layer for one sequence, `[heads, tokens, tokens]`.
    pub fn attentions(&mut self, batch: &Batch<'_>, layer: usize) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        check_layer(layer, s)?;
        let mut watching = Watching { attention: Some(layer), ..Watching::default() };
        self.whole(s, w, batch, None, &mut watching, &mut |_, _| Ok(()))?;
        Ok(watching.probabilities)
    }

    fn dense(
        &mut self,
        layers: &[spec::Dense],
        weights: &[DenseWeights],
        x: &[f32],
        rows: usize,
    ) -> Vec<f32> {
        let mut x = x.to_vec();
        for (spec, w) in layers.iter().zip(weights) {
            let mut out = vec![0.0; rows * spec.outputs];
            let mut target = [Target {
                weight: &w.linear.weight,
                bias: w.linear.bias.as_deref(),
                gate: None,
                activation: Activation::Identity,
                add: None,
                out: &mut out,
                stride: spec.outputs,
            }];
            linear(self.team, &mut self.work.product, &x, rows, &mut target);
            activate(spec.activation, &mut out);
            if let Some(norm) = &w.norm {
                norm.normalize_in_place(self.team, &mut out, spec.outputs);
            }
            x = out;
        }
        x
    }

    fn head(&mut self, head: &spec::Head, weights: &[DenseWeights], batch: &Batch<'_>) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        let width = s.output_width();
        let mut out = Vec::new();
        self.whole(s, w, batch, None, &mut Watching::default(), &mut |session, group| {
            let base = batch.starts[group.start];
            let states = session.work.x[..(batch.starts[group.end] - base) * width].to_vec();
            let pooling = match head.pool {
                spec::HeadPool::None => {
                    out.extend(session.dense(&head.layers, weights, &states, states.len() / width));
                    return Ok(());
                }
                spec::HeadPool::First => Pooling::First,
                spec::HeadPool::Mean => Pooling::Mean,
                spec::HeadPool::Last => Pooling::Last,
                spec::HeadPool::MeanOutput => {
                    let rows = session.dense(&head.layers, weights, &states, states.len() / width);
                    let width = head.layers.last().map_or(width, |dense| dense.outputs);
                    for i in group.clone() {
                        let part =
                            &rows[(batch.starts[i] - base) * width..(batch.starts[i + 1] - base) * width];
                        let at = out.len();
                        out.resize(at + width, 0.0);
                        Pooling::Mean.pool(part, width, &mut out[at..]);
                    }
                    return Ok(());
                }
            };
            let mut pooled = vec![0.0; group.len() * width];
            for (i, row) in group.clone().zip(pooled.chunks_mut(width)) {
                pooling.pool(
                    &states[(batch.starts[i] - base) * width..(batch.starts[i + 1] - base) * width],
                    width,
                    row,
                );
            }
            out.extend(session.dense(&head.layers, weights, &pooled, group.len()));
            Ok(())
        })?;
        finite(&out, "the head's output")?;
        Ok(out)
    }

    /// The task head's output, a row per sequence or per token.
    pub fn task_head(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let head = self.model.spec.head.as_ref().ok_or_else(|| missing("a task head"))?;
        self.head(head, &self.model.weights.head, batch)
    }

    /// The pooler's output, a row per sequence.
    pub fn pooler(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let head = self.model.spec.pooler.as_ref().ok_or_else(|| missing("a pooler"))?;
        self.head(head, &self.model.weights.pooler, batch)
    }

    /// Pooled final states, `[sequences, width]`.
    pub fn embed(&mut self, batch: &Batch<'_>, pooling: Pooling, normalize: bool) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        let width = s.output_width();
        let mut out = vec![0.0; batch.len() * width];
        self.whole(s, w, batch, None, &mut Watching::default(), &mut |session, group| {
            let base = batch.starts[group.start];
            for i in group {
                let rows = (batch.starts[i] - base) * width..(batch.starts[i + 1] - base) * width;
                let row = &mut out[i * width..][..width];
                pooling.pool(&session.work.x[rows], width, row);
                if normalize {
                    crate::ops::pool::normalize_length(row);
                }
            }
            Ok(())
        })?;
        finite(&out, "the embedding")?;
        Ok(out)
    }

    /// Language-head logits at every position, `[tokens, vocab]`; for decoders and masked language models.
    pub fn all_logits(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let (s, w) = self.reader();
        self.logits_of(s, w, batch, None)
    }

    fn logits_of(
        &mut self,
        s: &spec::Stack,
        w: &StackWeights,
        batch: &Batch<'_>,
        cross: Option<&mut Cache>,
    ) -> Result<Vec<f32>> {
        let vocab = self.model.vocab_size()?;
        let mut out = Vec::new();
        self.whole(s, w, batch, cross, &mut Watching::default(), &mut |session, group| {
            let rows: Vec<usize> = (0..batch.starts[group.end] - batch.starts[group.start]).collect();
            let at = out.len();
            out.resize(at + rows.len() * vocab, 0.0);
            session.logits(&rows, &mut out[at..])
        })?;
        Ok(out)
    }

    /// Encodes sources and stores their keys and values for every layer of the decoder; source i is
    /// sequence i of the cache.
    pub fn cross(&mut self, batch: &Batch<'_>) -> Result<Cache> {
        let decoder = self.model.spec.decoder.as_ref().ok_or_else(|| missing("a decoder"))?;
        let weights = self.model.weights.decoder.as_ref().expect("as the description");
        let (s, w) = self.encoder()?;
        let width = s.output_width();
        let mut cache = Cache::new(decoder, self.model.kv_type(), true);
        for i in 0..batch.len() {
            let sequence = cache.start();
            debug_assert_eq!(sequence, i);
            cache.extend(sequence, batch.starts[i + 1].saturating_sub(batch.starts[i]))?;
        }
        self.whole(s, w, batch, None, &mut Watching::default(), &mut |session, group| {
            let base = batch.starts[group.start];
            let states = session.work.x[..(batch.starts[group.end] - base) * width].to_vec();
            for (layer, (spec, lw)) in decoder.layers.iter().zip(&weights.layers).enumerate() {
                let (Some(a), Some(cw)) = (&spec.cross_attention, &lw.cross_attention) else { continue };
                for i in group.clone() {
                    let rows = batch.starts[i] - base..batch.starts[i + 1] - base;
                    let states = &states[rows.start * width..rows.end * width];
                    let (kv, tables) = cache.layer(layer);
                    session.work.cross_keys(session.team, a, cw, states, rows.len(), kv, tables.table(i));
                }
                session.team.check()?;
            }
            Ok(())
        })?;
        Ok(cache)
    }

    /// Teacher-forced logits of an encoder-decoder, `[target tokens, vocab]`.
    pub fn decoder_logits(&mut self, source: &Batch<'_>, target: &Batch<'_>) -> Result<Vec<f32>> {
        pairs(source, target)?;
        let mut cross = self.cross(source)?;
        let (s, w) = self.last();
        self.logits_of(s, w, target, Some(&mut cross))
    }

    /// The decoder's embedding and layers' outputs, teacher-forced, `[target tokens, width]` each.
    pub fn decoder_hidden_states(&mut self, source: &Batch<'_>, target: &Batch<'_>) -> Result<Vec<Vec<f32>>> {
        pairs(source, target)?;
        let mut cross = self.cross(source)?;
        let (s, w) = self.last();
        let mut watching = Watching { states: Some(Vec::new()), ..Watching::default() };
        if target.len() != 1 {
            return Err(Error::Option("decoder_hidden_states takes one pair at a time".to_owned()));
        }
        self.whole(s, w, target, Some(&mut cross), &mut watching, &mut |_, _| Ok(()))?;
        Ok(watching.states.unwrap_or_default())
    }

    /// Self- or cross-attention probabilities of the decoder for one pair, `[heads, target, target or source]`.
    pub fn decoder_attentions(
        &mut self,
        source: &Batch<'_>,
        target: &Batch<'_>,
        layer: usize,
        cross: bool,
    ) -> Result<Vec<f32>> {
        pairs(source, target)?;
        let mut sources = self.cross(source)?;
        let (s, w) = self.last();
        check_layer(layer, s)?;
        let (own, other) = if cross { (None, Some(layer)) } else { (Some(layer), None) };
        let mut watching = Watching { attention: own, cross_attention: other, ..Watching::default() };
        self.whole(s, w, target, Some(&mut sources), &mut watching, &mut |_, _| Ok(()))?;
        Ok(watching.probabilities)
    }

    /// Feeds new tokens of cached sequences to the decoder, in spans of at most [`PREFILL_ROWS`] rows together.
    /// `cache` already has room for them (`Cache::extend`). Final states are left in [`Session::states`].
    pub fn forward(
        &mut self,
        ids: &[u32],
        spans: &[Span],
        cache: &mut Cache,
        cross: Option<&mut Cache>,
    ) -> Result<()> {
        let (s, w) = self.last();
        stack::check_ids("token id", ids, s.vocab_size)?;
        for span in spans {
            check_length(span.first + span.rows.len(), s.longest(), "the sequence")?;
        }
        stack::embed(self.team, s, w, &mut *self.work, ids, None, spans);
        stack::layers(self.team, s, w, &mut *self.work, spans, cache, cross, &mut Watching::default())
    }

    /// Final states of the last [`Session::forward`], `[rows, width]`.
    pub fn states(&self) -> &[f32] {
        &self.work.x
    }

    /// Logits of chosen rows of the last states, `[rows, vocab]`, into `out`.
    pub fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        let head = self.model.spec.language_head.as_ref().ok_or_else(|| missing("a language head"))?;
        let w = self.model.weights.language_head.as_ref().expect("as the description");
        let width = self.model.spec.last_stack().output_width();
        let mut chosen = Vec::new();
        for (rows, out) in rows.chunks(LOGIT_ROWS).zip(out.chunks_mut(LOGIT_ROWS * head.vocab_size)) {
            let picked = sized(&mut chosen, rows.len() * width);
            for (to, &row) in picked.chunks_mut(width).zip(rows) {
                to.copy_from_slice(&self.work.x[row * width..][..width]);
            }
            let transformed;
            let x = if head.transform.is_empty() {
                &*picked
            } else {
                transformed = self.dense(&head.transform, &w.transform, picked, rows.len());
                &transformed
            };
            let mut target = [Target {
                weight: &w.output.weight,
                bias: w.output.bias.as_deref(),
                gate: None,
                activation: Activation::Identity,
                add: None,
                out,
                stride: head.vocab_size,
            }];
            linear(self.team, &mut self.work.product, x, rows.len(), &mut target);
            self.team.check()?;
            if head.scale != 1.0 {
                let scale = head.scale as f32;
                out.iter_mut().for_each(|v| *v *= scale);
            }
            if let Some(cap) = head.softcap {
                let cap = cap as f32;
                self.team.run_mut(out, 4096, &|_, piece, _| {
                    piece.iter_mut().for_each(|v| *v /= cap);
                    activate(Activation::Tanh, piece);
                    piece.iter_mut().for_each(|v| *v *= cap);
                });
            }
            finite(out, "a logit")?;
        }
        Ok(())
    }
}

fn pairs(source: &Batch<'_>, target: &Batch<'_>) -> Result<()> {
    if source.len() != target.len() {
        return Err(Error::Option(format!(
            "{} sources and {} targets were given: expected as many of both",
            source.len(),
            target.len()
        )));
    }
    Ok(())
}

fn check_layer(layer: usize, s: &spec::Stack) -> Result<()> {
    if layer >= s.layers.len() {
        return Err(Error::Option(format!(
            "layer {layer} is out of range: expected 0 to {}",
            s.layers.len() - 1
        )));
    }
    Ok(())
}

/// Refuses infinite values and not-a-number: any makes the sum of squares so.
fn finite(x: &[f32], what: &str) -> Result<()> {
    if !crate::simd::sum_of_squares(x).is_finite()
        && let Some(v) = x.iter().find(|v| !v.is_finite())
    {
        return Err(Error::Numerical(format!(
            "{what} is {v}: the weights or the input lead to values that f32 cannot hold"
        )));
    }
    Ok(())
}
