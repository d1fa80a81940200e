//! The mailbox of a call: events of its sequences until its thread takes them, and its results.

use super::running_batch::Report;
use super::sequence::{Event, FinishReason, Hypothesis, Settings};
use crate::error::Error;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar};
use std::thread::ThreadId;

/// Maximum number of steps that a call takes part in while its thread does something else.
const MAX_AHEAD: usize = 16;

/// A stream up to the last event taken, or a prompt of a beam search.
#[derive(Default)]
struct Lane {
    ids: Vec<u32>,
    score: f32,
    reason: Option<FinishReason>,
    /// Whether the caller ended it: later events are dropped.
    stopped: bool,
    /// Number of events not taken yet.
    pending: usize,
    hypotheses: Vec<Hypothesis>,
}

pub(super) struct Mailbox {
    settings: Arc<Settings>,
    lanes: Vec<Lane>,
    events: VecDeque<Event>,
    /// Number of events of each step not taken yet; `open` counts those after the last full step.
    steps: VecDeque<usize>,
    open: usize,
    /// Number of running lanes.
    live: usize,
    pub error: Option<Error>,
    /// Number of steps that the call's thread waits for; 0: all.
    pub wanted: Option<usize>,
    /// The thread of the last request.
    pub thread: Option<ThreadId>,
    /// Whether the scheduler has it.
    pub scheduled: bool,
    pub woken: Arc<Condvar>,
}

impl Mailbox {
    pub fn new(settings: Arc<Settings>, prompts: usize) -> Mailbox {
        let count = prompts * settings.options.samples;
        let mut lanes = Vec::new();
        lanes.resize_with(count, Lane::default);
        Mailbox {
            settings,
            lanes,
            events: VecDeque::new(),
            steps: VecDeque::new(),
            open: 0,
            live: count,
            error: None,
            wanted: None,
            thread: None,
            scheduled: false,
            woken: Arc::default(),
        }
    }

    /// Whether all lanes have ended and all events have been taken.
    pub fn finished(&self) -> bool {
        self.live == 0 && self.events.is_empty()
    }

    /// Number of prompts with an unfinished sequence.
    pub fn unfinished(&self) -> usize {
        let open = |lane: &Lane| lane.reason.is_none() || lane.pending > 0 && !lane.stopped;
        self.lanes.chunks(self.settings.options.samples).filter(|lanes| lanes.iter().any(open)).count()
    }

    /// Whether the call has the requested steps.
    pub fn satisfied(&self) -> bool {
        let enough = self.wanted.is_none_or(|steps| steps > 0 && self.steps.len() >= steps);
        enough || self.live == 0 || self.error.is_some()
    }

    /// Whether its sequences take part in a step that `driver` computes. A call whose thread does something
    /// else continues for some steps, so that the streams of several threads share theirs. Exceptions are
    /// other calls of the driver's thread, which cannot take events meanwhile, unless they are of a row, and
    /// calls with a processor, which runs on its own thread.
    pub fn takes_part(&self, driver: ThreadId) -> bool {
        let own = self.thread == Some(driver);
        if self.live == 0 || self.error.is_some() || self.settings.processor.is_some() && !own {
            return false;
        }
        let elsewhere = !own && self.thread.is_some();
        !self.satisfied() || (elsewhere || self.settings.row.is_some()) && self.steps.len() < MAX_AHEAD
    }

    /// Whether its thread waits for steps that only this thread can compute: processors may depend on their
    /// thread (locks that it holds, thread-local values).
    pub fn must_drive(&self) -> bool {
        self.settings.processor.is_some() && !self.satisfied()
    }

    /// Ends a stream at the caller's request; false if it has already ended.
    pub fn stop(&mut self, sequence: usize, reason: FinishReason) -> bool {
        let lane = &mut self.lanes[sequence];
        if lane.stopped || lane.reason.is_some() && lane.pending == 0 {
            return false;
        }
        self.live -= usize::from(lane.reason.is_none());
        (lane.stopped, lane.reason) = (true, Some(reason));
        true
    }

    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Adds the events of up to `steps` steps (0: all) to `out`.
    pub fn take(&mut self, steps: usize, out: &mut Vec<Event>) {
        let count = if steps == 0 || self.steps.len() < steps {
            self.steps.clear();
            self.open = 0;
            self.events.len()
        } else {
            self.steps.drain(..steps).sum()
        };
        for event in self.events.drain(..count) {
            let lane = &mut self.lanes[event.sequence];
            lane.pending -= 1;
            if !lane.stopped {
                lane.ids.push(event.token);
                lane.score += event.logprob;
                out.push(event);
            }
        }
    }

    fn end(&mut self, lane: usize, reason: FinishReason) {
        let lane = &mut self.lanes[lane];
        if lane.reason.is_none() {
            lane.reason = Some(reason);
            self.live -= 1;
        }
    }

    /// The hypotheses of each prompt, best first.
    pub fn results(&self) -> Vec<Vec<Hypothesis>> {
        let o = &self.settings.options;
        if o.beams > 1 {
            return self.lanes.iter().map(|lane| lane.hypotheses.clone()).collect();
        }
        let result = |lane: &Lane| {
            let divisor = (lane.ids.len().max(1) as f64).powf(o.length_penalty) as f32;
            let (ids, score) = (lane.ids.clone(), lane.score / divisor);
            Hypothesis { ids, score, reason: lane.reason, scored: Vec::new() }
        };
        self.lanes.chunks(o.samples).map(|lanes| lanes.iter().map(result).collect()).collect()
    }
}

impl Report {
    /// Delivers the results of steps; those of calls that have left are dropped.
    pub(super) fn deliver(&mut self, calls: &mut HashMap<u64, Mailbox>) {
        for (call, event) in self.events.drain(..) {
            if let Some(mailbox) = calls.get_mut(&call) {
                mailbox.lanes[event.sequence].pending += 1;
                mailbox.open += 1;
                mailbox.events.push_back(event);
            }
        }
        for (call, sequence, reason) in self.ended.drain(..) {
            if let Some(mailbox) = calls.get_mut(&call) {
                mailbox.end(sequence, reason);
            }
        }
        for (call, prompt, hypotheses) in self.hypotheses.drain(..) {
            if let Some(mailbox) = calls.get_mut(&call) {
                mailbox.lanes[prompt].hypotheses = hypotheses;
                mailbox.end(prompt, FinishReason::Stop);
            }
        }
        for call in self.rounds.drain(..) {
            if let Some(mailbox) = calls.get_mut(&call) {
                mailbox.steps.push_back(std::mem::take(&mut mailbox.open));
            }
        }
        for (call, error) in self.failed.drain(..) {
            if let Some(mailbox) = calls.get_mut(&call) {
                mailbox.error.get_or_insert(error);
            }
        }
    }
}
