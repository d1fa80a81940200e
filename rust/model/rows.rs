//! Views of the rows of a batch, in lists that are reused from pass to pass.

use crate::ops::kv::Sequence;
use std::ops::Range;

/// Consecutive rows of a batch that belong to one sequence.
#[derive(Debug, Clone)]
pub struct Span {
    /// Number of the sequence in its cache.
    pub sequence: usize,
    pub rows: Range<usize>,
    /// Position of the first row.
    pub first: usize,
    /// Length of the sequence at the end of the call; selects between short and long rotations.
    pub total: usize,
    /// In an encoder-decoder: the sequence in the cache of sources and its length.
    pub source: usize,
    pub source_length: usize,
    /// Rows at the end of the sequence to which no row attends.
    pub unseen: usize,
}

/// Some rows of a batch and the sequences that they attend to.
#[derive(Default)]
pub struct View {
    pub spans: Vec<Span>,
    /// The spans in the form for self-attention.
    pub own: Vec<Sequence>,
    /// The same for cross-attention, which has no positions: consecutive rows of one source (its beams) are
    /// one sequence of queries, so that they read its keys and values once.
    pub sources: Vec<Sequence>,
}

impl View {
    /// Makes it the view of `spans`; `with_sources`: for cross-attention too.
    pub fn fill(&mut self, spans: impl Iterator<Item = Span>, with_sources: bool) {
        let View { spans: all, own, sources } = self;
        all.clear();
        all.extend(spans);
        own.clear();
        own.extend(all.iter().map(|s| Sequence {
            table: s.sequence,
            rows: s.rows.clone(),
            first: s.first,
            length: s.first + s.rows.len() - s.unseen,
        }));
        sources.clear();
        if with_sources {
            let joined =
                |one: &Span, next: &Span| one.source == next.source && one.rows.end == next.rows.start;
            sources.extend(all.chunk_by(joined).map(|spans| Sequence {
                table: spans[0].source,
                rows: spans[0].rows.start..spans[spans.len() - 1].rows.end,
                first: 0,
                length: spans[0].source_length,
            }));
        }
    }

    /// Rows of the view, in ascending order, each as a span of its own.
    pub fn pick(&self, rows: &[usize]) -> impl Iterator<Item = Span> {
        let mut spans = self.spans.iter().peekable();
        rows.iter().enumerate().map(move |(to, &row)| {
            while spans.next_if(|span| span.rows.end <= row).is_some() {}
            let span = *spans.peek().expect("the row belongs to a span");
            Span { rows: to..to + 1, first: span.first + row - span.rows.start, ..span.clone() }
        })
    }
}

/// All rows of a pass, and those whose final states are wanted.
#[derive(Default)]
pub struct Views {
    pub all: View,
    pub wanted: View,
}
