//! One step: rows are fed, their scores become tokens.

use super::feed::Feed;
use super::running::Running;
use super::scores::Leading;
use super::scoring::{Outcome, Row, Scoring};
use super::speculate::{Guesses, Wanted, lookup, room};
use super::state::{Group, State};
use crate::error::{Error, Result};
use crate::model::{Cache, PREFILL_ROWS, SequenceId, Session};
use std::collections::HashMap;
use std::sync::Mutex;

/// Rows of waiting prompts that are read in a step however many sequences run.
const MIN_PROMPT_ROWS: usize = PREFILL_ROWS / 4;

/// The lists of a step, kept for their memory.
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

    /// Shortens cached sequences that have no new token to what they were, and takes back wrong guesses.
    pub fn roll_back(&self, cache: &mut Cache, running: &[Running], groups: &mut HashMap<u64, Group>) {
        for (i, row) in self.rows.iter().enumerate() {
            let guesses = self.guesses.of(i);
            let running = &running[row.running];
            if !row.done || running.partly_offered() {
                cache.truncate(row.sequence, row.cached);
            } else if !guesses.is_empty() {
                let ids = running.ids(row.lane);
                // The newest token itself is not in the cache.
                cache.truncate(row.sequence, ids.len() - 1);
                let draft = groups.get_mut(&running.call()).and_then(|group| group.draft.as_mut());
                if let Some(draft) = draft {
                    let right = ids[row.length..].iter().zip(guesses).take_while(|(a, b)| a == b).count();
                    draft.settle(running.prompt.sequence(row.lane), row.length + right);
                }
            }
        }
    }

    fn push(&mut self, at: usize, running: &Running, lane: usize, sequence: SequenceId, cache: &Cache) {
        let (cached, length) = (cache.length(sequence), running.ids(lane).len());
        self.rows.push(Row { running: at, lane, sequence, cached, length, done: false });
        if self.calls.last() != Some(&running.call()) {
            self.calls.push(running.call());
        }
    }
}

impl Step {
    /// Feeds the sequences of active calls and takes what their scores lead to.
    pub fn run(&mut self, state: &mut State, s: &mut Session<'_>) -> Result<()> {
        self.gather(state, s)?;
        let State { model, cache, cross, running, report, .. } = state;
        let Step { rows, feed, guesses, needs, forbidden, outcomes, .. } = self;
        while let Some(ended) = feed.pass(s, cache, cross.as_mut())? {
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

    /// Fills the feed: sequences that run, then pieces of prompts in order of arrival.
    fn gather(&mut self, state: &mut State, s: &Session<'_>) -> Result<()> {
        let State { cache, groups, running, .. } = &*state;
        let takes_part =
            |running: &Running| !running.fed && groups.get(&running.call()).is_some_and(|group| group.active);
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
        let State { cache, running, .. } = &*state;
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

    /// Guesses for each row, no more than there is room for.
    fn guess(&mut self, state: &mut State, s: &Session<'_>) -> Result<()> {
        let State { groups, running, report, .. } = state;
        let Step { rows, guesses, .. } = self;
        let drafted = groups.iter().any(|(_, group)| group.active && group.draft.is_some());
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
        for (&call, group) in groups.iter_mut().filter(|(_, group)| group.active) {
            // The draft guesses where the text itself has nothing to offer.
            let Some(draft) = &mut group.draft else { continue };
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
