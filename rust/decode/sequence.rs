//! Types shared by the files of this module: sequences, prompts, events and results.

use super::options::Options;
use super::process::{Context, ProcessorRef};
use crate::error::{Error, Result};
use crate::model::SequenceId;
use std::sync::Arc;

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token, a stop string or a request of the caller.
    Stop,
    /// The maximum number of tokens.
    Length,
    /// The time limit.
    Time,
}

impl FinishReason {
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Time => "time",
        }
    }

    pub fn parse(name: &str) -> Result<FinishReason> {
        let all = [FinishReason::Stop, FinishReason::Length, FinishReason::Time];
        all.into_iter().find(|reason| reason.name() == name).ok_or_else(|| {
            Error::Option(format!("the finish reason is {name:?}: expected \"stop\", \"length\" or \"time\""))
        })
    }
}

/// One new token of a call's sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub sequence: usize,
    pub token: u32,
    /// Log-probability under the model, before any processing; 0 unless requested.
    pub logprob: f32,
    /// The most probable tokens and their log-probabilities.
    pub top: Vec<(u32, f32)>,
}

/// Log-probability of a token, and the most probable tokens with theirs.
pub type Scored = (f32, Vec<(u32, f32)>);

/// A result: ids without the prompt, and for a beam search the log-probabilities of each token, if requested.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    pub ids: Vec<u32>,
    pub score: f32,
    /// `None` while the sequence runs.
    pub reason: Option<FinishReason>,
    pub scored: Vec<Scored>,
}

/// A token, its log-probability and the most probable tokens with theirs, if requested.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub token: u32,
    pub logprob: f32,
    pub top: Vec<(u32, f32)>,
}

/// A function of the caller that changes logits: (ids so far, logits).
pub type Processor = Arc<dyn Fn(&[u32], &mut [f32]) -> Result<()> + Send + Sync>;

/// What the sequences of a call share.
pub struct Settings {
    /// Number of the call in its engine.
    pub call: u64,
    pub options: Options,
    pub processor: Option<Processor>,
    /// Number of the first prompt, if the call is one of a row (`Request::row`).
    pub row: Option<usize>,
}

impl Settings {
    pub(super) fn processor(&self) -> Option<ProcessorRef<'_>> {
        self.processor.as_deref().map(|processor| processor as ProcessorRef<'_>)
    }
}

/// A prompt to continue.
pub(super) struct Prompt {
    pub settings: Arc<Settings>,
    /// Index in the call's prompts.
    pub number: usize,
    pub ids: Vec<u32>,
    /// Ids of the encoder's input; empty without an encoder.
    pub source: Vec<u32>,
    /// Maximum length of its sequences.
    pub max_length: usize,
}

impl Prompt {
    /// The context of processors for a sequence of this prompt.
    pub fn context<'a>(&'a self, ids: &'a [u32]) -> Context<'a> {
        let source = if self.source.is_empty() { &self.ids } else { &self.source };
        Context { ids, prompt: self.ids.len(), max_length: self.max_length, source }
    }

    /// Number of sequences that run side by side for it.
    pub fn width(&self) -> usize {
        self.settings.options.samples.max(self.settings.options.beams)
    }

    /// Index of one of its samples in the call's sequences.
    pub fn sequence(&self, sample: usize) -> usize {
        self.number * self.settings.options.samples + sample
    }
}

/// A sequence being generated without beam search.
pub(super) struct Stream {
    pub ids: Vec<u32>,
    /// `None` until the prompt has been read, and after the end.
    pub cache: Option<SequenceId>,
    pub reason: Option<FinishReason>,
}

impl Stream {
    /// Appends the chosen token; ends at an end token or at the maximum length.
    pub fn take(&mut self, prompt: &Prompt, sample: usize, choice: Choice) -> Event {
        let Choice { token, logprob, top } = choice;
        self.ids.push(token);
        if prompt.settings.options.ends(token) {
            self.reason = Some(FinishReason::Stop);
        } else if self.ids.len() >= prompt.max_length {
            self.reason = Some(FinishReason::Length);
        }
        Event { sequence: prompt.sequence(sample), token, logprob, top }
    }
}
