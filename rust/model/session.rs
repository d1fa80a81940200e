//! A model in the hands of one caller: runs its stacks.

use super::block::{Span, Workspace};
use super::cache::Cache;
use super::stack::{self, Watching};
use super::weights::{DenseWeights, StackWeights};
use super::{Batch, ENCODER_ROWS, Model, SHARED_ROWS, spec};
use crate::error::{Error, Result};
use crate::matmul::linear;
use crate::ops::kv::KvType;
use crate::simd::activate;
use crate::tensor::sized;
use crate::threads::Team;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Bytes of a call's logits, or of its keys and values, up to which the memory is kept for the next call.
pub(super) const KEPT: usize = 64 << 20;
/// Fewest rows of a share of sequences that a thread runs on its own.
const SHARE_LEAST: usize = 32;
/// Rows of a share: enough that threads that read weights by themselves do not wait for them, few enough that what a row
/// needs stays in a thread's own cache.
const SHARE_ROWS: usize = 128;

pub(super) fn missing(what: &str) -> Error {
    Error::Option(format!(
        "this model has no {}: the checkpoint is of another kind",
        what.trim_start_matches("a ")
    ))
}

/// A model in the hands of one caller.
pub struct Session<'a> {
    pub(super) model: &'a Model,
    pub team: &'a Team<'a>,
    pub(super) work: &'a mut Workspace,
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
    pub(super) fn whole(
        &mut self,
        s: &spec::Stack,
        w: &StackWeights,
        batch: &Batch<'_>,
        mut cross: Option<&mut Cache>,
        watching: &mut Watching,
        each: &mut dyn FnMut(&mut Session<'_>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        self.check(s, batch)?;
        let decodes = self.model.spec.decoder.as_ref().is_some_and(|d| std::ptr::eq(d, s));
        let kv_type = if decodes { self.model.kv_type } else { KvType::F32 };
        let mut first = 0;
        while first < batch.len() {
            let apart = cross.is_none() && watching.is_idle();
            let end = batch.group(first..batch.len(), if apart { SHARED_ROWS } else { ENCODER_ROWS });
            let shares = if apart { self.shares(batch, first..end) } else { Vec::new() };
            if shares.len() > 1 {
                self.apart(s, w, batch, &shares, kv_type)?;
            } else {
                let group = first..end;
                run(self.team, s, w, self.work, batch, group, kv_type, cross.as_deref_mut(), watching)?;
            }
            each(&mut Session { model: self.model, team: self.team, work: &mut *self.work }, first..end)?;
            first = end;
        }
        Ok(())
    }

    /// Cuts sequences into shares that threads run on their own, with no common regions and their rows in their own
    /// caches; none where there are too few rows for that.
    fn shares(&self, batch: &Batch<'_>, group: Range<usize>) -> Vec<Range<usize>> {
        let threads = self.team.threads();
        let total = batch.starts[group.end] - batch.starts[group.start];
        if total < 2 * SHARE_LEAST * threads {
            return Vec::new();
        }
        let rows = SHARE_ROWS.min(total / (2 * threads)).max(SHARE_LEAST);
        let mut shares = Vec::new();
        let mut first = group.start;
        while first < group.end {
            let end = batch.group(first..group.end, rows);
            shares.push(first..end);
            first = end;
        }
        shares
    }

    /// Runs shares on threads of their own; their states are put together in `work.x`.
    fn apart(
        &mut self,
        s: &spec::Stack,
        w: &StackWeights,
        batch: &Batch<'_>,
        shares: &[Range<usize>],
        kv_type: KvType,
    ) -> Result<()> {
        let (first, last) = (shares[0].start, shares[shares.len() - 1].end);
        let (base, width) = (batch.starts[first], s.output_width());
        self.work.apart.resize_with(self.team.threads().max(self.work.apart.len()), Mutex::default);
        let mut x = std::mem::take(&mut self.work.x);
        let mut rest = sized(&mut x, (batch.starts[last] - base) * width);
        let mut places = Vec::with_capacity(shares.len());
        for share in shares {
            let (place, behind) =
                rest.split_at_mut((batch.starts[share.end] - batch.starts[share.start]) * width);
            places.push(Mutex::new(place));
            rest = behind;
        }
        let failed = Mutex::new(None);
        self.team.apart(shares.len(), &|i, thread, team| {
            let work = &mut *self.work.apart[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let share = shares[i].clone();
            match run(team, s, w, work, batch, share, kv_type, None, &mut Watching::default()) {
                Ok(()) => {
                    let to = &mut *places[i].lock().unwrap_or_else(PoisonError::into_inner);
                    to.copy_from_slice(&work.x[..to.len()]);
                }
                Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        });
        drop(places);
        self.work.x = x;
        self.team.check()?;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The stack whose final states `states` and the heads use, and its weights; without an encoder's source.
    pub(super) fn last(&self) -> (&'a spec::Stack, &'a StackWeights) {
        let weights = &self.model.weights;
        let w = weights.decoder.as_ref().or(weights.encoder.as_ref()).expect("there is a stack");
        (self.model.spec.last_stack(), w)
    }

    pub(super) fn encoder(&self) -> Result<(&'a spec::Stack, &'a StackWeights)> {
        match (&self.model.spec.encoder, &self.model.weights.encoder) {
            (Some(s), Some(w)) => Ok((s, w)),
            _ => Err(missing("an encoder")),
        }
    }

    /// How many tokens may be fed behind the newest of a sequence, which makes it `length` tokens long, with the rotations
    /// that they have when they are fed one by one: some change with the length of the whole sequence.
    pub fn rotated_alike(&self, length: usize) -> usize {
        let rotaries = self.last().0.layers.iter().filter_map(|layer| layer.attention.rotary.as_ref());
        let alike = |r: &spec::Rotary| {
            let long = r.long.as_ref().and_then(|long| long.after.checked_sub(length));
            let dynamic = r.dynamic.as_ref().map(|dynamic| dynamic.original_length.saturating_sub(length));
            long.unwrap_or(usize::MAX).min(dynamic.unwrap_or(usize::MAX))
        };
        rotaries.map(alike).min().unwrap_or(usize::MAX)
    }

    /// The stack that reads text: the encoder, or a decoder alone.
    pub(super) fn reader(&self) -> (&'a spec::Stack, &'a StackWeights) {
        self.encoder().unwrap_or_else(|_| self.last())
    }

    pub(super) fn dense(
        &mut self,
        layers: &[spec::Dense],
        weights: &[DenseWeights],
        x: &[f32],
        rows: usize,
    ) -> Vec<f32> {
        let mut x = x.to_vec();
        for (spec, w) in layers.iter().zip(weights) {
            let mut out = vec![0.0; rows * spec.outputs];
            linear(
                self.team,
                &mut self.work.product,
                x.as_slice().into(),
                rows,
                &[w.linear.target(&mut out)],
            );
            activate(spec.activation, &mut out);
            if let Some(norm) = &w.norm {
                norm.normalize_in_place(self.team, &mut out, spec.outputs);
            }
            x = out;
        }
        x
    }

    /// Feeds new tokens of cached sequences to the decoder, in spans of at most [`PREFILL_ROWS`] rows together.
    /// `cache` already has room for them (`Cache::extend`). Final states of the rows that are `wanted`, in ascending order,
    /// are left for the language head.
    pub fn forward(
        &mut self,
        ids: &[u32],
        spans: &[Span],
        cache: &mut Cache,
        cross: Option<&mut Cache>,
        wanted: &[usize],
    ) -> Result<()> {
        let (s, w) = self.last();
        stack::check_ids("token id", ids, s.vocab_size)?;
        for span in spans {
            check_length(span.first + span.rows.len(), s.longest(), "the sequence")?;
        }
        stack::embed(self.team, s, w, &mut *self.work, ids, None, spans);
        stack::layers(
            self.team,
            s,
            w,
            &mut *self.work,
            spans,
            cache,
            cross,
            Some(wanted),
            &mut Watching::default(),
        )
    }
}

/// Runs a stack over some whole sequences; final states are left in `work.x`.
fn run(
    team: &Team<'_>,
    s: &spec::Stack,
    w: &StackWeights,
    work: &mut Workspace,
    batch: &Batch<'_>,
    group: Range<usize>,
    kv_type: KvType,
    cross: Option<&mut Cache>,
    watching: &mut Watching,
) -> Result<()> {
    // Stacks of a model do not move.
    let stack = std::ptr::from_ref(s).addr();
    let mut cache = match work.passing.take() {
        Some((of, cache)) if of == stack => cache,
        _ => Cache::passing(s, kv_type),
    };
    cache.clear();
    let base = batch.starts[group.start];
    let range = base..batch.starts[group.end];
    let mut spans = Vec::new();
    for i in group {
        let (from, to) = (batch.starts[i], batch.starts[i + 1]);
        let sequence = cache.start();
        cache.extend(sequence, to - from)?;
        let source_length = cross.as_deref().map_or(0, |c| c.length(i));
        let rows = from - base..to - base;
        spans.push(Span { sequence, total: to - from, rows, first: 0, source: i, source_length });
    }
    let segments = batch.segments.map(|t| &t[range.clone()]);
    stack::embed(team, s, w, work, &batch.ids[range], segments, &spans);
    stack::layers(team, s, w, work, &spans, &mut cache, cross, None, watching)?;
    work.passing = Some((stack, cache)).filter(|(_, cache)| cache.bytes() <= KEPT);
    Ok(())
}

/// Refuses infinite values and not-a-number: any makes the sum of squares so. `kv` is what they may have been lost in.
pub(super) fn finite(x: &[f32], what: &str, kv: KvType) -> Result<()> {
    if !crate::simd::sum_of_squares(x).is_finite()
        && let Some(v) = x.iter().find(|v| !v.is_finite())
    {
        let cached = match kv {
            KvType::F16 => {
                ", or to cached keys and values beyond 65504, which f16 cannot: kv_cache=\"f32\" can"
            }
            KvType::F32 | KvType::Q8 => "",
        };
        return Err(Error::Numerical(format!(
            "{what} is {v}: the weights or the input lead to values that f32 cannot hold{cached}"
        )));
    }
    Ok(())
}
