//! One step of a batch: logits of the newest tokens, the choice among them, the beams' move.

use super::beam::{Candidate, Search};
use super::options::Options;
use super::process::{self, Context, Custom};
use super::{Event, LENGTH, STOP, Stream, sample};
use crate::error::{Error, Result};
use crate::model::{Cache, PREFILL_ROWS, SequenceId, Session, Span};
use crate::simd::sum_of_squares;
use crate::threads::Team;
use std::sync::Arc;
use std::sync::OnceLock;

/// Tokens that a running sequence is fed: its newest one, and guesses of what follows.
pub(super) struct Row {
    pub tokens: Vec<u32>,
    pub sequence: SequenceId,
    pub source: usize,
}

/// Takes logits `[tokens, vocab]`, and of each token the row of the list and its place there.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Team<'_>, &[(usize, usize)], &mut [f32]) -> Result<()>;

/// Feeds tokens to some sequences; `take` gets the logits after every token, or after the last of a sequence alone.
pub(super) fn feed(
    s: &mut Session<'_>,
    rows: &[Row],
    cache: &mut Cache,
    mut cross: Option<&mut Cache>,
    last_only: bool,
    take: Take<'_>,
) -> Result<()> {
    let (mut ids, mut spans, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    // (row, first token) of the next piece: long rows are fed in pieces.
    let (mut row, mut from) = (0, 0);
    while row < rows.len() {
        ids.clear();
        spans.clear();
        wanted.clear();
        while row < rows.len() && ids.len() < PREFILL_ROWS {
            let Row { tokens, sequence, source } = &rows[row];
            let to = tokens.len().min(from + PREFILL_ROWS - ids.len());
            let first = cache.length(*sequence);
            cache.extend(*sequence, to - from)?;
            spans.push(Span {
                sequence: *sequence,
                rows: ids.len()..ids.len() + to - from,
                first,
                total: first + to - from,
                source: *source,
                source_length: cross.as_deref().map_or(0, |c| c.length(*source)),
            });
            let least = if last_only { tokens.len() - 1 } else { 0 };
            for place in from.max(least)..to {
                wanted.push((ids.len() + place - from, row, place));
            }
            ids.extend_from_slice(&tokens[from..to]);
            (row, from) = if to == tokens.len() { (row + 1, 0) } else { (row, to) };
        }
        s.forward(&ids, &spans, cache, cross.as_deref_mut())?;
        let places: Vec<usize> = wanted.iter().map(|w| w.0).collect();
        let tokens: Vec<(usize, usize)> = wanted.iter().map(|w| (w.1, w.2)).collect();
        s.with_logits(&places, &mut |team, logits| take(team, &tokens, logits))?;
    }
    Ok(())
}

/// `f(row, its logits)` of each row of `logits: [rows, vocab]`; on all threads where no function of the caller's is asked.
pub(super) fn each_row<T: Send + Sync>(
    team: &Team<'_>,
    rows: usize,
    logits: &mut [f32],
    custom: bool,
    f: &(dyn Fn(usize, &mut [f32]) -> Result<T> + Sync),
) -> Result<Vec<T>> {
    let vocab = (logits.len() / rows.max(1)).max(1);
    if custom || rows < 2 {
        return logits.chunks_mut(vocab).enumerate().map(|(i, logits)| f(i, logits)).collect();
    }
    let found: Vec<OnceLock<Result<T>>> = (0..rows).map(|_| OnceLock::new()).collect();
    team.run_mut(logits, vocab, &|i, logits, _| {
        // Nobody else sets it: each row is one chunk.
        let _ = found[i].set(f(i, logits));
    });
    found.into_iter().map(|found| found.into_inner().unwrap_or(Err(Error::Interrupted))).collect()
}

/// A token, its log-probability and the likeliest ones with theirs, where asked for.
pub(super) struct Choice {
    token: u32,
    logprob: f32,
    top: Vec<(u32, f32)>,
}

/// Chooses the next token of a stream.
pub(super) fn choose(
    o: &Options,
    stream: &Stream,
    number: usize,
    source: &[u32],
    logits: &mut [f32],
    custom: Option<Custom<'_>>,
) -> Result<Choice> {
    let (mut logprob, mut top) = (0.0, Vec::new());
    let mut normalizer = 0.0;
    let scored = o.logprobs || o.top_logprobs > 0;
    if scored {
        normalizer = sample::log_sum_exp(logits);
        top = sample::top(logits, o.top_logprobs).into_iter().map(|(id, v)| (id, v - normalizer)).collect();
    }
    let changed = process::needed(o, custom.is_some());
    let plain = (scored && changed).then(|| logits.to_vec());
    if changed {
        let context =
            Context { ids: &stream.ids, prompt: stream.prompt, max_length: stream.max_length, source };
        process::process(o, &context, logits, custom)?;
        check(logits)?;
    }
    let token = if o.temperature == 0.0 {
        sample::argmax(logits)
    } else {
        let u = sample::uniform(o.seed, number, stream.ids.len() - stream.prompt);
        sample::sample(o, logits, u)
    };
    if scored {
        logprob = plain.as_deref().unwrap_or(logits)[token as usize] - normalizer;
    }
    Ok(Choice { token, logprob, top })
}

impl Stream {
    /// Takes the chosen token, and ends where it must.
    pub(super) fn take(&mut self, o: &Options, number: usize, choice: Choice) -> Event {
        let Choice { token, logprob, top } = choice;
        self.score += logprob;
        self.ids.push(token);
        if o.ends(token) {
            self.reason = Some(STOP.to_owned());
        } else if self.ids.len() >= self.max_length {
            self.reason = Some(LENGTH.to_owned());
        }
        Event { sequence: number, token, logprob, top }
    }
}

/// An error where processing has left nothing to choose from.
fn check(logits: &[f32]) -> Result<()> {
    // Squares of infinities add up to infinity: only not-a-number makes the sum so.
    if sum_of_squares(logits).is_nan() {
        return Err(Error::Numerical("a processed logit is not a number".to_owned()));
    }
    if logits.iter().all(|&v| v == f32::NEG_INFINITY) {
        return Err(Error::Option(
            "the generation options forbid every token at this step: loosen suppress_tokens, bad_words_ids or the n-gram sizes".to_owned(),
        ));
    }
    Ok(())
}

/// The best continuations of one beam.
pub(super) fn continuations(
    o: &Options,
    search: &Search,
    beam: usize,
    source: &[u32],
    logits: &mut [f32],
    custom: Option<Custom<'_>>,
) -> Result<Vec<Candidate>> {
    let running = &search.running[beam];
    let normalizer = sample::log_sum_exp(logits);
    let mut shift = normalizer;
    let plain = (o.logprobs || o.top_logprobs > 0).then(|| {
        let top =
            sample::top(logits, o.top_logprobs).into_iter().map(|(id, v)| (id, v - normalizer)).collect();
        (logits.to_vec(), Arc::new(top))
    });
    if process::needed(o, custom.is_some()) {
        // The reference processes log-probabilities here, not logits.
        logits.iter_mut().for_each(|v| *v -= normalizer);
        shift = 0.0;
        let context =
            Context { ids: &running.ids, prompt: search.prompt(), max_length: search.max_length(), source };
        process::process(o, &context, logits, custom)?;
        check(logits)?;
        if o.renormalize_logits {
            shift = sample::log_sum_exp(logits);
        }
    }
    let best = sample::top(logits, Search::width(o)).into_iter();
    let candidate = |(token, v): (u32, f32)| Candidate {
        beam,
        token,
        score: (v - shift) + running.score,
        scored: plain.as_ref().map(|(logits, top)| (logits[token as usize] - normalizer, Arc::clone(top))),
    };
    Ok(best.map(candidate).collect())
}

/// One step of a search: the beams' cached sequences follow their parents.
pub(super) fn advance_beams(
    o: &Options,
    search: &mut Search,
    sequences: &mut Vec<SequenceId>,
    candidates: &mut Vec<Candidate>,
    cache: &mut Cache,
) {
    candidates
        .sort_by(|a, b| b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)).then(a.token.cmp(&b.token)));
    candidates.truncate(Search::width(o));
    let parents = search.step(candidates, o);
    let next = parents.iter().map(|&(beam, _)| cache.fork(sequences[beam])).collect();
    for &old in sequences.iter() {
        cache.release(old);
    }
    *sequences = next;
    if search.over {
        for &id in sequences.iter() {
            cache.release(id);
        }
        sequences.clear();
    }
}
