//! The choice among the scores of the next token: all logits of a row where they are to be changed or drawn from, else only
//! the largest. Both give the same tokens and the same log-probabilities.

use super::beam::{Candidate, Search};
use super::options::Options;
use super::process::{self, Context, Custom};
use super::{Event, LENGTH, STOP, Stream, sample};
use crate::error::{Error, Result};
use crate::ops::leaders::{Leaders, argmax, log_sum_exp, top, top_among};
use crate::simd::sum_of_squares;
use crate::threads::Team;
use std::cell::Cell;
use std::sync::{Arc, OnceLock};

/// Scores of some rows.
pub(super) enum Scores<'a> {
    /// `[rows, vocab]`
    Logits(&'a mut [f32]),
    Leaders(&'a Leaders),
}

/// Scores of one row.
pub(super) enum RowScores<'a> {
    Logits(&'a mut [f32]),
    Leaders {
        /// Tokens and logits, largest first.
        best: &'a [(u32, f32)],
        /// Sorted ids that may not be chosen.
        forbidden: &'a [u32],
        normalizer: f32,
    },
}

/// How many of the largest logits a choice needs, and whether what normalizes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leading {
    pub n: usize,
    pub normalize: bool,
}

/// Most logits of a row that are looked for one by one; beyond, storing all is faster.
const MOST: usize = 256;

/// What the choice for rows of these contexts needs if it is not all logits, and of each row the ids that may not be chosen.
pub(super) fn leading<'a>(
    o: &Options,
    vocab: usize,
    custom: bool,
    contexts: impl Iterator<Item = Context<'a>>,
) -> Option<(Leading, Vec<Vec<u32>>)> {
    let searches = o.beams > 1;
    let drawn = !searches && o.temperature > 0.0;
    if drawn || searches && o.renormalize_logits && process::needed(o, custom) {
        return None;
    }
    let least = if searches { Search::width(o) } else { 1 };
    let forbidden: Vec<Vec<u32>> =
        contexts.map(|context| process::only_forbids(o, &context, custom)).collect::<Option<_>>()?;
    // As many places as go to forbidden ids leave enough for the others.
    let with = least + forbidden.iter().map(Vec::len).max().unwrap_or(0);
    let n = with.max(o.top_logprobs);
    (with <= vocab && n <= MOST).then_some((Leading { n, normalize: searches || scored(o) }, forbidden))
}

fn scored(o: &Options) -> bool {
    o.logprobs || o.top_logprobs > 0
}

