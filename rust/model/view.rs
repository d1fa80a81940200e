//! The rows of a batch as the layers see them, in lists that one pass after the other fills again.

use super::block::Span;
use crate::ops::kv::Sequence;

/// Some rows of a batch: what they are, and what they attend to.
#[derive(Default)]
pub struct View {
    pub spans: Vec<Span>,
    /// The spans with their blocks, for self-attention.
    pub own: Vec<Sequence>,
    /// The same for cross-attention, which knows no positions: successive rows of one source (its beams) are one sequence of
    /// queries, so that they read its keys and values once.
    pub sources: Vec<Sequence>,
}

impl View {
    /// Makes it that of `spans`; `cross`: they have sources.
    pub fn fill(&mut self, spans: impl Iterator<Item = Span>, cross: bool) {
        let View { spans: all, own, sources } = self;
        all.clear();
        all.extend(spans);
        own.clear();
        own.extend(all.iter().map(|s| Sequence {
            table: s.sequence,
            rows: s.rows.clone(),
            first: s.first,
            length: s.first + s.rows.len(),
        }));
        sources.clear();
        if cross {
            let together =
                |one: &Span, next: &Span| one.source == next.source && one.rows.end == next.rows.start;
            sources.extend(all.chunk_by(together).map(|spans| Sequence {
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
