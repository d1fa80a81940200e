//! The running batch: active prompts, their calls, and the caches of their sequences.

use super::active_prompt::{ActivePrompt, Work};
use super::sequence::{Event, FinishReason, Hypothesis, Settings};
use super::speculate::Draft;
use crate::error::Error;
use crate::model::prefix::Prefixes;
use crate::model::{Cache, Model};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A call as the scheduler sees it.
pub(super) struct CallState {
    pub draft: Option<Draft>,
    /// Whether its sequences take part in the next step.
    pub active: bool,
    /// Whether any of its sequences has been fed in the current round.
    pub stepped: bool,
    pub deadline: Option<Instant>,
    begun: bool,
}

impl CallState {
    pub fn new(draft: Option<Draft>) -> CallState {
        CallState { draft, active: false, stepped: false, deadline: None, begun: false }
    }

    /// Starts the clock with the first step.
    pub fn begin(&mut self, settings: &Settings) {
        if !self.begun {
            self.begun = true;
            // A time beyond the range of the clock is no limit.
            let seconds = settings.options.max_time.map(Duration::try_from_secs_f64);
            self.deadline = seconds.and_then(|s| Instant::now().checked_add(s.ok()?));
        }
    }

    pub fn late(&self) -> bool {
        self.deadline.is_some_and(|end| Instant::now() >= end)
    }
}

/// Results of steps that have not been delivered yet, by call.
#[derive(Default)]
pub(super) struct Report {
    pub events: Vec<(u64, Event)>,
    /// Streams that ended, by number.
    pub ended: Vec<(u64, usize, FinishReason)>,
    /// Beam searches that ended, by number of the prompt.
    pub hypotheses: Vec<(u64, usize, Vec<Hypothesis>)>,
    pub failed: Vec<(u64, Error)>,
    /// Calls that have finished a round, in which each running sequence is fed once: one step of the call.
    pub rounds: Vec<u64>,
}

/// The data that a step reads and changes.
pub(super) struct RunningBatch {
    pub model: Arc<Model>,
    /// Keys and values of all sequences.
    pub cache: Cache,
    /// Keys and values of sources, in an encoder-decoder.
    pub sources: Option<Cache>,
    pub prefixes: Option<Prefixes>,
    pub call_states: HashMap<u64, CallState>,
    pub running: Vec<ActivePrompt>,
    pub report: Report,
}

impl RunningBatch {
    /// Whether a call takes part in steps.
    pub fn active(&self, call: u64) -> bool {
        self.call_states.get(&call).is_some_and(|call_state| call_state.active)
    }

    /// Removes a call's sequences from the batch; `keep`: they become prefixes.
    pub fn take_out(&mut self, call: u64, keep: bool) {
        let RunningBatch { cache, sources, prefixes, running, .. } = self;
        running.retain_mut(|running| {
            if running.call() == call {
                running.retire(true, cache, prefixes.as_mut().filter(|_| keep), None, &mut |_, _| {});
                release_source(running, sources);
            }
            running.call() != call
        });
    }

    /// Removes the sequences that have ended.
    pub fn retire(&mut self) {
        let RunningBatch { cache, sources, prefixes, call_states, running, report, .. } = self;
        running.retain_mut(|running| {
            let (call, over) = (running.call(), running.over());
            let draft = call_states.get_mut(&call).and_then(|call_state| call_state.draft.as_mut());
            running.retire(false, cache, prefixes.as_mut(), draft, &mut |number, stream| {
                report.ended.extend(stream.reason.map(|reason| (call, number, reason)));
            });
            if over {
                if let Work::Search(searching) = &running.work {
                    let found = searching.search.hypotheses(&running.prompt.settings.options);
                    report.hypotheses.push((call, running.prompt.number, found));
                }
                release_source(running, sources);
            }
            !over
        });
    }
}

/// Releases the keys and values of the source of a prompt that leaves the batch.
fn release_source(running: &ActivePrompt, sources: &mut Option<Cache>) {
    if let (Some(source), Some(sources)) = (running.source, sources) {
        sources.release(source);
    }
}
