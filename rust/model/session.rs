//! A session, the exclusive use of a model by a caller: runs its stacks.

use super::cache::Cache;
use super::loaded::{Batch, ENCODER_ROWS, Model, SHARED_ROWS, missing};
use super::rows::Span;
use super::spec;
use super::stack::{Caches, Capture, Rows, Scratch, Stack};
use super::stem::Input;
use super::walk::Linear;
use super::weights::{HeadLayer, Residual};
use crate::error::{Error, Result};
use crate::matmul::linear;
use crate::ops::kv::KvType;
use crate::ops::pool::normalize_length;
use crate::simd::activate;
use crate::tensor::sized;
use crate::threads::{Hook, Team};
use std::ops::Range;
use std::sync::{Mutex, PoisonError, TryLockError};

/// Maximum bytes of logits, or of keys and values, that are retained for the next call.
pub(super) const MAX_RETAINED_BYTES: usize = 64 << 20;
/// Minimum number of rows of a share that a thread runs by itself.
const MIN_SHARE_ROWS: usize = 32;
/// Target number of rows of a share: enough to amortize the reads of the weights, few enough that the rows
/// stay in the thread's own cache.
const SHARE_ROWS: usize = 128;

/// The exclusive use of a model by a caller.
pub struct Session<'a> {
    pub(super) model: &'a Model,
    pub team: &'a Team<'a>,
    pub(super) scratch: &'a mut Scratch,
}

fn check_length(length: usize, longest: usize, what: &str) -> Result<()> {
    if length > longest {
        return Err(Error::ContextLength(format!(
            "{what} has {length} tokens: this model takes at most {longest}; shorten or split it"
        )));
    }
    Ok(())
}

impl Model {
    /// Waits for this caller's turn and runs `body`; `hook` is polled for interruption.
    pub fn session<R>(&self, hook: Hook<'_>, body: impl FnOnce(&mut Session<'_>) -> Result<R>) -> Result<R> {
        self.pool.enter(hook, |team| self.with(team, body))
    }

    /// Whether the calling thread is inside a session.
    pub fn held_by_this_thread(&self) -> bool {
        self.pool.held_by_this_thread()
    }

    /// [`Model::session`], or `None` if another caller has the model: callers that hold one model and wait
    /// for another could deadlock.
    pub fn session_if_free<R>(
        &self,
        hook: Hook<'_>,
        body: impl FnOnce(&mut Session<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.pool.enter_if_free(hook, |team| self.with(team, body))
    }

    fn with<R>(&self, team: &Team<'_>, body: impl FnOnce(&mut Session<'_>) -> Result<R>) -> Result<R> {
        let mut own = Scratch::default();
        // In a forked child the lock may be held by a thread that does not exist there.
        let mut guard = match self.scratch.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => None,
        };
        let scratch = guard.as_deref_mut().unwrap_or(&mut own);
        body(&mut Session { model: self, team, scratch })
    }
}

impl<'a> Session<'a> {
    fn check(&self, s: &spec::Stack, batch: &Batch<'_>) -> Result<()> {
        if batch.unseen.is_some() && !s.bodies().all(spec::Body::hides_tokens) {
            return Err(Error::Option(
                "tokens that are not attended to need layers of attention and feed-forward networks"
                    .to_owned(),
            ));
        }
        s.stem.check(Input { ids: batch.ids, segments: batch.segments })?;
        for (i, pair) in batch.starts.windows(2).enumerate() {
            if pair[0] >= pair[1] {
                return Err(Error::Option(format!("sequence {i} is empty: expected at least one token")));
            }
            check_length(pair[1] - pair[0], s.longest(), &format!("sequence {i}"))?;
            if batch.unseen.is_some_and(|counts| counts[i] >= pair[1] - pair[0]) {
                return Err(Error::Option(format!(
                    "sequence {i} has no visible token: expected at least one"
                )));
            }
        }
        Ok(())
    }

