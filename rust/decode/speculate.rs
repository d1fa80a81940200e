//! Guesses of the tokens that come next, which the model checks in one pass: Leviathan et al. 2022,
//! <https://arxiv.org/abs/2211.17192>.
//!
//! Guesses come from the text itself (prompt lookup: what followed the last few tokens when they stood there before,
//! Saxena 2023, <https://github.com/apoorvumang/prompt-lookup-decoding>) or from a smaller model of the same
//! vocabulary. They only decide how many rows a step computes: each token is chosen from the model's own logits, which
//! have the same bits however many rows lie beside them, and with the draw of its own step. So the result is the same as
//! without, token for token, when drawing too.

use super::Stream;
use super::options::Options;
use super::scores::{Leading, RowScores};
use super::step::{Row, feed};
use crate::error::{Error, Result};
use crate::model::{Cache, Model, SequenceId, Session};
use crate::threads::Hook;
use std::sync::Arc;

/// Most tokens that are guessed at once.
pub const MOST: usize = 64;

/// What followed the last `ngram` tokens or fewer, at most `most` tokens: at their latest place in `ids`, else in
/// `source`.
pub fn lookup(ids: &[u32], source: &[u32], ngram: usize, most: usize) -> Vec<u32> {
    for n in (1..=ngram.min(ids.len())).rev() {
        let (before, last) = ids.split_at(ids.len() - n);
        // A match must be followed by something, and may reach into the last tokens themselves.
        let own = (0..before.len()).rev().find(|&i| &ids[i..i + n] == last).map(|i| &ids[i + n..]);
        let found = own.or_else(|| {
            let at = source.windows(n).rposition(|window| window == last)?;
            Some(&source[at + n..])
        });
        if let Some(next) = found.filter(|next| !next.is_empty()) {
            return next[..next.len().min(most)].to_vec();
        }
    }
    Vec::new()
}

/// A sequence whose tokens are to be guessed.
pub struct Wanted<'a> {
    pub stream: usize,
    pub ids: &'a [u32],
    pub most: usize,
}

/// A smaller model that guesses.
pub struct Draft {
    model: Arc<Model>,
    cache: Cache,
    /// By stream.
    sequences: Vec<Option<SequenceId>>,
}

impl Draft {
    /// # Errors
    /// The draft model cannot guess for `model`.
    pub fn new(model: &Model, draft: Arc<Model>) -> Result<Draft> {
        let wrong = |what: &str| Err(Error::Option(format!("draft_model {what}")));
        if std::ptr::eq(model, &raw const *draft) {
            return wrong("is the model itself: expected a smaller one");
        }
        if model.spec().encoder.is_some() || draft.spec().encoder.is_some() {
            return wrong("or the model has an encoder: expected two decoders");
        }
        let (own, other) = (model.vocab_size()?, draft.vocab_size()?);
        if own != other {
            return wrong(&format!("has a vocabulary of {other} tokens: expected {own}, as the model has"));
        }
        let cache = draft.cache(false)?;
        Ok(Draft { model: draft, cache, sequences: Vec::new() })
    }

    /// The likeliest next tokens of each sequence, as the draft sees it.
    pub fn propose(&mut self, hook: Hook<'_>, wanted: &[Wanted<'_>]) -> Result<Vec<Vec<u32>>> {
        let longest = self.model.longest();
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); wanted.len()];
        let streams = wanted.iter().map(|w| w.stream + 1).max().unwrap_or(0);
        self.sequences.resize(streams.max(self.sequences.len()), None);
        let Draft { model, cache, sequences } = self;
        model.session(hook, |s| {
            loop {
                // Everything that a sequence has and its cache lacks; at first that is the whole prompt.
                let mut rows = Vec::new();
                let mut owners = Vec::new();
                for (i, w) in wanted.iter().enumerate() {
                    let length = w.ids.len() + found[i].len();
                    if found[i].len() >= w.most || length >= longest {
                        continue;
                    }
                    let sequence = *sequences[w.stream].get_or_insert_with(|| cache.start());
                    if found[i].is_empty() {
                        // What was guessed wrongly the last time goes; the last token is always fed.
                        cache.truncate(sequence, cache.length(sequence).min(w.ids.len() - 1));
                    }
                    let first = cache.length(sequence);
                    let mut tokens: Vec<u32> = w.ids[first.min(w.ids.len())..].to_vec();
                    tokens.extend(&found[i][first.saturating_sub(w.ids.len())..]);
                    rows.push(Row { tokens, sequence, source: 0 });
                    owners.push(i);
                }
                if rows.is_empty() {
                    return Ok(());
                }
                let likeliest = Some(Leading { n: 1, normalize: false });
                feed(s, &rows, cache, None, true, likeliest, &mut |_, tokens, mut scores| {
                    for (n, &(row, _)) in tokens.iter().enumerate() {
                        if let RowScores::Leaders { best, .. } = scores.row(n, tokens.len(), &[]) {
                            found[owners[row]].extend(best.first().map(|b| b.0));
                        }
                    }
                    Ok(())
                })?;
            }
        })?;
        Ok(found)
    }

    /// Remembers what has become of the guesses: of `ids` the draft has seen a wrong end, or all.
    pub fn settle(&mut self, stream: usize, ids: &[u32], guessed_from: usize, guesses: &[u32]) {
        if let Some(sequence) = self.sequences.get(stream).copied().flatten() {
            let right = ids[guessed_from..].iter().zip(guesses).take_while(|(a, b)| a == b).count();
            let known = (guessed_from + right).min(self.cache.length(sequence));
            self.cache.truncate(sequence, known);
        }
    }

    /// Forgets a stream that has ended.
    pub fn end(&mut self, stream: usize) {
        if let Some(sequence) = self.sequences.get_mut(stream).and_then(Option::take) {
            self.cache.release(sequence);
        }
    }
}

/// Guesses for each active stream, no more than it has room for.
pub(super) fn guess(
    o: &Options,
    streams: &[Stream],
    active: &[usize],
    sources: &[Vec<u32>],
    draft: Option<&mut Draft>,
    s: &Session<'_>,
) -> Result<Vec<Vec<u32>>> {
    if o.prompt_lookup == 0 && draft.is_none() {
        return Ok(vec![Vec::new(); active.len()]);
    }
    let room = |stream: &Stream, most: usize| {
        let length = stream.ids.len();
        // Keys that are cached keep the rotation of their length: a guess must not be of another.
        most.min(stream.max_length - length - 1).min(s.rotated_alike(length))
    };
    let mut found: Vec<Vec<u32>> = active
        .iter()
        .map(|&i| {
            let stream = &streams[i];
            let source = sources.get(stream.source).map_or(&[][..], Vec::as_slice);
            lookup(&stream.ids, source, o.lookup_ngram, room(stream, o.prompt_lookup))
        })
        .collect();
    if let Some(draft) = draft {
        // The draft guesses where the text itself has nothing to offer.
        let places: Vec<usize> = (0..active.len()).filter(|&k| found[k].is_empty()).collect();
        let wanted: Vec<Wanted<'_>> = places
            .iter()
            .map(|&k| {
                let stream = &streams[active[k]];
                Wanted { stream: active[k], ids: &stream.ids, most: room(stream, o.draft_tokens) }
            })
            .collect();
        let guesses = draft.propose(&|| s.team.check().is_err(), &wanted)?;
        for (k, guesses) in places.into_iter().zip(guesses) {
            found[k] = guesses;
        }
    }
    Ok(found)
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
