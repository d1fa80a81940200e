//! The first step of a batch: its prompts are read, and each gives its first token.

use super::process::Custom;
use super::scores::{RowScores, Rules, choose, continuations};
use super::streams::Stream;
use super::{Event, Generation, State, concatenate};
use crate::error::Result;
use crate::model::{Batch, PREFILL_ROWS, SequenceId, Session, Span};

impl Generation {
    /// Reads all prompts; returns the logits after the last token of each.
    pub(super) fn prefill(&mut self, s: &mut Session<'_>, vocab: usize) -> Result<Vec<f32>> {
        if !self.sources.is_empty() {
            let (ids, starts) = concatenate(&self.sources);
            self.cross = Some(s.cross(&Batch { ids: &ids, starts: &starts, segments: None })?);
        }
        let mut cache = self.model.cache(false)?;
        let sequences: Vec<SequenceId> = self.prompts.iter().map(|_| cache.start()).collect();
        let mut kept = vec![0; self.prompts.len()];
        if let Some(mut prefixes) = self.model.prefixes() {
            for ((prompt, &sequence), kept) in self.prompts.iter().zip(&sequences).zip(&mut kept) {
                *kept = prefixes.fill(prompt, &mut cache, sequence);
            }
        }
        let rest: Vec<&[u32]> = self.prompts.iter().zip(&kept).map(|(prompt, &n)| &prompt[n..]).collect();
        let (ids, starts) = concatenate(&rest);
        let mut logits = vec![0.0; self.prompts.len() * vocab];
        let mut from = 0;
        while from < ids.len() {
            let to = ids.len().min(from + PREFILL_ROWS);
            let mut spans = Vec::new();
            let mut last = Vec::new();
            for (i, &sequence) in sequences.iter().enumerate() {
                let (a, b) = (starts[i].max(from), starts[i + 1].min(to));
                if a >= b {
                    continue;
                }
                cache.extend(sequence, b - a)?;
                spans.push(Span {
                    sequence,
                    rows: a - from..b - from,
                    first: kept[i] + a - starts[i],
                    total: kept[i] + starts[i + 1] - starts[i],
                    source: i,
                    source_length: self.cross.as_ref().map_or(0, |c| c.length(i)),
                });
                if b == starts[i + 1] {
                    last.push((i, b - 1 - from));
                }
            }
            let rows: Vec<usize> = last.iter().map(|&(_, row)| row).collect();
            s.forward(&ids[from..to], &spans, &mut cache, self.cross.as_mut(), &rows)?;
            if let (Some(first), false) = (last.first().map(|l| l.0), rows.is_empty()) {
                // Prompts end in order, so their logits lie side by side.
                s.logits(rows.len(), &mut logits[first * vocab..(first + rows.len()) * vocab])?;
            }
            from = to;
        }
        match &mut self.state {
            State::Streams(streams) => {
                for stream in &mut streams.list {
                    stream.cache = Some(cache.fork(sequences[stream.source]));
                }
                for sequence in sequences {
                    cache.release(sequence);
                }
            }
            State::Beams(beams) => {
                for (searching, sequence) in beams.list.iter_mut().zip(sequences) {
                    searching.sequences.push(sequence);
                }
            }
        }
        self.cache = Some(cache);
        Ok(logits)
    }

    /// The first token of every sequence, from the prompts' logits.
    pub(super) fn first(
        &mut self,
        logits: &[f32],
        custom: Option<Custom<'_>>,
        vocab: usize,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let row = |p: usize| logits[p * vocab..(p + 1) * vocab].to_vec();
        let late = self.late();
        let rules = Rules::new(&self.options, &self.prompts, &self.sources, custom, vocab);
        match &mut self.state {
            State::Streams(streams) => {
                let running = |(_, stream): &(usize, &mut Stream)| stream.reason.is_none();
                for (i, stream) in streams.list.iter_mut().enumerate().filter(running) {
                    let mut logits = row(stream.source);
                    let choice = choose(&rules, stream, i, &[], RowScores::Logits(&mut logits))?;
                    events.push(stream.take(&self.options, i, choice));
                }
            }
            State::Beams(beams) => {
                let cache = self.cache.as_mut().expect("just filled");
                let mut found = Vec::new();
                for (p, searching) in beams.list.iter_mut().enumerate() {
                    let mut logits = row(p);
                    let scores = RowScores::Logits(&mut logits);
                    continuations(&rules, &searching.search, 0, &rules.sources[p], &[], scores, &mut found)?;
                    searching.search.offer(&mut found);
                    searching.advance(&self.options, cache, late);
                }
            }
        }
        Ok(())
    }
}
