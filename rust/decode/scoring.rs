//! From the scores of rows to tokens of streams and continuations of beams.

use super::active_prompt::{ActivePrompt, Work};
use super::beam_search::Candidate;
use super::feed::Asked;
use super::running_batch::Report;
use super::scores::{Leading, RowScores, choose, continuations, leading};
use super::sequence::Choice;
use super::speculate::Guesses;
use crate::error::{Error, Result};
use crate::model::{Cache, Model, SequenceId, Session};
use crate::ops::top_logits::TopLogits;
use crate::threads::Team;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Maximum bytes of logits stored at a time.
const MAX_LOGIT_BYTES: usize = 64 << 20;

/// A row of the feed: a lane, or a prompt that is being read.
pub(super) struct Row {
    /// Index of the prompt in the batch.
    pub running: usize,
    pub lane: usize,
    pub sequence: SequenceId,
    /// Cached tokens, and tokens of the sequence, before the step.
    pub cached: usize,
    pub length: usize,
    /// Whether all its tokens have been fed.
    pub done: bool,
}

/// Result of the scores of a row.
#[derive(Default)]
pub(super) struct Outcome {
    /// The token of a stream; after a prompt, one for each running sample.
    choices: Vec<(usize, Choice)>,
    /// Of a beam.
    found: Vec<Candidate>,
    error: Option<Error>,
}

/// Everything that the scores of a pass are used with.
pub(super) struct Scoring<'a> {
    pub model: &'a Model,
    pub rows: &'a [Row],
    pub asked: &'a [Asked],
    pub guesses: &'a Guesses,
    pub forbidden: &'a mut Vec<Vec<u32>>,
    pub cache: &'a mut Cache,
    pub running: &'a mut [ActivePrompt],
    pub report: &'a mut Report,
    pub outcomes: &'a mut Vec<Mutex<Outcome>>,
}

impl Scoring<'_> {
    /// Uses the scores of all asked rows: the top-k alone if that is enough for all remaining rows, else all
    /// logits in pieces of bounded size.
    pub fn run(mut self, s: &mut Session<'_>, needs: &mut Vec<Option<Leading>>) -> Result<()> {
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
                // Some row is not finite: computing all logits shows which.
                to = to.min(from + piece);
            }
            let team = s.team;
            s.with_logits(from..to, &mut |logits, finite| self.logits(team, from..to, logits, finite))?;
            from = to;
        }
        Ok(())
    }

    /// The top-k that each asked row needs.
    fn needs(&mut self, vocab: usize, needs: &mut Vec<Option<Leading>>) {
        needs.clear();
        self.forbidden.resize_with(self.forbidden.len().max(self.asked.len()), Vec::new);
        self.outcomes.resize_with(self.outcomes.len().max(self.asked.len()), Mutex::default);
        for (asked, forbidden) in self.asked.iter().zip(&mut *self.forbidden) {
            let row = &self.rows[asked.row];
            let running = &self.running[row.running];
            // The context of a guess is known only once the guess is confirmed.
            let context = (asked.place == 0).then(|| running.prompt.context(running.ids(row.lane)));
            needs.push(leading(&running.prompt.settings, context.as_ref(), vocab, forbidden));
        }
    }

    fn top_logits(&mut self, range: Range<usize>, top_logits: &TopLogits) {
        for (i, n) in range.enumerate() {
            self.one(n, RowScores::of_top_logits(top_logits, i));
        }
    }

    /// Decides rows without guesses and processors on all threads.
    fn logits(
        &mut self,
        team: &Team<'_>,
        range: Range<usize>,
        logits: &mut [f32],
        finite: bool,
    ) -> Result<()> {
        let vocab = logits.len() / range.len();
        let alone = range.len() < 2;
        let model = self.model;
        let check = |logits: &[f32]| if finite { Ok(()) } else { model.check_logits(logits) };
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
            match check(logits) {
                Ok(()) => self.one(n, RowScores::Logits(logits)),
                Err(error) => self.fail(n, error),
            }
        }
        Ok(())
    }

    /// Whether a row depends on those before it, or is the only one.
    fn serial(&self, n: usize, alone: bool) -> bool {
        let row = self.asked[n].row;
        let settings = &self.running[self.rows[row].running].prompt.settings;
        alone || settings.processor.is_some() || !self.guesses.of(row).is_empty()
    }

    fn fail(&mut self, n: usize, error: Error) {
        let call = self.running[self.rows[self.asked[n].row].running].call();
        self.report.failed.push((call, error));
    }

    /// Decides and applies one row. The scores of a guess are used if all guesses up to it are confirmed.
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

    /// The outcome of the scores of one row.
    fn decide(&self, n: usize, mut scores: RowScores<'_>, outcome: &mut Outcome) -> Result<()> {
        let row = &self.rows[self.asked[n].row];
        let ActivePrompt { prompt, work, read, .. } = &self.running[row.running];
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
                // A copy: processing changes logits that other samples need.
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

    /// Applies the outcome of a row.
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
