//! One step: feeds rows to the model and chooses tokens from their scores.

use super::active_prompt::ActivePrompt;
use super::feed::Feed;
use super::running_batch::{CallState, RunningBatch};
use super::scores::Leading;
use super::scoring::{Outcome, Row, Scoring};
use super::speculate::{Guesses, Wanted, lookup, room};
use crate::error::{Error, Result};
use crate::model::{Cache, PREFILL_ROWS, SequenceId, Session};
use std::collections::HashMap;
use std::sync::Mutex;

/// Minimum number of prompt rows that a step reads, for any number of running sequences.
const MIN_PROMPT_ROWS: usize = PREFILL_ROWS / 4;

/// The lists of a step, reused from step to step.
#[derive(Default)]
pub(super) struct Step {
    rows: Vec<Row>,
    /// Calls of the rows.
    calls: Vec<u64>,
    feed: Feed,
    guesses: Guesses,
    needs: Vec<Option<Leading>>,
    forbidden: Vec<Vec<u32>>,
    outcomes: Vec<Mutex<Outcome>>,
}

impl Step {
    pub fn clear(&mut self) {
        self.rows.clear();
        self.calls.clear();
        self.feed.clear();
        self.guesses.clear();
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    pub fn calls(&self) -> impl Iterator<Item = u64> {
        self.calls.iter().copied()
    }

    /// Truncates cached sequences without a new token to their former length, and removes wrong guesses.
    pub fn roll_back(
        &self,
        cache: &mut Cache,
        running: &[ActivePrompt],
        call_states: &mut HashMap<u64, CallState>,
    ) {
        for (i, row) in self.rows.iter().enumerate() {
            let guesses = self.guesses.of(i);
            let running = &running[row.running];
            if !row.done || running.partly_offered() {
                cache.truncate(row.sequence, row.cached);
            } else if !guesses.is_empty() {
                let ids = running.ids(row.lane);
                // The newest token itself is not in the cache.
                cache.truncate(row.sequence, ids.len() - 1);
                let draft =
                    call_states.get_mut(&running.call()).and_then(|call_state| call_state.draft.as_mut());
                if let Some(draft) = draft {
                    let right = ids[row.length..].iter().zip(guesses).take_while(|(a, b)| a == b).count();
                    draft.settle(running.prompt.sequence(row.lane), row.length + right);
                }
            }
        }
    }

    fn push(&mut self, at: usize, running: &ActivePrompt, lane: usize, sequence: SequenceId, cache: &Cache) {
        let (cached, length) = (cache.length(sequence), running.ids(lane).len());
        self.rows.push(Row { running: at, lane, sequence, cached, length, done: false });
        if self.calls.last() != Some(&running.call()) {
            self.calls.push(running.call());
        }
    }
}

impl Step {
    /// Feeds the sequences of active calls and applies the outcomes of their scores.
    pub fn run(&mut self, state: &mut RunningBatch, s: &mut Session<'_>) -> Result<()> {
        self.gather(state, s)?;
        let RunningBatch { model, cache, sources, running, report, .. } = state;
        let Step { rows, feed, guesses, needs, forbidden, outcomes, .. } = self;
        while let Some(ended) = feed.pass(s, cache, sources.as_mut())? {
            if !feed.asked.is_empty() {
                let asked = &feed.asked;
                let scoring =
                    Scoring { model, rows, asked, guesses, forbidden, cache, running, report, outcomes };
                scoring.run(s, needs)?;
            }
            rows[ended].iter_mut().for_each(|row| row.done = true);
        }
        Ok(())
    }

    /// Fills the feed: running sequences, then pieces of prompts in order of arrival.
    fn gather(&mut self, state: &mut RunningBatch, s: &Session<'_>) -> Result<()> {
        let RunningBatch { cache, call_states, running, .. } = &*state;
        let takes_part = |running: &ActivePrompt| {
            !running.fed && call_states.get(&running.call()).is_some_and(|call_state| call_state.active)
        };
        for (at, running) in running.iter().enumerate() {
            if running.read && takes_part(running) {
                for lane in 0..running.lanes() {
                    if let Some(sequence) = running.sequence(lane) {
                        self.push(at, running, lane, sequence, cache);
                    }
                }
            }
        }
        self.guess(state, s)?;
        let RunningBatch { cache, running, .. } = &*state;
        let Step { rows, feed, guesses, .. } = &mut *self;
        for (i, row) in rows.iter().enumerate() {
            let running = &running[row.running];
            let known = &running.ids(row.lane)[row.cached..];
            feed.push((row.sequence, running.source), known, guesses.of(i), row.length, true);
        }
        let mut left = PREFILL_ROWS.saturating_sub(self.feed.len()).max(MIN_PROMPT_ROWS);
        for (at, running) in running.iter().enumerate() {
            if left > 0 && !running.read && state.active(running.call()) {
                self.push(at, running, 0, running.root, cache);
                let (ids, cached) = (&running.prompt.ids, cache.length(running.root));
                let end = ids.len().min(cached + left);
                let known = &ids[cached..end];
                self.feed.push((running.root, running.source), known, &[], ids.len(), end == ids.len());
                left -= known.len();
            }
        }
        Ok(())
    }

    /// Guesses tokens for each row, as far as there is room.
    fn guess(&mut self, state: &mut RunningBatch, s: &Session<'_>) -> Result<()> {
        let RunningBatch { call_states, running, report, .. } = state;
        let Step { rows, guesses, .. } = self;
        let drafted =
            call_states.iter().any(|(_, call_state)| call_state.active && call_state.draft.is_some());
        if !drafted && rows.iter().all(|row| running[row.running].prompt.settings.options.prompt_lookup == 0)
        {
            return Ok(());
        }
        for row in &*rows {
            let (prompt, ids) = (&running[row.running].prompt, running[row.running].ids(row.lane));
            let o = &prompt.settings.options;
            let max =
                if o.prompt_lookup > 0 { room(s, ids.len(), prompt.max_length, o.prompt_lookup) } else { 0 };
            if max == 0 {
                guesses.push(&[]);
                continue;
            }
            guesses.push(lookup(ids, &prompt.source, o.lookup_ngram, max));
        }
        for (&call, call_state) in call_states.iter_mut().filter(|(_, call_state)| call_state.active) {
            // The draft model guesses if the lookup found nothing.
            let Some(draft) = &mut call_state.draft else { continue };
            let own = |i: &usize| running[rows[*i].running].call() == call && guesses.of(*i).is_empty();
            let places: Vec<usize> = (0..rows.len()).filter(own).collect();
            let wanted = places.iter().map(|&i| {
                let (prompt, ids) =
                    (&running[rows[i].running].prompt, running[rows[i].running].ids(rows[i].lane));
                let max = room(s, ids.len(), prompt.max_length, prompt.settings.options.draft_tokens);
                Wanted { sequence: prompt.sequence(rows[i].lane), ids, max }
            });
            let wanted: Vec<Wanted<'_>> = wanted.collect();
            match draft.propose(&|| s.team.check().is_err(), &wanted) {
                Ok(found) => places.iter().zip(found).for_each(|(&i, found)| guesses.set(i, &found)),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => report.failed.push((call, error)),
            }
        }
        Ok(())
    }
}
