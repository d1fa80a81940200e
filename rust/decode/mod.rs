//! Generation: a batch of prompts becomes tokens, one step for all of them at a time.
//!
//! A step feeds the last token of every running sequence in one batch, takes the logits of their last rows,
//! changes them (`process`), chooses (`sample`, `beam`) and goes on. Sequences that end leave the batch.
//! What a sequence becomes does not depend on the others: logits are equal to the bit, and a random draw
//! depends on the seed, the sequence's number and the step alone.

mod beam;
mod beams;
pub mod options;
mod prefill;
pub mod process;
pub mod sample;
mod scores;
pub mod speculate;
mod step;
mod streams;

use crate::error::{Error, Result};
use crate::model::{Cache, Model, Session};
use beam::Search;
use beams::Beams;
use options::Options;
use process::Custom;
use scores::Rules;
use speculate::Draft;
use std::sync::Arc;
use std::time::{Duration, Instant};
use streams::{Stream, Streams};

/// Why a sequence ended.
pub const STOP: &str = "stop";
/// It reached the largest number of tokens.
pub const LENGTH: &str = "length";
/// The time was up.
pub const TIME: &str = "time";

/// Refuses ids outside of the vocabulary.
pub(crate) fn in_vocabulary(name: &str, mut ids: impl Iterator<Item = u32>, vocab_size: usize) -> Result<()> {
    match ids.find(|&id| id as usize >= vocab_size) {
        Some(id) => {
            Err(Error::Option(format!("{name} holds {id}: expected ids from 0 to {}", vocab_size - 1)))
        }
        None => Ok(()),
    }
}

/// One new token.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub sequence: usize,
    pub token: u32,
    /// Log-probability under the model, before any processing; 0 unless asked for.
    pub logprob: f32,
    /// The likeliest tokens and their log-probabilities.
    pub top: Vec<(u32, f32)>,
}

/// Log-probability of a token, and the likeliest tokens with theirs.
pub type Scored = (f32, Vec<(u32, f32)>);

/// A result: ids without the prompt, score, reason, and of a beam search what each token was given, if asked for.
pub type Hypothesis = (Vec<u32>, f32, String, Vec<Scored>);

enum State {
    Streams(Streams),
    Beams(Beams),
}

/// A batch being decoded.
pub struct Generation {
    model: Arc<Model>,
    options: Options,
    prompts: Vec<Vec<u32>>,
    sources: Vec<Vec<u32>>,
    cache: Option<Cache>,
    cross: Option<Cache>,
    state: State,
    prefilled: bool,
    draft: Option<Draft>,
    deadline: Option<Instant>,
}

