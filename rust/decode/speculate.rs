//! Speculative decoding: guesses of the next tokens, which the model verifies in one pass. Leviathan et al.
//! 2022, <https://arxiv.org/abs/2211.17192>.
//!
//! Guesses come from the text itself (prompt lookup: what followed an earlier occurrence of the last tokens,
//! Saxena 2023, <https://github.com/apoorvumang/prompt-lookup-decoding>) or from a smaller model of the same
//! vocabulary. They only change how many rows a step computes: each token is chosen from the model's own
//! logits, which have the same bits for any number of rows, and with the random number of its own step. So
//! the result is the same as without speculation, token for token, also when sampling.

use super::feed::Feed;
use crate::error::{Error, Result};
use crate::model::{Cache, Model, SequenceId, Session};
use crate::threads::Hook;
use std::ops::Range;
use std::sync::Arc;

/// At most `max` tokens that followed the latest earlier occurrence of the last `ngram` tokens or fewer in
/// `ids`, else in `source`.
pub fn lookup<'a>(ids: &'a [u32], source: &'a [u32], ngram: usize, max: usize) -> &'a [u32] {
    for n in (1..=ngram.min(ids.len())).rev() {
        let (before, last) = ids.split_at(ids.len() - n);
        // A match must have a next token, and may overlap the last tokens.
        let own = (0..before.len()).rev().find(|&i| &ids[i..i + n] == last).map(|i| &ids[i + n..]);
        let found = own.or_else(|| {
            let at = source.windows(n).rposition(|window| window == last)?;
            Some(&source[at + n..])
        });
        if let Some(next) = found.filter(|next| !next.is_empty()) {
            return &next[..next.len().min(max)];
        }
    }
    &[]
}

/// A sequence whose next tokens are guessed.
pub(super) struct Wanted<'a> {
    /// Index in the call.
    pub sequence: usize,
    pub ids: &'a [u32],
    pub max: usize,
}

/// A smaller model that guesses tokens for the sequences of a call.
pub(super) struct Draft {
    model: Arc<Model>,
    cache: Cache,
    /// By index of the call's sequence.
    sequences: Vec<Option<SequenceId>>,
    feed: Feed,
}

impl Draft {
    /// # Errors
    /// The draft model cannot guess for `model`.
    pub fn new(model: &Model, draft: Arc<Model>) -> Result<Draft> {
        let wrong = |what: &str| Err(Error::Option(format!("draft_model {what}")));
        if std::ptr::eq(model, &raw const *draft) {
            return wrong("is the model itself: expected a smaller model");
        }
        if model.spec().encoder.is_some() || draft.spec().encoder.is_some() {
            return wrong("or the model has an encoder: expected two decoders");
        }
        let (own, other) = (model.vocab_size()?, draft.vocab_size()?);
        if own != other {
            return wrong(&format!("has a vocabulary of {other} tokens: expected {own}, as the model has"));
        }
        let cache = draft.cache(false)?;
        Ok(Draft { model: draft, cache, sequences: Vec::new(), feed: Feed::default() })
    }