impl Scores<'_> {
    /// Scores of one row of `rows`.
    pub(super) fn row<'a>(&'a mut self, row: usize, rows: usize, forbidden: &'a [Vec<u32>]) -> RowScores<'a> {
        match self {
            Scores::Logits(logits) => {
                let vocab = logits.len() / rows;
                RowScores::Logits(&mut logits[row * vocab..(row + 1) * vocab])
            }
            Scores::Leaders(leaders) => leaders_of(leaders, row, forbidden),
        }
    }

    /// `f(row, its scores)` of each of `rows` rows; on all threads where all logits are looked at and no function of the
    /// caller's is asked.
    pub(super) fn each_row<T: Send + Sync>(
        self,
        team: &Team<'_>,
        rows: usize,
        forbidden: &[Vec<u32>],
        custom: bool,
        f: &(dyn Fn(usize, RowScores<'_>) -> Result<T> + Sync),
    ) -> Result<Vec<T>> {
        let logits = match self {
            Scores::Leaders(leaders) => {
                return (0..rows).map(|row| f(row, leaders_of(leaders, row, forbidden))).collect();
            }
            Scores::Logits(logits) => logits,
        };
        let vocab = (logits.len() / rows.max(1)).max(1);
        if custom || rows < 2 {
            let each = logits.chunks_mut(vocab).enumerate();
            return each.map(|(row, logits)| f(row, RowScores::Logits(logits))).collect();
        }
        let found: Vec<OnceLock<Result<T>>> = (0..rows).map(|_| OnceLock::new()).collect();
        team.run_mut(logits, vocab, &|row, logits, _| {
            // Nobody else sets it: each row is one chunk.
            let _ = found[row].set(f(row, RowScores::Logits(logits)));
        });
        found.into_iter().map(|found| found.into_inner().unwrap_or(Err(Error::Interrupted))).collect()
    }
}

fn leaders_of<'a>(leaders: &'a Leaders, row: usize, forbidden: &'a [Vec<u32>]) -> RowScores<'a> {
    let forbidden = forbidden.get(row).map_or(&[][..], Vec::as_slice);
    RowScores::Leaders { best: leaders.row(row), forbidden, normalizer: leaders.normalizer(row) }
}

/// Those that may be chosen; `forbidden` is sorted.
fn allowed<'a>(best: &'a [(u32, f32)], forbidden: &'a [u32]) -> impl Iterator<Item = &'a (u32, f32)> {
    best.iter().filter(|(id, _)| forbidden.binary_search(id).is_err())
}

/// The first `n` with log-probabilities in place of logits.
fn normalized(best: &[(u32, f32)], n: usize, normalizer: f32) -> Vec<(u32, f32)> {
    best.iter().take(n).map(|&(id, v)| (id, v - normalizer)).collect()
}

/// A token, its log-probability and the likeliest ones with theirs, where asked for.
pub(super) struct Choice {
    token: u32,
    logprob: f32,
    top: Vec<(u32, f32)>,
}

/// Memory that choices use again.
#[derive(Default)]
struct Memory {
    /// A row of logits before processing.
    plain: Vec<f32>,
    drawing: sample::Memory,
}

thread_local! {
    /// Memory of this thread, as large as a vocabulary.
    static MEMORY: Cell<Memory> = Cell::default();
}

/// What `f` makes with this thread's memory.
fn with_memory<T>(f: impl FnOnce(&mut Memory) -> T) -> T {
    // Taken, not borrowed: a processor of the caller's may generate with another model meanwhile.
    let mut memory = MEMORY.take();
    let result = f(&mut memory);
    MEMORY.set(memory);
    result
}

/// Makes `to` a copy of `from`.
fn copy<'a>(from: &[f32], to: &'a mut Vec<f32>) -> &'a [f32] {
    to.clear();
    to.extend_from_slice(from);
    to
}

/// Chooses the next token of a stream.
pub(super) fn choose(
    o: &Options,
    stream: &Stream,
    number: usize,
    source: &[u32],
    scores: RowScores<'_>,
    custom: Option<Custom<'_>>,
) -> Result<Choice> {
    let logits = match scores {
        RowScores::Logits(logits) => logits,
        RowScores::Leaders { best, forbidden, normalizer } => {
            let &(token, logit) = allowed(best, forbidden).next().ok_or_else(nothing_left)?;
            let (logprob, top) = if scored(o) {
                (logit - normalizer, normalized(best, o.top_logprobs, normalizer))
            } else {
                (0.0, Vec::new())
            };
            return Ok(Choice { token, logprob, top });
        }
    };
    let (mut logprob, mut likeliest) = (0.0, Vec::new());
    let mut normalizer = 0.0;
    let scored = scored(o);
    if scored {
        normalizer = log_sum_exp(logits);
        likeliest = normalized(&top(logits, o.top_logprobs), o.top_logprobs, normalizer);
    }
    let changed = process::needed(o, custom.is_some());
    let token = with_memory(|Memory { plain, drawing }| {
        let plain = (scored && changed).then(|| copy(logits, plain));
        if changed {
            process::process(o, &stream.context(source), logits, custom)?;
            check(logits)?;
        }
        let token = if o.temperature == 0.0 {
            argmax(logits)
        } else {
            let u = sample::uniform(o.seed, number, stream.ids.len() - stream.prompt);
            sample::sample(o, logits, u, drawing)
        };
        if scored {
            logprob = plain.unwrap_or(logits)[token as usize] - normalizer;
        }
        Ok(token)
    })?;
    Ok(Choice { token, logprob, top: likeliest })
}

impl Stream {
    /// What processors look at.
    pub(super) fn context<'a>(&'a self, source: &'a [u32]) -> Context<'a> {
        Context { ids: &self.ids, prompt: self.prompt, max_length: self.max_length, source }
    }

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
        return Err(nothing_left());
    }
    Ok(())
}

