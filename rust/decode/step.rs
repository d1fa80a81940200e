//! One step: rows are fed, their scores become tokens.

use super::beam_search::Candidate;
use super::feed::{Asked, Feed};
use super::running::{Running, Work};
use super::scheduler::{Group, Report, Scheduler};
use super::scores::{Leading, RowScores, choose, continuations, leading};
use super::sequence::Choice;
use super::speculate::{Guesses, Wanted, lookup, room};
use crate::error::{Error, Result};
use crate::model::{Cache, Model, PREFILL_ROWS, SequenceId, Session};
use crate::ops::top_logits::TopLogits;
use crate::threads::Team;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Bytes of logits that are stored at a time.
const MAX_LOGIT_BYTES: usize = 64 << 20;
/// Rows of waiting prompts that are read in a step however many sequences run.
const MIN_PROMPT_ROWS: usize = PREFILL_ROWS / 4;

/// A row of the feed: a lane, or a prompt that is being read.
pub(super) struct Row {
    /// Its place in the batch.
    pub running: usize,
    lane: usize,
    sequence: SequenceId,
    /// Tokens that the cache held before the step, and that the sequence had.
    cached: usize,
    length: usize,
    /// Whether it was fed to its end.
    pub done: bool,
}

/// What the scores of a row become.
#[derive(Default)]
struct Outcome {
    /// Of a stream; behind a prompt of each of its samples that runs.
    choices: Vec<(usize, Choice)>,
    /// Of a beam.
    found: Vec<Candidate>,
    error: Option<Error>,
}

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
            if !row.done {
                cache.truncate(row.sequence, row.cached);
            } else if !guesses.is_empty() {
                let running = &running[row.running];
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

impl Scheduler {
    /// Feeds the sequences of active calls and takes what their scores lead to.
    pub(super) fn feed(&mut self, s: &mut Session<'_>) -> Result<()> {
        self.gather(s)?;
        let Scheduler { model, cache, cross, running, step, report, .. } = self;
        let Step { rows, feed, guesses, needs, forbidden, outcomes, .. } = step;
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
    fn gather(&mut self, s: &mut Session<'_>) -> Result<()> {
        let Scheduler { cache, groups, running, step, .. } = self;
        let takes_part =
            |running: &Running| !running.fed && groups.get(&running.call()).is_some_and(|group| group.active);
        for (at, running) in running.iter().enumerate() {
            if running.read && takes_part(running) {
                for lane in 0..running.lanes() {
                    if let Some(sequence) = running.sequence(lane) {
                        step.push(at, running, lane, sequence, cache);
                    }
                }
            }
        }
        self.guess(s)?;
        let Scheduler { cache, groups, running, step, .. } = self;
        let Step { rows, feed, guesses, .. } = &mut *step;
        for (i, row) in rows.iter().enumerate() {
            let running = &running[row.running];
            let known = &running.ids(row.lane)[row.cached..];
            feed.push((row.sequence, running.source), known, guesses.of(i), row.length, true);
        }
        let mut left = PREFILL_ROWS.saturating_sub(step.feed.len()).max(MIN_PROMPT_ROWS);
        let takes_part = |running: &Running| groups.get(&running.call()).is_some_and(|group| group.active);
        for (at, running) in running.iter().enumerate() {
            if left > 0 && !running.read && takes_part(running) {
                step.push(at, running, 0, running.root, cache);
                let (ids, cached) = (&running.prompt.ids, cache.length(running.root));
                let end = ids.len().min(cached + left);
                let known = &ids[cached..end];
                step.feed.push((running.root, running.source), known, &[], ids.len(), end == ids.len());
                left -= known.len();
            }
        }
        Ok(())
    }

    /// Guesses for each row, no more than there is room for.
    fn guess(&mut self, s: &Session<'_>) -> Result<()> {
        let Scheduler { groups, running, step, report, .. } = self;
        let Step { rows, guesses, .. } = step;
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

/// What the scores of a pass are needed for.
struct Scoring<'a> {
    model: &'a Model,
    rows: &'a [Row],
    asked: &'a [Asked],
    guesses: &'a Guesses,
    forbidden: &'a mut Vec<Vec<u32>>,
    cache: &'a mut Cache,
    running: &'a mut [Running],
    report: &'a mut Report,
    outcomes: &'a mut Vec<Mutex<Outcome>>,
}

impl Scoring<'_> {
    /// Takes the scores of all asked rows: the largest logits alone where that is enough for all that are left, else all
    /// logits in pieces of bounded size.
    fn run(mut self, s: &mut Session<'_>, needs: &mut Vec<Option<Leading>>) -> Result<()> {
        let vocab = self.model.vocab_size()?;
        let piece = (MAX_LOGIT_BYTES / (vocab * size_of::<f32>())).max(1);
        self.needs(vocab, needs);
        let all = |needs: &[Option<Leading>]| {
            needs.iter().try_fold(Leading::default(), |sum, need| need.map(|need| sum.with(need)))
        };
        let mut from = 0;
        while from < needs.len() {
            let mut to = needs.len();
            let mut enough = all(&needs[from..]);
            if enough.is_none() {
                to = to.min(from + piece);
                enough = all(&needs[from..to]);
            }
            if let Some(Leading { n, normalize }) = enough {
                let mut take = |top_logits: &TopLogits| {
                    self.top_logits(from..to, top_logits);
                    Ok(())
                };
                if s.with_top_logits(from..to, n, normalize, &mut take)? {
                    from = to;
                    continue;
                }
                // Some row is not finite: all logits tell which.
                to = to.min(from + piece);
            }
            let team = s.team;
            s.with_logits(from..to, &mut |logits, finite| self.logits(team, from..to, logits, finite))?;
            from = to;
        }
        Ok(())
    }

    /// What each asked row needs.
    fn needs(&mut self, vocab: usize, needs: &mut Vec<Option<Leading>>) {
        needs.clear();
        self.forbidden.resize_with(self.forbidden.len().max(self.asked.len()), Vec::new);
        self.outcomes.resize_with(self.outcomes.len().max(self.asked.len()), Mutex::default);
        for (asked, forbidden) in self.asked.iter().zip(&mut *self.forbidden) {
            let row = &self.rows[asked.row];
            let running = &self.running[row.running];
            // What may follow a guess is only known once it has come true.
            let context = (asked.place == 0).then(|| running.prompt.context(running.ids(row.lane)));
            needs.push(leading(&running.prompt.settings, context.as_ref(), vocab, forbidden));
        }
    }

    fn top_logits(&mut self, range: std::ops::Range<usize>, top_logits: &TopLogits) {
        for (i, n) in range.enumerate() {
            self.one(n, RowScores::of_top_logits(top_logits, i));
        }
    }

    /// Rows without guesses and processors are looked at on all threads.
    fn logits(
        &mut self,
        team: &Team<'_>,
        range: std::ops::Range<usize>,
        logits: &mut [f32],
        finite: bool,
    ) -> Result<()> {
        let vocab = logits.len() / range.len();
        let alone = range.len() < 2;
        let check = |logits: &[f32]| if finite { Ok(()) } else { self.model.check_logits(logits) };
        if !alone {
            team.run_mut(logits, vocab, &|i, logits, _| {
                let n = range.start + i;
                if self.serial(n, alone) {
                    return;
                }
                let mut outcome = self.outcomes[n].lock().unwrap_or_else(PoisonError::into_inner);
                let checked = check(logits);
                outcome.error =
                    checked.and_then(|()| self.decide(n, RowScores::Logits(logits), &mut outcome)).err();
            });
            team.check()?;
        }
        for (n, logits) in range.zip(logits.chunks_mut(vocab)) {
            if !self.serial(n, alone) {
                self.take(n);
                continue;
            }
            match if finite { Ok(()) } else { self.model.check_logits(logits) } {
                Ok(()) => self.one(n, RowScores::Logits(logits)),
                Err(error) => self.fail(n, error),
            }
        }
        Ok(())
    }

    /// Whether a row has to wait for those before it, or is the only one.
    fn serial(&self, n: usize, alone: bool) -> bool {
        let row = self.asked[n].row;
        let settings = &self.running[self.rows[row].running].prompt.settings;
        alone || settings.processor.is_some() || !self.guesses.of(row).is_empty()
    }

    fn fail(&mut self, n: usize, error: Error) {
        let call = self.running[self.rows[self.asked[n].row].running].call();
        self.report.failed.push((call, error));
    }

    /// Decides and takes one row. Scores behind a guess count if everything guessed up to there has come true.
    fn one(&mut self, n: usize, scores: RowScores<'_>) {
        let Asked { row, place, token } = self.asked[n];
        let row = &self.rows[row];
        let running = &self.running[row.running];
        if self.report.failed.iter().any(|&(call, _)| call == running.call()) {
            return;
        }
        if let (Work::Streams(list), true) = (&running.work, running.read) {
            let stream = &list[row.lane];
            let known = row.length + place;
            if stream.reason.is_some() || stream.ids.len() != known || stream.ids.last() != Some(&token) {
                return;
            }
        }
        let mut outcome =
            std::mem::take(&mut *self.outcomes[n].lock().unwrap_or_else(PoisonError::into_inner));
        outcome.error = self.decide(n, scores, &mut outcome).err();
        *self.outcomes[n].get_mut().unwrap_or_else(PoisonError::into_inner) = outcome;
        self.take(n);
    }

    /// What the scores of one row lead to.
    fn decide(&self, n: usize, mut scores: RowScores<'_>, outcome: &mut Outcome) -> Result<()> {
        let row = &self.rows[self.asked[n].row];
        let Running { prompt, work, read, .. } = &self.running[row.running];
        let (settings, forbidden) = (&*prompt.settings, &*self.forbidden[n]);
        outcome.choices.clear();
        let list = match work {
            Work::Search(searching) => {
                let beam = &searching.search.running[row.lane];
                let (context, beam) = (prompt.context(&beam.ids), (row.lane, beam.score));
                return continuations(settings, &context, beam, forbidden, scores, &mut outcome.found);
            }
            Work::Streams(list) => list,
        };
        let samples = if *read { row.lane..row.lane + 1 } else { 0..list.len() };
        let mut running = samples.filter(|&sample| list[sample].reason.is_none()).peekable();
        while let Some(sample) = running.next() {
            let context = prompt.context(&list[sample].ids);
            let mut copied;
            let own = match &mut scores {
                RowScores::TopLogits { best, normalizer } => {
                    RowScores::TopLogits { best, normalizer: *normalizer }
                }
                // Processing changes logits, and others need them too.
                RowScores::Logits(logits) if running.peek().is_some() => {
                    copied = logits.to_vec();
                    RowScores::Logits(&mut copied)
                }
                RowScores::Logits(logits) => RowScores::Logits(logits),
            };
            let choice = choose(settings, &context, prompt.sequence(sample), forbidden, own)?;
            outcome.choices.push((sample, choice));
        }
        Ok(())
    }

    /// Takes what was decided for a row.
    fn take(&mut self, n: usize) {
        let row = &self.rows[self.asked[n].row];
        let running = &mut self.running[row.running];
        let call = running.call();
        let outcome = self.outcomes[n].get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = outcome.error.take() {
            self.report.failed.push((call, error));
            return;
        }
        let first = !running.read;
        running.read = true;
        match &mut running.work {
            Work::Search(searching) => {
                searching.search.offer(&mut outcome.found);
                searching.offered += 1;
            }
            Work::Streams(list) => {
                for (sample, choice) in outcome.choices.drain(..) {
                    let event = list[sample].take(&running.prompt, sample, choice);
                    self.report.events.push((call, event));
                }
                if first {
                    for stream in &mut list[1..] {
                        stream.cache = Some(self.cache.fork(running.root));
                    }
                    list[0].cache = Some(running.root);
                }
            }
        }
    }
}
