//! What a step feeds to the running sequences of a batch.

use super::scores::{Leading, Scores};
use crate::error::Result;
use crate::model::{Cache, PREFILL_ROWS, SequenceId, Session, Span};
use crate::threads::Team;
use std::ops::Range;

/// Tokens that a running sequence is fed: its newest one, and guesses of what follows.
struct Row {
    sequence: SequenceId,
    source: usize,
    /// Where they are among all.
    tokens: Range<usize>,
}

/// A token whose scores were asked for: what the model expects behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub row: usize,
    /// Its place among the row's tokens.
    pub place: usize,
    pub token: u32,
}

/// Takes the scores of some tokens.
pub(super) type Take<'a> = &'a mut dyn FnMut(&Team<'_>, &[Asked], Scores<'_>) -> Result<()>;

/// The tokens of some sequences, and the pieces that they are fed in. Kept from step to step: the lists are filled again.
#[derive(Default)]
pub(super) struct Feed {
    /// Of all rows, one after the other.
    tokens: Vec<u32>,
    rows: Vec<Row>,
    spans: Vec<Span>,
    asked: Vec<Asked>,
    /// Rows of a piece whose scores are asked for.
    wanted: Vec<usize>,
}

impl Feed {
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row: a sequence and its tokens, at least one.
    pub(super) fn push(
        &mut self,
        sequence: SequenceId,
        source: usize,
        tokens: impl IntoIterator<Item = u32>,
    ) {
        let start = self.tokens.len();
        self.tokens.extend(tokens);
        self.rows.push(Row { sequence, source, tokens: start..self.tokens.len() });
    }

    /// Feeds all rows; `take` gets the scores after every token, or after the last of a sequence alone: all logits where
    /// nothing less is asked for.
    pub(super) fn run(
        &mut self,
        s: &mut Session<'_>,
        cache: &mut Cache,
        mut cross: Option<&mut Cache>,
        last_only: bool,
        scores: Option<Leading>,
        take: Take<'_>,
    ) -> Result<()> {
        let Feed { tokens, rows, spans, asked, wanted } = self;
        let (mut from, mut row) = (0, 0);
        while from < tokens.len() {
            // Long rows are fed in pieces.
            let to = tokens.len().min(from + PREFILL_ROWS);
            spans.clear();
            asked.clear();
            wanted.clear();
            let mut at = from;
            while at < to {
                let Row { sequence, source, tokens: ref own } = rows[row];
                let (end, first) = (own.end.min(to), cache.length(sequence));
                spans.push(Span {
                    sequence,
                    rows: at - from..end - from,
                    first,
                    total: first + end - at,
                    source,
                    source_length: cross.as_deref().map_or(0, |c| c.length(source)),
                });
                let least = if last_only { own.end - 1 } else { own.start };
                for i in at.max(least)..end {
                    asked.push(Asked { row, place: i - own.start, token: tokens[i] });
                    wanted.push(i - from);
                }
                row += usize::from(end == own.end);
                at = end;
            }
            cache.extend_all(s.team, spans.iter().map(|span| (span.sequence, span.rows.len())))?;
            s.forward(&tokens[from..to], spans, cache, cross.as_deref_mut(), wanted)?;
            let team = s.team;
            match scores {
                Some(Leading { n, normalize }) => {
                    s.with_leaders(wanted.len(), n, normalize, &mut |leaders| {
                        take(team, asked, Scores::Leaders(leaders))
                    })?
                }
                None => {
                    s.with_logits(wanted.len(), &mut |logits| take(team, asked, Scores::Logits(logits)))?
                }
            }
            from = to;
        }
        Ok(())
    }
}