    /// The most probable next tokens of each sequence under the draft model; none while another call uses
    /// that model: waiting for one model while holding another could deadlock with a call that does the
    /// reverse.
    pub fn propose(&mut self, hook: Hook<'_>, wanted: &[Wanted<'_>]) -> Result<Vec<Vec<u32>>> {
        let longest = self.model.longest();
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); wanted.len()];
        let sequences = wanted.iter().map(|w| w.sequence + 1).max().unwrap_or(0);
        self.sequences.resize(sequences.max(self.sequences.len()), None);
        let Draft { model, cache, sequences, feed } = self;
        let asked = model.session_if_free(hook, |s| {
            loop {
                // All tokens of a sequence that are not cached yet; at first the whole prompt.
                let mut owners = Vec::new();
                feed.clear();
                for (i, w) in wanted.iter().enumerate() {
                    let length = w.ids.len() + found[i].len();
                    if found[i].len() >= w.max || length >= longest {
                        continue;
                    }
                    let sequence = *sequences[w.sequence].get_or_insert_with(|| cache.start());
                    if found[i].is_empty() {
                        // Removes wrong guesses of the previous step; the last token is always fed.
                        cache.truncate(sequence, cache.length(sequence).min(w.ids.len() - 1));
                    }
                    let first = cache.length(sequence);
                    let guessed = &found[i][first.saturating_sub(w.ids.len())..];
                    let known = w.ids[first.min(w.ids.len())..].iter().chain(guessed);
                    feed.push((sequence, None), known, &[], length, true);
                    owners.push(i);
                }
                if feed.is_empty() {
                    return Ok(());
                }
                while feed.pass(s, cache, None)?.is_some() {
                    let asked = &feed.asked;
                    if asked.is_empty() {
                        continue;
                    }
                    let finite = s.with_top_logits(0..asked.len(), 1, false, &mut |top_logits| {
                        for (n, asked) in asked.iter().enumerate() {
                            found[owners[asked.row]].extend(top_logits.row(n).first().map(|best| best.0));
                        }
                        Ok(())
                    })?;
                    if !finite {
                        return Err(Error::Numerical(
                            "a logit of the draft model is not finite: expected a model that works on its own"
                                .to_owned(),
                        ));
                    }
                }
            }
        });
        if asked.is_err() {
            // The cache may count tokens whose keys and values were not computed.
            self.sequences.iter_mut().filter_map(Option::take).for_each(|id| self.cache.release(id));
        }
        asked.map(|_| found)
    }

    /// Drops the guesses from the first wrong one on; `known` tokens are left.
    pub fn settle(&mut self, sequence: usize, known: usize) {
        if let Some(id) = self.sequences.get(sequence).copied().flatten() {
            self.cache.truncate(id, known.min(self.cache.length(id)));
        }
    }

    /// Removes a sequence that has ended.
    pub fn end(&mut self, sequence: usize) {
        if let Some(id) = self.sequences.get_mut(sequence).and_then(Option::take) {
            self.cache.release(id);
        }
    }
}

/// Guessed tokens of the rows of a step. The lists are reused from step to step.
#[derive(Default)]
pub(super) struct Guesses {
    tokens: Vec<u32>,
    /// Range of each row's guesses; empty without guesses.
    rows: Vec<Range<usize>>,
}

impl Guesses {
    pub(super) fn of(&self, row: usize) -> &[u32] {
        self.rows.get(row).map_or(&[], |range| &self.tokens[range.clone()])
    }

    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
    }

    /// Adds the guesses of the next row.
    pub(super) fn push(&mut self, guesses: &[u32]) {
        let range = self.add(guesses);
        self.rows.push(range);
    }

    /// Replaces the guesses of a row.
    pub(super) fn set(&mut self, row: usize, guesses: &[u32]) {
        self.rows[row] = self.add(guesses);
    }

    fn add(&mut self, guesses: &[u32]) -> Range<usize> {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(guesses);
        start..self.tokens.len()
    }
}

/// Maximum number of tokens that may be guessed after the last one of a sequence.
pub(super) fn room(s: &Session<'_>, length: usize, max_length: usize, max: usize) -> usize {
    // Cached keys keep the rotation that depends on the length: guesses must have the same one.
    max.min(max_length - length - 1).min(s.rotated_alike(length))
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn what_stood_there_before_is_guessed() {
        let ids = [1, 2, 3, 4, 9, 2, 3];
        assert_eq!(lookup(&ids, &[], 2, 8), [4, 9, 2, 3]);
        assert_eq!(lookup(&ids, &[], 2, 1), [4]);
        assert_eq!(lookup(&[5, 5, 5], &[], 2, 8), [5]);
        assert_eq!(lookup(&[7, 8], &[6, 8, 1, 8, 2], 2, 8), [2]);
        assert_eq!(lookup(&[7, 8], &[1, 8], 2, 8), [0u32; 0]);
        assert_eq!(lookup(&[7], &[], 3, 8), [0u32; 0]);
    }
}
