//! What a call is owed: the events of its sequences until its thread takes them, and its results.

use super::running_batch::Report;
use super::sequence::{Event, FinishReason, Hypothesis, Settings};
use crate::error::Error;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar};
use std::thread::ThreadId;

/// Steps that a call takes part in while its thread is elsewhere.
const MAX_AHEAD: usize = 16;

/// A stream as far as its events were taken, or a prompt of a beam search.
#[derive(Default)]
struct Lane {
    ids: Vec<u32>,
    score: f32,
    reason: Option<FinishReason>,
    /// Whether the caller ended it: later events are not for it.
    stopped: bool,
    /// Events that were not taken yet.
    pending: usize,
    hypotheses: Vec<Hypothesis>,
}

pub(super) struct Mailbox {
    settings: Arc<Settings>,
    lanes: Vec<Lane>,
    events: VecDeque<Event>,
    /// Events of each step that was not taken yet, and those behind the last full step.
    steps: VecDeque<usize>,
    open: usize,
    /// Lanes that run.
    live: usize,
    pub error: Option<Error>,
    /// Steps that the call's thread waits for; 0: all.
    pub wanted: Option<usize>,
    /// The thread that asked last.
    pub thread: Option<ThreadId>,
    /// Whether the scheduler knows of it.
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

    /// Whether nothing is left to compute and to take.
    pub fn finished(&self) -> bool {
        self.live == 0 && self.events.is_empty()
    }

    /// Prompts with a sequence that is not at its end.
    pub fn unfinished(&self) -> usize {
        let open = |lane: &Lane| lane.reason.is_none() || lane.pending > 0 && !lane.stopped;
        self.lanes.chunks(self.settings.options.samples).filter(|lanes| lanes.iter().any(open)).count()
    }

    /// Whether the call has what its thread waits for.
    pub fn satisfied(&self) -> bool {
        let enough = self.wanted.is_none_or(|steps| steps > 0 && self.steps.len() >= steps);
        enough || self.live == 0 || self.error.is_some()
    }

    /// Whether its sequences take part in a step that `driver` computes. A call whose thread is elsewhere goes on for some
    /// steps, so that streams of several threads share theirs; not one of the driver's own thread, which cannot ask for them
    /// meanwhile, and none with a processor, which runs on its own thread.
    pub fn takes_part(&self, driver: ThreadId) -> bool {
        let own = self.thread == Some(driver);
        if self.live == 0 || self.error.is_some() || self.settings.processor.is_some() && !own {
            return false;
        }
        !self.satisfied() || !own && self.thread.is_some() && self.steps.len() < MAX_AHEAD
    }

    /// Whether its thread waits for steps that only it can drive: processors may depend on their thread, for locks it holds or
    /// for values of its own.
    pub fn must_drive(&self) -> bool {
        self.settings.processor.is_some() && !self.satisfied()
    }

    /// Ends a stream from outside; false if it was at its end.
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

    /// Per prompt its hypotheses, best first.
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
    /// Hands over what steps have brought; calls that have left get nothing.
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
