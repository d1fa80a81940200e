//! The choice of the next token from its scores: from all logits of a row if they are processed or sampled,
//! else from the top-k alone. Both give the same tokens and the same log-probabilities.

use super::beam_search::{Candidate, Search};
use super::options::Options;
use super::process::{self, Context};
use super::sample;
use super::sequence::{Choice, Settings};
use crate::error::{Error, Result};
use crate::ops::top_logits::{Sums, TopK, TopLogits, argmax};
use crate::simd::sum_of_squares;
use std::cell::Cell;
use std::sync::Arc;

/// Scores of one row.
pub(super) enum RowScores<'a> {
    Logits(&'a mut [f32]),
    TopLogits {
        /// Tokens and logits, largest first.
        best: &'a [(u32, f32)],
        normalizer: f32,
    },
}

impl<'a> RowScores<'a> {
    pub(super) fn of_top_logits(top_logits: &'a TopLogits, row: usize) -> RowScores<'a> {
        RowScores::TopLogits { best: top_logits.row(row), normalizer: top_logits.normalizer(row) }
    }
}

/// The k of the top-k that a choice needs, and whether it needs the log-sum-exp.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Leading {
    pub n: usize,
    pub normalize: bool,
}

impl Leading {
    /// The maximum of both needs.
    pub(super) fn with(self, other: Leading) -> Leading {
        Leading { n: self.n.max(other.n), normalize: self.normalize || other.normalize }
    }
}

/// Maximum k of a top-k; beyond, storing all logits is faster.
const MAX_LEADING: usize = 256;

/// The top-k that the choice for a row needs, and in `forbidden` the sorted ids that it must not choose;
/// `None` if it needs all logits. Guesses that are not confirmed yet have no context: then no option may
/// forbid tokens.
pub(super) fn leading(
    settings: &Settings,
    context: Option<&Context<'_>>,
    vocab: usize,
    forbidden: &mut Vec<u32>,
) -> Option<Leading> {
    forbidden.clear();
    let (o, processor) = (&settings.options, settings.processor.is_some());
    let searches = o.beams > 1;
    let drawn = !searches && o.temperature > 0.0;
    if drawn || searches && o.renormalize_logits && process::needed(o, processor) {
        return None;
    }
    let known = match context {
        Some(context) => process::only_forbids(o, context, processor, forbidden),
        None => !process::needed(o, processor),
    };
    if !known {
        return None;
    }
    // Enough for the choice even if all forbidden ids are among the top-k.
    let with = forbidden.len() + if searches { Search::width(o) } else { 1 };
    let n = with.max(o.top_logprobs);
    (with <= vocab && n <= MAX_LEADING).then_some(Leading { n, normalize: searches || scored(o) })
}

fn scored(o: &Options) -> bool {
    o.logprobs || o.top_logprobs > 0
}

/// The allowed entries; `forbidden` is sorted.
fn allowed<'a>(best: &'a [(u32, f32)], forbidden: &'a [u32]) -> impl Iterator<Item = &'a (u32, f32)> {
    best.iter().filter(|(id, _)| forbidden.binary_search(id).is_err())
}

/// The first `n` with log-probabilities in place of logits.
fn normalized<L: FromIterator<(u32, f32)>>(best: &[(u32, f32)], n: usize, normalizer: f32) -> L {
    best[..n.min(best.len())].iter().map(|&(id, v)| (id, v - normalizer)).collect()
}

/// Reused memory of choices.
#[derive(Default)]
struct Scratch {
    /// A row of logits before processing.
    plain: Vec<f32>,
    best: TopK,
    chosen: Vec<(u32, f32)>,
    sums: Sums,
    sorted: Vec<u32>,
    drawing: sample::Scratch,
}