impl Generation {
    /// Checks everything and computes nothing yet. `sources` are the encoder's inputs, or empty.
    pub fn new(
        model: Arc<Model>,
        prompts: Vec<Vec<u32>>,
        sources: Vec<Vec<u32>>,
        options: Options,
    ) -> Result<Generation> {
        let spec = model.spec();
        let decoder = spec
            .decoder
            .as_ref()
            .ok_or_else(|| Error::Option("this model does not generate: it has no decoder".to_owned()))?;
        model.vocab_size()?;
        match (&spec.encoder, sources.len()) {
            (Some(_), n) if n != prompts.len() => {
                return Err(Error::Option(format!(
                    "{n} sources and {} prompts were given: expected as many of both",
                    prompts.len()
                )));
            }
            (None, n) if n > 0 => {
                return Err(Error::Option("sources were given: this model has no encoder".to_owned()));
            }
            _ => {}
        }
        let longest = decoder.longest();
        let mut limits = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(Error::Option(format!("prompt {i} is empty: expected at least one token")));
            }
            in_vocabulary("the prompt", prompt.iter().copied(), decoder.vocab_size())?;
            if prompt.len() >= longest {
                return Err(Error::ContextLength(format!(
                    "prompt {i} has {} tokens and no room for a new one: this model takes at most {longest}; shorten it",
                    prompt.len()
                )));
            }
            let most = options.max_tokens.map_or(longest, |n| prompt.len().saturating_add(n));
            limits.push(most.min(longest));
        }
        let state = if options.beams > 1 {
            let prompts = prompts.iter().zip(&limits);
            State::Beams(Beams::new(prompts.map(|(prompt, &limit)| Search::new(prompt, limit, &options))))
        } else {
            let stream = |(i, first): (usize, bool)| Stream {
                ids: prompts[i].clone(),
                prompt: prompts[i].len(),
                max_length: limits[i],
                source: i,
                first,
                cache: None,
                reason: None,
                score: 0.0,
            };
            let samples = (0..prompts.len()).flat_map(|i| (0..options.samples).map(move |n| (i, n == 0)));
            State::Streams(Streams::new(samples.map(stream).collect()))
        };
        Ok(Generation {
            model,
            options,
            prompts,
            sources,
            cache: None,
            cross: None,
            state,
            prefilled: false,
            draft: None,
            deadline: None,
        })
    }

    /// The same with a smaller model that guesses tokens; the result does not depend on it.
    pub fn with_draft(mut self, draft: Arc<Model>) -> Result<Generation> {
        self.draft = Some(Draft::new(&self.model, draft)?);
        Ok(self)
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Whether nothing is left to do.
    pub fn finished(&self) -> bool {
        self.unfinished() == 0
    }

    /// How many prompts have a sequence that is not at its end.
    pub fn unfinished(&self) -> usize {
        match &self.state {
            State::Streams(streams) => streams
                .list
                .chunks(self.options.samples)
                .filter(|samples| samples.iter().any(|s| s.reason.is_none()))
                .count(),
            State::Beams(beams) => beams.list.iter().filter(|l| !l.search.over).count(),
        }
    }

    /// Ends a sequence from outside.
    pub fn stop(&mut self, sequence: usize, reason: &str) -> Result<()> {
        let State::Streams(streams) = &mut self.state else {
            return Err(Error::Option("a beam search has no single sequence to stop".to_owned()));
        };
        let count = streams.list.len();
        let stream = streams.list.get_mut(sequence).ok_or_else(|| {
            Error::Option(format!("sequence {sequence} is out of range: expected 0 to {}", count - 1))
        })?;
        if stream.reason.is_none() {
            stream.reason = Some(reason.to_owned());
        }
        Ok(())
    }

    /// Runs up to `steps` steps (0: to the end) and adds the new tokens to `events`.
    pub fn advance(
        &mut self,
        s: &mut Session<'_>,
        steps: usize,
        custom: Option<Custom<'_>>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let mut left = if steps == 0 { usize::MAX } else { steps };
        while left > 0 && !self.finished() {
            let result = self.step(s, custom, events);
            if let Err(error) = result {
                // What is half done is not to be continued.
                self.cache = None;
                return Err(error);
            }
            if self.late()
                && let State::Streams(streams) = &mut self.state
            {
                streams.end(TIME);
            }
            left -= 1;
        }
        if self.finished() {
            self.end();
        }
        Ok(())
    }

    fn late(&self) -> bool {
        self.deadline.is_some_and(|end| Instant::now() >= end)
    }

    /// Leaves what was computed, and the memory, to later generations.
    fn end(&mut self) {
        if let (State::Streams(streams), Some(cache)) = (&mut self.state, &mut self.cache) {
            streams.list.iter_mut().for_each(|stream| stream.leave(&self.model, cache));
        }
        for (cache, cross) in [(self.cache.take(), false), (self.cross.take(), true)] {
            if let Some(cache) = cache {
                self.model.recycle(cache, cross);
            }
        }
    }

    fn step(
        &mut self,
        s: &mut Session<'_>,
        custom: Option<Custom<'_>>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let vocab = self.model.vocab_size()?;
        if !self.prefilled {
            // A time that the clock cannot hold never comes.
            let seconds = self.options.max_time.map(Duration::try_from_secs_f64);
            self.deadline = seconds.and_then(|s| Instant::now().checked_add(s.ok()?));
            let logits = self.prefill(s, vocab)?;
            self.prefilled = true;
            return self.first(&logits, custom, vocab, events);
        }
        let late = self.late();
        let mut cache = self.cache.take().ok_or_else(|| {
            Error::Option(
                "this generation was interrupted and cannot be continued: start it again".to_owned(),
            )
        })?;
        let rules = Rules::new(&self.options, &self.prompts, &self.sources, custom, vocab);
        let cross = self.cross.as_mut();
        let result = match &mut self.state {
            State::Streams(streams) => {
                streams.retire(&self.model, &mut cache, self.draft.as_mut());
                streams.step(&rules, s, &mut cache, cross, self.draft.as_mut(), events)
            }
            State::Beams(beams) => beams.step(&rules, s, &mut cache, cross, late),
        };
        self.cache = Some(cache);
        result
    }

    /// Per prompt its hypotheses, best first.
    pub fn results(&self) -> Vec<Vec<Hypothesis>> {
        match &self.state {
            State::Streams(streams) => streams.results(&self.options),
            State::Beams(beams) => beams.results(&self.options),
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.end();
    }
}

/// All ids one after the other, and the borders.
pub fn concatenate<T: AsRef<[u32]>>(parts: &[T]) -> (Vec<u32>, Vec<usize>) {
    let mut starts = vec![0];
    let mut ids = Vec::new();
    for part in parts {
        ids.extend_from_slice(part.as_ref());
        starts.push(ids.len());
    }
    (ids, starts)
}
