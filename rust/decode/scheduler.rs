//! The scheduler: waiting prompts, active prompts, and the one cache of all sequences.
//!
//! A step feeds the tokens of each sequence that are not cached yet: the newest token and the guesses of a
//! running sequence, a piece of a prompt that is being read. So the first step is like any other, and
//! sequences join and leave between steps. The results of a sequence do not depend on the others: logits are
//! equal to the bit, and a random draw depends only on the seed, the sequence's number in its call and the
//! step.

use super::active_prompt::{ActivePrompt, Work};
use super::running_batch::{CallState, Report, RunningBatch};
use super::sequence::{FinishReason, Prompt};
use super::step::Step;
use crate::error::{Error, Result};
use crate::model::prefix::{self, Prefixes};
use crate::model::{Batch, ENCODER_ROWS, Model, SequenceId, Session};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Maximum number of sequences that run at a time; further prompts wait.
const MAX_RUNNING: usize = 128;
/// Maximum memory of an idle cache in bytes.
const MAX_IDLE_BYTES: usize = 64 << 20;

pub(super) struct Scheduler {
    pub state: RunningBatch,
    waiting: VecDeque<Prompt>,
    step: Step,
}

impl Scheduler {
    /// # Errors
    /// The model has no decoder.
    pub fn new(model: Arc<Model>, prefix_bytes: usize) -> Result<Scheduler> {
        let sources = model.spec().encoder.as_ref().map(|_| model.cache(true)).transpose()?;
        let mut cache = model.cache(false)?;
        let prefixes = prefix::reusable(model.spec()).then(|| Prefixes::new(prefix_bytes, &mut cache));
        let state = RunningBatch {
            cache,
            model,
            sources,
            prefixes,
            call_states: HashMap::new(),
            running: Vec::new(),
            report: Report::default(),
        };
        Ok(Scheduler { state, waiting: VecDeque::new(), step: Step::default() })
    }

    pub fn add(&mut self, call: u64, call_state: CallState, prompts: Vec<Prompt>) {
        self.state.call_states.insert(call, call_state);
        self.waiting.extend(prompts);
    }

    /// Ends one stream of a call.
    pub fn stop(&mut self, call: u64, sequence: usize, reason: FinishReason) {
        let samples = |prompt: &Prompt| prompt.settings.options.samples;
        let found =
            |prompt: &Prompt| prompt.settings.call == call && prompt.number == sequence / samples(prompt);
        if let Some(running) = self.state.running.iter_mut().find(|running| found(&running.prompt))
            && let Work::Streams(list) = &mut running.work
        {
            let sample = sequence % list.len();
            list[sample].reason.get_or_insert(reason);
            self.state.retire();
        } else if let Some(i) = self.waiting.iter().position(|prompt| found(prompt) && samples(prompt) == 1) {
            self.waiting.remove(i);
        }
    }

    /// Removes a call's sequences; they become prefixes.
    pub fn remove(&mut self, call: u64) {
        self.waiting.retain(|prompt| prompt.settings.call != call);
        self.state.take_out(call, true);
        self.state.call_states.remove(&call);
        self.trim();
    }

    pub fn limit_prefixes(&mut self, bytes: usize) {
        if let Some(prefixes) = &mut self.state.prefixes {
            prefixes.limit(bytes, &mut self.state.cache);
        }
        self.trim();
    }

    pub fn prefixes(&self) -> prefix::Summary {
        self.state.prefixes.as_ref().map(Prefixes::summary).unwrap_or_default()
    }

    /// One step of all active calls; the report holds its results, also those of a step that failed half-way.
    /// Sequences without a new token are then unchanged.
    ///
    /// # Errors
    /// The step was interrupted.
    pub fn step(&mut self, s: &mut Session<'_>) -> Result<()> {
        self.close_rounds();
        self.step.clear();
        let result = self.admit(s).and_then(|()| self.step.run(&mut self.state, s));
        self.settle(result.is_ok());
        match result {
            Err(error) if error != Error::Interrupted => {
                // The error is not of a single sequence: it fails all calls that took part in the step.
                let mut calls: Vec<u64> = self.step.calls().collect();
                if calls.is_empty() {
                    calls = self
                        .state
                        .call_states
                        .iter()
                        .filter(|(_, call_state)| call_state.active)
                        .map(|(&call, _)| call)
                        .collect();
                }
                calls.into_iter().for_each(|call| self.state.report.failed.push((call, error.clone())));
                self.drop_failed();
                Ok(())
            }
            result => {
                self.drop_failed();
                self.close_rounds();
                self.trim();
                result
            }
        }
    }

