//! Guesses of the tokens that come next, which the model checks in one pass: Leviathan et al. 2022,
//! <https://arxiv.org/abs/2211.17192>.
//!
//! Guesses come from the text itself (prompt lookup: what followed the last few tokens when they stood there before,
//! Saxena 2023, <https://github.com/apoorvumang/prompt-lookup-decoding>) or from a smaller model of the same
//! vocabulary. They only decide how many rows a step computes: each token is chosen from the model's own logits, which
//! have the same bits however many rows lie beside them, and with the draw of its own step. So the result is the same as
//! without, token for token, when drawing too.

use super::scores::{Leading, RowScores, Rules};
use super::step::Feed;
use super::streams::{Active, Stream};
use crate::error::{Error, Result};
use crate::model::{Cache, Model, SequenceId, Session};
use crate::threads::Hook;
use std::ops::Range;
use std::sync::Arc;

/// Most tokens that are guessed at once.
pub const MOST: usize = 64;

/// What followed the last `ngram` tokens or fewer, at most `most` tokens: at their latest place in `ids`, else in
/// `source`.
pub fn lookup<'a>(ids: &'a [u32], source: &'a [u32], ngram: usize, most: usize) -> &'a [u32] {
    for n in (1..=ngram.min(ids.len())).rev() {
        let (before, last) = ids.split_at(ids.len() - n);
        // A match must be followed by something, and may reach into the last tokens themselves.
        let own = (0..before.len()).rev().find(|&i| &ids[i..i + n] == last).map(|i| &ids[i + n..]);
        let found = own.or_else(|| {
            let at = source.windows(n).rposition(|window| window == last)?;
            Some(&source[at + n..])
        });
        if let Some(next) = found.filter(|next| !next.is_empty()) {
            return &next[..next.len().min(most)];
        }
    }
    &[]
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
    feed: Feed,
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
        Ok(Draft { model: draft, cache, sequences: Vec::new(), feed: Feed::default() })
    }

    /// The likeliest next tokens of each sequence, as the draft sees it; none while another call has it: to wait for it with
    /// the model in hand could be without end, where that call waits for this model.
    pub fn propose(&mut self, hook: Hook<'_>, wanted: &[Wanted<'_>]) -> Result<Vec<Vec<u32>>> {
        let longest = self.model.longest();
        let mut found: Vec<Vec<u32>> = vec![Vec::new(); wanted.len()];
        let streams = wanted.iter().map(|w| w.stream + 1).max().unwrap_or(0);
        self.sequences.resize(streams.max(self.sequences.len()), None);
        let Draft { model, cache, sequences, feed } = self;
        let asked = model.session_if_free(hook, |s| {
            loop {
                // Everything that a sequence has and its cache lacks; at first that is the whole prompt.
                let mut owners = Vec::new();
                feed.clear();
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
                    let guessed = &found[i][first.saturating_sub(w.ids.len())..];
                    feed.push(sequence, 0, w.ids[first.min(w.ids.len())..].iter().chain(guessed).copied());
                    owners.push(i);
                }
                if feed.is_empty() {
                    return Ok(());
                }
                let likeliest = Some(Leading { n: 1, normalize: false });
                feed.run(s, cache, None, true, likeliest, &mut |_, asked, mut scores| {
                    for (n, token) in asked.iter().enumerate() {
                        if let RowScores::Leaders { best, .. } = scores.row(n, asked.len()) {
                            found[owners[token.row]].extend(best.first().map(|b| b.0));
                        }
                    }
                    Ok(())
                })?;
            }
        });
        asked.map(|_| found)
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

/// Guessed tokens of the rows of a step. Kept from step to step: the lists are filled again.
#[derive(Default)]
pub(super) struct Guesses {
    tokens: Vec<u32>,
    /// Where those of each row are; empty where nobody guesses.
    rows: Vec<Range<usize>>,
}

impl Guesses {
    pub(super) fn of(&self, row: usize) -> &[u32] {
        self.rows.get(row).map_or(&[], |range| &self.tokens[range.clone()])
    }

    /// Whether any row has some.
    pub(super) fn any(&self) -> bool {
        !self.tokens.is_empty()
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
    }

    /// Adds tokens; returns where they are.
    fn add(&mut self, tokens: &[u32]) -> Range<usize> {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        start..self.tokens.len()
    }
}

/// Guesses for each active stream, no more than it has room for.
pub(super) fn guess(
    rules: &Rules<'_>,
    streams: &[Stream],
    active: &[Active],
    draft: Option<&mut Draft>,
    s: &Session<'_>,
    guesses: &mut Guesses,
) -> Result<()> {
    let o = rules.options;
    guesses.clear();
    if o.prompt_lookup == 0 && draft.is_none() {
        return Ok(());
    }
    let room = |stream: &Stream, most: usize| {
        let length = stream.ids.len();
        // Keys that are cached keep the rotation of their length: a guess must not be of another.
        most.min(stream.max_length - length - 1).min(s.rotated_alike(length))
    };
    for fed in active {
        let stream = &streams[fed.stream];
        let source = &rules.sources[stream.source];
        // A prompt is searched with what follows it.
        let source = if stream.ids.starts_with(source) { &[] } else { &source[..] };
        let range = guesses.add(lookup(&stream.ids, source, o.lookup_ngram, room(stream, o.prompt_lookup)));
        guesses.rows.push(range);
    }
    if let Some(draft) = draft {
        // The draft guesses where the text itself has nothing to offer.
        let rows: Vec<usize> = (0..active.len()).filter(|&row| guesses.of(row).is_empty()).collect();
        let wanted: Vec<Wanted<'_>> = rows
            .iter()
            .map(|&row| {
                let (number, stream) = (active[row].stream, &streams[active[row].stream]);
                Wanted { stream: number, ids: &stream.ids, most: room(stream, o.draft_tokens) }
            })
            .collect();
        let found = draft.propose(&|| s.team.check().is_err(), &wanted)?;
        for (row, found) in rows.into_iter().zip(found) {
            guesses.rows[row] = guesses.add(&found);
        }
    }
    Ok(())
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