    /// Runs a stack over whole sequences in groups of some thousand rows; calls `each` with the states of a
    /// group, `[rows, width]`, and the range of its sequences.
    pub(super) fn run_whole(
        &mut self,
        (s, stack): (&spec::Stack, &Stack),
        batch: &Batch<'_>,
        mut sources: Option<&mut Cache>,
        capture: &mut Capture,
        each: &mut dyn FnMut(&mut Session<'_>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        self.check(s, batch)?;
        let decodes = self.model.spec.decoder.as_ref().is_some_and(|d| std::ptr::eq(d, s));
        let kv_type = if decodes { self.model.kv_type } else { KvType::F32 };
        let whole = Whole { spec: s, stack, batch, kv_type };
        let mut first = 0;
        while first < batch.len() {
            let per_thread = sources.is_none() && capture.is_idle();
            let end = batch.group(first..batch.len(), if per_thread { SHARED_ROWS } else { ENCODER_ROWS });
            let shares = if per_thread { self.shares(batch, first..end) } else { Vec::new() };
            if shares.len() > 1 {
                self.run_per_thread(&whole, &shares)?;
            } else {
                whole.run(self.team, self.scratch, first..end, sources.as_deref_mut(), capture)?;
            }
            let mut session = Session { model: self.model, team: self.team, scratch: &mut *self.scratch };
            each(&mut session, first..end)?;
            first = end;
        }
        Ok(())
    }

    /// Cuts sequences into shares that threads run independently, without common regions and with the rows in
    /// their own caches; empty if there are too few rows.
    fn shares(&self, batch: &Batch<'_>, group: Range<usize>) -> Vec<Range<usize>> {
        let threads = self.team.threads();
        let total = batch.starts[group.end] - batch.starts[group.start];
        if total < 2 * MIN_SHARE_ROWS * threads {
            return Vec::new();
        }
        let rows = SHARE_ROWS.min(total / (2 * threads)).max(MIN_SHARE_ROWS);
        let mut shares = Vec::new();
        let mut first = group.start;
        while first < group.end {
            let end = batch.group(first..group.end, rows);
            shares.push(first..end);
            first = end;
        }
        shares
    }

    /// Runs each share on one thread; gathers their states in `scratch.blocks.x`.
    fn run_per_thread(&mut self, whole: &Whole<'_>, shares: &[Range<usize>]) -> Result<()> {
        let starts = whole.batch.starts;
        let (first, last) = (shares[0].start, shares[shares.len() - 1].end);
        let (base, width) = (starts[first], whole.spec.output_width());
        let Scratch { blocks, per_thread, .. } = &mut *self.scratch;
        per_thread.resize_with(self.team.threads().max(per_thread.len()), Mutex::default);
        let per_thread = &*per_thread;
        let mut rest = sized(&mut blocks.x, (starts[last] - base) * width);
        let mut places = Vec::with_capacity(shares.len());
        for share in shares {
            let (place, behind) = rest.split_at_mut((starts[share.end] - starts[share.start]) * width);
            places.push(Mutex::new(place));
            rest = behind;
        }
        let failed = Mutex::new(None);
        self.team.per_thread(shares.len(), &|i, thread, team| {
            let scratch = &mut *per_thread[thread].lock().unwrap_or_else(PoisonError::into_inner);
            match whole.run(team, scratch, shares[i].clone(), None, &mut Capture::default()) {
                Ok(()) => {
                    let to = &mut *places[i].lock().unwrap_or_else(PoisonError::into_inner);
                    to.copy_from_slice(&scratch.blocks.x[..to.len()]);
                }
                Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        });
        self.team.check()?;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The stack whose final states `states` and the heads use, and its weights.
    pub(super) fn last(&self) -> (&'a spec::Stack, &'a Stack) {
        let weights = &self.model.weights;
        let w = weights.decoder.as_ref().or(weights.encoder.as_ref()).expect("there is a stack");
        (self.model.spec.last_stack(), w)
    }

    pub(super) fn encoder(&self) -> Result<(&'a spec::Stack, &'a Stack)> {
        match (&self.model.spec.encoder, &self.model.weights.encoder) {
            (Some(s), Some(w)) => Ok((s, w)),
            _ => Err(missing("an encoder")),
        }
    }

    /// Maximum number of tokens that may be fed at once, up to a length of `length`, with the rotations of
    /// tokens fed one by one.
    pub fn rotated_alike(&self, length: usize) -> usize {
        let rotaries = self.last().0.bodies().filter_map(spec::Body::rotary);
        rotaries.map(|rotary| rotary.unchanged_for(length)).min().unwrap_or(usize::MAX)
    }

    /// The stack that reads text: the encoder, or a decoder alone.
    pub(super) fn reader(&self) -> (&'a spec::Stack, &'a Stack) {
        self.encoder().unwrap_or_else(|_| self.last())
    }

    fn product(&mut self, weights: &Linear, x: &[f32], rows: usize) -> Vec<f32> {
        let mut out = vec![0.0; rows * weights.weight.outputs()];
        let target = [weights.target(&mut out)];
        linear(self.team, &mut self.scratch.blocks.product, x.into(), rows, &target);
        out
    }

    /// The layers of a head, one after the other, over `rows` rows.
    pub(super) fn head_layers(&mut self, layers: &[HeadLayer], mut x: Vec<f32>, rows: usize) -> Vec<f32> {
        for layer in layers {
            let width = x.len() / rows.max(1);
            match layer {
                HeadLayer::Dense { linear, activation, residual, norm } => {
                    let mut out = self.product(linear, &x, rows);
                    activate(*activation, &mut out);
                    let added = match residual {
                        Residual::Nothing => Vec::new(),
                        Residual::Input => x,
                        Residual::Projection(projection) => self.product(projection, &x, rows),
                    };
                    for (o, v) in out.iter_mut().zip(added) {
                        *o += v;
                    }
                    if let Some(norm) = norm {
                        norm.normalize_in_place(self.team, &mut out, linear.weight.outputs());
                    }
                    x = out;
                }
                HeadLayer::Norm(norm) => norm.normalize_in_place(self.team, &mut x, width),
                HeadLayer::UnitLength => x.chunks_mut(width.max(1)).for_each(normalize_length),
            }
        }
        x
    }

    /// Feeds new tokens of cached sequences to the decoder, in spans of at most
    /// [`PREFILL_ROWS`](super::PREFILL_ROWS) rows together. The caches must have room for them
    /// ([`Cache::extend`]); the step is committed here. Final states of the rows `wanted`, in ascending
    /// order, are left for the language head.
    pub fn forward(
        &mut self,
        ids: &[u32],
        spans: &[Span],
        cache: &mut Cache,
        sources: Option<&mut Cache>,
        wanted: &[usize],
    ) -> Result<()> {
        let (s, stack) = self.last();
        let input = Input { ids, segments: None };
        s.stem.check(input)?;
        for span in spans {
            check_length(span.first + span.rows.len(), s.longest(), "the sequence")?;
        }
        stack.embed(self.team, self.scratch, input, spans);
        let rows = Rows { spans, wanted: Some(wanted) };
        let mut caches = Caches { own: cache, sources };
        stack.forward(self.team, self.scratch, rows, &mut caches, &mut Capture::default())?;
        cache.commit(spans.iter().map(|span| span.sequence));
        Ok(())
    }
}

/// Whole sequences of a batch.
struct Whole<'a> {
    spec: &'a spec::Stack,
    stack: &'a Stack,
    batch: &'a Batch<'a>,
    kv_type: KvType,
}

impl Whole<'_> {
    /// Runs some sequences; final states are left in `scratch.blocks.x`.
    fn run(
        &self,
        team: &Team<'_>,
        scratch: &mut Scratch,
        group: Range<usize>,
        sources: Option<&mut Cache>,
        capture: &mut Capture,
    ) -> Result<()> {
        let batch = self.batch;
        // The address identifies the stack: stacks of a model do not move.
        let address = std::ptr::from_ref(self.stack).addr();
        let mut cache = match scratch.cache.take() {
            Some((of, cache)) if of == address => cache,
            _ => Cache::scratch(self.stack.layout(), self.kv_type),
        };
        cache.clear();
        let base = batch.starts[group.start];
        let range = base..batch.starts[group.end];
        let mut spans = Vec::new();
        for i in group {
            let (from, to) = (batch.starts[i], batch.starts[i + 1]);
            let sequence = cache.start();
            cache.extend(sequence, to - from)?;
            let source_length = sources.as_deref().map_or(0, |c| c.length(i));
            let rows = from - base..to - base;
            let unseen = batch.unseen.map_or(0, |counts| counts[i]);
            spans.push(Span { sequence, total: to - from, rows, first: 0, source: i, source_length, unseen });
        }
        let segments = batch.segments.map(|t| &t[range.clone()]);
        self.stack.embed(team, scratch, Input { ids: &batch.ids[range], segments }, &spans);
        let mut caches = Caches { own: &mut cache, sources };
        self.stack.forward(team, scratch, Rows { spans: &spans, wanted: None }, &mut caches, capture)?;
        scratch.cache = Some((address, cache)).filter(|(_, cache)| cache.bytes() <= MAX_RETAINED_BYTES);
        Ok(())
    }
}

/// Refuses infinite values and NaN, which make the sum of squares infinite or NaN. `kv` may be the reason:
/// f16 overflows.
pub(super) fn finite(x: &[f32], what: &str, kv: KvType) -> Result<()> {
    if !crate::simd::sum_of_squares(x).is_finite()
        && let Some(v) = x.iter().find(|v| !v.is_finite())
    {
        let cached = match kv {
            KvType::F16 => {
                ", or to cached keys and values beyond 65504, the maximum of f16: use kv_cache=\"f32\""
            }
            KvType::F32 | KvType::Q8 => "",
        };
        return Err(Error::Numerical(format!(
            "{what} is {v}: the weights or the input lead to values beyond the range of f32{cached}"
        )));
    }
    Ok(())
}