thread_local! {
    /// Scratch of this thread; grows to the size of the vocabulary.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Calls `f` with the scratch of this thread.
fn with_scratch<T>(f: impl FnOnce(&mut Scratch) -> T) -> T {
    // Taken, not borrowed: the caller's processor may generate with another model meanwhile.
    let mut scratch = SCRATCH.take();
    let result = f(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// Makes `to` a copy of `from`.
fn copy<'a>(from: &[f32], to: &'a mut Vec<f32>) -> &'a [f32] {
    to.clear();
    to.extend_from_slice(from);
    to
}

/// Chooses the next token of a stream, which is the call's sequence `number`.
pub(super) fn choose(
    settings: &Settings,
    context: &Context<'_>,
    number: usize,
    forbidden: &[u32],
    scores: RowScores<'_>,
) -> Result<Choice> {
    let o = &settings.options;
    let scored = scored(o);
    let logits = match scores {
        RowScores::Logits(logits) => logits,
        RowScores::TopLogits { best, normalizer } => {
            let &(token, logit) = allowed(best, forbidden).next().ok_or_else(nothing_left)?;
            if !scored {
                return Ok(Choice { token, ..Choice::default() });
            }
            let top = normalized(best, o.top_logprobs, normalizer);
            return Ok(Choice { token, logprob: logit - normalizer, top });
        }
    };
    let changed = process::needed(o, settings.processor.is_some());
    with_scratch(|Scratch { plain, best, sums, sorted, drawing, .. }| {
        let mut choice = Choice::default();
        let mut normalizer = 0.0;
        if scored {
            normalizer = sums.log_sum_exp(logits);
            choice.top = normalized(best.of(logits, o.top_logprobs), o.top_logprobs, normalizer);
        }
        let plain = (scored && changed).then(|| copy(logits, plain));
        if changed {
            process::process(o, context, logits, settings.processor(), sorted)?;
            check(logits)?;
        }
        choice.token = if o.temperature == 0.0 {
            argmax(logits)
        } else {
            let number = settings.row.unwrap_or(0) * o.samples + number;
            let u = sample::uniform(o.seed, number, context.ids.len() - context.prompt);
            sample::sample(o, logits, u, drawing)
        };
        if scored {
            choice.logprob = plain.unwrap_or(logits)[choice.token as usize] - normalizer;
        }
        Ok(choice)
    })
}

/// An error if processing has left no token to choose from.
fn check(logits: &[f32]) -> Result<()> {
    // The sum of squares is NaN only if a logit is NaN.
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

/// Makes `found` the best continuations of one beam.
pub(super) fn continuations(
    settings: &Settings,
    context: &Context<'_>,
    (beam, before): (usize, f32),
    forbidden: &[u32],
    scores: RowScores<'_>,
    found: &mut Vec<Candidate>,
) -> Result<()> {
    let o = &settings.options;
    found.clear();
    let logits = match scores {
        RowScores::Logits(logits) => logits,
        RowScores::TopLogits { best, normalizer } => {
            let top_tokens: Option<Arc<[_]>> =
                scored(o).then(|| normalized(best, o.top_logprobs, normalizer));
            let candidate = |(rank, &(token, logit)): (usize, &(u32, f32))| Candidate {
                beam,
                rank,
                token,
                score: (logit - normalizer) + before,
                scored: top_tokens.as_ref().map(|top| (logit - normalizer, Arc::clone(top))),
            };
            found.extend(allowed(best, forbidden).take(Search::width(o)).enumerate().map(candidate));
            return Ok(());
        }
    };
    let changed = process::needed(o, settings.processor.is_some());
    with_scratch(|Scratch { plain, best, chosen, sums, sorted, .. }| {
        let normalizer = sums.log_sum_exp(logits);
        let mut shift = normalizer;
        let top_tokens: Option<Arc<[_]>> =
            scored(o).then(|| normalized(best.of(logits, o.top_logprobs), o.top_logprobs, normalizer));
        let plain = changed.then(|| copy(logits, plain));
        if changed {
            // The reference processes log-probabilities here, not logits.
            logits.iter_mut().for_each(|v| *v -= normalizer);
            shift = 0.0;
            process::process(o, context, logits, settings.processor(), sorted)?;
            check(logits)?;
            if o.renormalize_logits {
                shift = sums.log_sum_exp(logits);
            }
        }
        let plain = plain.unwrap_or(logits);
        choose_best(logits, plain, Search::width(o), best, chosen);
        found.extend(chosen.iter().enumerate().map(|(rank, &(token, v))| Candidate {
            beam,
            rank,
            token,
            score: (v - shift) + before,
            scored: top_tokens.as_ref().map(|top| (plain[token as usize] - normalizer, Arc::clone(top))),
        }));
        Ok(())
    })
}

/// Makes `chosen` the `n` best tokens of a row, ordered by processed logit, then by original logit, then by
/// id.
fn choose_best(processed: &[f32], logits: &[f32], n: usize, best: &mut TopK, chosen: &mut Vec<(u32, f32)>) {
    chosen.clear();
    chosen.extend_from_slice(best.of(processed, n));
    if let Some(&(_, least)) = chosen.last() {
        // All ties with the last one: the whole vocabulary if one token is forced.
        chosen.retain(|&(_, v)| v > least);
        let equals = (0..).zip(processed.iter().zip(logits)).filter(|(_, (v, _))| **v == least);
        let equals = best.among(equals.map(|(id, (_, &logit))| (id, logit)), n - chosen.len());
        chosen.extend(equals.iter().map(|&(id, _)| (id, least)));
    }
    let logit = |id: u32| logits[id as usize];
    chosen.sort_unstable_by(|a, b| {
        b.1.total_cmp(&a.1).then(logit(b.0).total_cmp(&logit(a.0))).then(a.0.cmp(&b.0))
    });
}

#[cfg(test)]
mod tests {
    use super::choose_best;
    use crate::ops::top_logits::TopK;

    fn best_of(processed: &[f32], logits: &[f32], n: usize) -> Vec<(u32, f32)> {
        let mut chosen = Vec::new();
        choose_best(processed, logits, n, &mut TopK::default(), &mut chosen);
        chosen
    }

    #[test]
    fn equal_scores_are_told_apart_by_their_logits() {
        let (processed, logits) = ([1.0, 2.0, 2.0, 2.0, 3.0, 0.0], [9.0, 3.0, 5.0, 3.0, 1.0, 2.0]);
        assert_eq!(best_of(&processed, &logits, 3), [(4, 3.0), (2, 2.0), (1, 2.0)]);
        assert_eq!(
            best_of(&processed, &logits, 9).iter().map(|b| b.0).collect::<Vec<_>>(),
            [4, 2, 1, 3, 0, 5]
        );
        assert!(best_of(&processed, &logits, 0).is_empty());
        // With a forced token all others are ties.
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
