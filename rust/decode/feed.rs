//! Rows that a step feeds to the model: the tokens of each sequence that are not cached yet.

use crate::error::Result;
use crate::model::{Cache, PREFILL_ROWS, SequenceId, Session, Span};
use std::ops::Range;

/// Tokens of one sequence.
struct Row {
    sequence: SequenceId,
    source: Option<SequenceId>,
    /// Range in the tokens of all rows.
    tokens: Range<usize>,
    /// Index in the row of the first token whose scores are needed; those of all later tokens are needed too.
    scored: usize,
    /// Length of the sequence once all its known tokens are fed.
    total: usize,
}

/// A token whose scores are needed: the logits of the next token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub row: usize,
    /// Index among the scored tokens of the row.
    pub place: usize,
    pub token: u32,
}

/// Tokens of some sequences, and the last pass over them. The lists are reused from step to step.
#[derive(Default)]
pub(super) struct Feed {
    /// The tokens of all rows, concatenated.
    tokens: Vec<u32>,
    rows: Vec<Row>,
    spans: Vec<Span>,
    pub asked: Vec<Asked>,
    /// Rows of the pass whose scores are needed, in ascending order.
    wanted: Vec<usize>,
    /// Token and row at which the next pass begins.
    next: (usize, usize),
}

impl Feed {
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
        self.next = (0, 0);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of all rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Adds the row of a sequence of `total` tokens: at least one `known` token, and guesses of the next
    /// ones. If the row is `complete`, the scores of its last known token are needed, and those of each
    /// guess.
    pub fn push<'a>(
        &mut self,
        (sequence, source): (SequenceId, Option<SequenceId>),
        known: impl IntoIterator<Item = &'a u32>,
        guesses: &[u32],
        total: usize,
        complete: bool,
    ) {
        let start = self.tokens.len();
        self.tokens.extend(known);
        let known = self.tokens.len() - start;
        self.tokens.extend(guesses);
        let scored = if complete { known - 1 } else { known };
        self.rows.push(Row { sequence, source, tokens: start..self.tokens.len(), scored, total });
    }

    /// Feeds the next tokens, at most [`PREFILL_ROWS`]; returns the rows that end in this pass, or `None`
    /// once all are fed. The states of `asked` are left for the language head.
    pub fn pass(
        &mut self,
        s: &mut Session<'_>,
        cache: &mut Cache,
        sources: Option<&mut Cache>,
    ) -> Result<Option<Range<usize>>> {
        let Feed { tokens, rows, spans, asked, wanted, next: (from, row) } = self;
        spans.clear();
        asked.clear();
        wanted.clear();
        if *from == tokens.len() {
            return Ok(None);
        }
        let (to, begun) = (tokens.len().min(*from + PREFILL_ROWS), *row);
        let (mut at, mut now) = (*from, *row);
        while at < to {
            let Row { sequence, source, tokens: ref own, scored, total } = rows[now];
            let (end, first) = (own.end.min(to), cache.length(sequence));
            spans.push(Span {
                unseen: 0,
                sequence,
                rows: at - *from..end - *from,
                first,
                total: total.max(first + end - at),
                source: source.unwrap_or(0),
                source_length: match (source, &sources) {
                    (Some(source), Some(sources)) => sources.length(source),
                    _ => 0,
                },
            });
            for i in at.max(own.start + scored)..end {
                asked.push(Asked { row: now, place: i - own.start - scored, token: tokens[i] });
                wanted.push(i - *from);
            }
            now += usize::from(end == own.end);
            at = end;
        }
        cache.extend_all(s.team, spans.iter().map(|span| (span.sequence, span.rows.len())))?;
        s.forward(&tokens[*from..to], spans, cache, sources, wanted)?;
        (*from, *row) = (to, now);
        Ok(Some(begun..now))
    }
}