    /// Admits waiting prompts while there is room, in order of arrival; their sources are encoded together.
    fn admit(&mut self, s: &mut Session<'_>) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let running = self.state.running.iter().filter(|running| self.state.active(running.call()));
        let mut width: usize = running.map(|running| running.prompt.width()).sum();
        let (mut admitted, mut rows, mut i) = (Vec::new(), 0, 0);
        while let Some(prompt) = self.waiting.get(i) {
            if !self.state.active(prompt.settings.call) {
                i += 1;
                continue;
            }
            let (next, length) = (width + prompt.width(), rows + prompt.source.len());
            if width > 0 && next > MAX_RUNNING || !admitted.is_empty() && length > ENCODER_ROWS {
                break;
            }
            (width, rows) = (next, length);
            admitted.extend(self.waiting.remove(i));
        }
        let sources = match self.encode(s, &admitted) {
            Ok(sources) => sources,
            Err(Error::Interrupted) => {
                admitted.into_iter().rev().for_each(|prompt| self.waiting.push_front(prompt));
                return Err(Error::Interrupted);
            }
            Err(error) if admitted.len() == 1 => {
                self.state.report.failed.push((admitted[0].settings.call, error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (i, prompt) in admitted.into_iter().enumerate() {
            if let Some(call_state) = self.state.call_states.get_mut(&prompt.settings.call) {
                call_state.begin(&prompt.settings);
            }
            let root = match &mut self.state.prefixes {
                Some(prefixes) => prefixes.start(&prompt.ids, &mut self.state.cache),
                None => self.state.cache.start(),
            };
            self.state.running.push(ActivePrompt::new(prompt, root, sources.get(i).copied()));
        }
        Ok(())
    }

    /// Encodes the sources of prompts; returns nothing without an encoder.
    fn encode(&mut self, s: &mut Session<'_>, prompts: &[Prompt]) -> Result<Vec<SequenceId>> {
        let Some(cache) = self.state.sources.as_mut().filter(|_| !prompts.is_empty()) else {
            return Ok(Vec::new());
        };
        let (mut ids, mut starts) = (Vec::new(), vec![0]);
        for prompt in prompts {
            ids.extend_from_slice(&prompt.source);
            starts.push(ids.len());
        }
        let sequences: Vec<SequenceId> = prompts.iter().map(|_| cache.start()).collect();
        let batch = Batch { ids: &ids, starts: &starts, segments: None, unseen: None };
        let encoded = s.encode_sources_into(&batch, cache, &sequences);
        if encoded.is_err() {
            sequences.iter().for_each(|&id| cache.release(id));
        }
        encoded.map(|()| sequences)
    }

    /// Ends a step: rolls back sequences without a new token, advances beam searches, removes sequences that
    /// have ended.
    fn settle(&mut self, whole: bool) {
        self.step.roll_back(&mut self.state.cache, &self.state.running, &mut self.state.call_states);
        for row in self.step.rows().filter(|row| whole && row.done) {
            let running = &mut self.state.running[row.running];
            running.fed |= running.read;
            if let Some(call_state) = self.state.call_states.get_mut(&running.call()) {
                call_state.stepped |= running.fed;
            }
        }
        for running in &mut self.state.running {
            let Some(call_state) = self.state.call_states.get(&running.call()) else { continue };
            let late = running.read && call_state.active && call_state.late();
            match &mut running.work {
                Work::Streams(list) if late => {
                    list.iter_mut().for_each(|stream| {
                        stream.reason.get_or_insert(FinishReason::Time);
                    });
                }
                Work::Streams(_) => {}
                Work::Search(searching) if searching.offered == 0 => {}
                Work::Search(searching) if searching.complete() => {
                    searching.advance(&running.prompt.settings.options, &mut self.state.cache, late);
                }
                Work::Search(searching) => searching.withdraw(),
            }
        }
        self.state.retire();
        self.expire();
    }

    /// Ends waiting prompts past their time limit without a token; beam searches get one step to find
    /// hypotheses.
    fn expire(&mut self) {
        let Scheduler { state: RunningBatch { call_states, report, .. }, waiting, .. } = self;
        if call_states.values().all(|call_state| call_state.deadline.is_none()) {
            return;
        }
        waiting.retain(|prompt| {
            let o = &prompt.settings.options;
            let late = o.beams == 1 && call_states.get(&prompt.settings.call).is_some_and(CallState::late);
            if late {
                let samples = (0..o.samples).map(|sample| prompt.sequence(sample));
                report.ended.extend(samples.map(|n| (prompt.settings.call, n, FinishReason::Time)));
            }
            !late
        });
    }

    fn drop_failed(&mut self) {
        for i in 0..self.state.report.failed.len() {
            let call = self.state.report.failed[i].0;
            self.waiting.retain(|prompt| prompt.settings.call != call);
            self.state.take_out(call, false);
        }
    }

    /// Ends the rounds of calls in which all running sequences have been fed and no prompt is still being
    /// read.
    fn close_rounds(&mut self) {
        for (&call, call_state) in
            self.state.call_states.iter_mut().filter(|(_, call_state)| call_state.stepped)
        {
            let mut own = self.state.running.iter_mut().filter(|running| running.call() == call);
            if own.all(|running| running.read) {
                call_state.stepped = false;
                self.state
                    .running
                    .iter_mut()
                    .filter(|running| running.call() == call)
                    .for_each(|running| running.fed = false);
                self.state.report.rounds.push(call);
            }
        }
    }

    /// Frees unused memory once no sequence is running.
    fn trim(&mut self) {
        if self.state.running.is_empty() {
            self.state.cache.shrink(MAX_IDLE_BYTES);
            if let Some(sources) = &mut self.state.sources {
                sources.shrink(MAX_IDLE_BYTES);
            }
        }
    }
}