fn nothing_left() -> Error {
    Error::Option(
        "the generation options forbid every token at this step: loosen suppress_tokens, bad_words_ids or the n-gram sizes".to_owned(),
    )
}

/// The best continuations of one beam.
pub(super) fn continuations(
    o: &Options,
    search: &Search,
    beam: usize,
    source: &[u32],
    scores: RowScores<'_>,
    custom: Option<Custom<'_>>,
) -> Result<Vec<Candidate>> {
    let before = search.running[beam].score;
    let logits = match scores {
        RowScores::Logits(logits) => logits,
        RowScores::Leaders { best, forbidden, normalizer } => {
            let likeliest = scored(o).then(|| Arc::new(normalized(best, o.top_logprobs, normalizer)));
            let candidate = |&(token, logit): &(u32, f32)| Candidate {
                beam,
                token,
                score: (logit - normalizer) + before,
                scored: likeliest.as_ref().map(|top| (logit - normalizer, Arc::clone(top))),
            };
            return Ok(allowed(best, forbidden).take(Search::width(o)).map(candidate).collect());
        }
    };
    let normalizer = log_sum_exp(logits);
    let mut shift = normalizer;
    let likeliest =
        scored(o).then(|| Arc::new(normalized(&top(logits, o.top_logprobs), o.top_logprobs, normalizer)));
    let changed = process::needed(o, custom.is_some());
    with_memory(|Memory { plain, .. }| {
        let plain = changed.then(|| copy(logits, plain));
        if changed {
            // The reference processes log-probabilities here, not logits.
            logits.iter_mut().for_each(|v| *v -= normalizer);
            shift = 0.0;
            process::process(o, &search.context(beam, source), logits, custom)?;
            check(logits)?;
            if o.renormalize_logits {
                shift = log_sum_exp(logits);
            }
        }
        let plain = plain.unwrap_or(logits);
        let candidate = |(token, v): (u32, f32)| Candidate {
            beam,
            token,
            score: (v - shift) + before,
            scored: likeliest.as_ref().map(|top| (plain[token as usize] - normalizer, Arc::clone(top))),
        };
        Ok(best_of(logits, plain, Search::width(o)).into_iter().map(candidate).collect())
    })
}

/// The `n` best tokens of a row: by what processing has made of its logits, where that is equal by the logits themselves, as
/// without processing, and then by their ids.
fn best_of(processed: &[f32], logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut best = top(processed, n);
    if let Some(&(_, least)) = best.last() {
        // All that are as good as the last one: the whole vocabulary, where one token is forced.
        best.retain(|&(_, v)| v > least);
        let equals = (0..).zip(processed.iter().zip(logits)).filter(|(_, (v, _))| **v == least);
        let equals = top_among(equals.map(|(id, (_, &logit))| (id, logit)), n - best.len());
        best.extend(equals.into_iter().map(|(id, _)| (id, least)));
    }
    let logit = |id: u32| logits[id as usize];
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(logit(b.0).total_cmp(&logit(a.0))).then(a.0.cmp(&b.0)));
    best
}

#[cfg(test)]
mod tests {
    use super::best_of;

    #[test]
    fn equal_scores_are_told_apart_by_their_logits() {
        let (processed, logits) = ([1.0, 2.0, 2.0, 2.0, 3.0, 0.0], [9.0, 3.0, 5.0, 3.0, 1.0, 2.0]);
        assert_eq!(best_of(&processed, &logits, 3), [(4, 3.0), (2, 2.0), (1, 2.0)]);
        assert_eq!(
            best_of(&processed, &logits, 9).iter().map(|b| b.0).collect::<Vec<_>>(),
            [4, 2, 1, 3, 0, 5]
        );
        assert!(best_of(&processed, &logits, 0).is_empty());
        // A forced token leaves a vocabulary of equals.
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 263) as f32).collect();
        let mut processed = vec![f32::NEG_INFINITY; logits.len()];
        processed[77] = 0.0;
        let mut want: Vec<u32> = (0..5000).filter(|&id| id != 77).collect();
        want.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        want.insert(0, 77);
        let got: Vec<u32> = best_of(&processed, &logits, 100).iter().map(|b| b.0).collect();
        assert_eq!(got, want[..100]);
    }
}
