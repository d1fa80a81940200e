//! A call of the engine: prompts that are added together; one thread receives their new tokens.

use super::engine::{Command, Engine};
use super::mailbox::Mailbox;
use super::options::{Options, in_vocabulary};
use super::running_batch::CallState;
use super::sequence::{Event, FinishReason, Hypothesis, Processor, Prompt, Settings};
use super::speculate::Draft;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::threads::Hook;
use std::sync::Arc;

/// Prompts to continue with the same options.
#[derive(Default)]
pub struct Request {
    pub prompts: Vec<Vec<u32>>,
    /// Inputs of the encoder; empty without an encoder.
    pub sources: Vec<Vec<u32>>,
    pub options: Options,
    /// Maximum number of new tokens of each prompt, in place of `max_tokens`; empty if all use `max_tokens`.
    pub limits: Vec<usize>,
    pub processor: Option<Processor>,
    /// A smaller model that proposes tokens; results do not depend on it.
    pub draft: Option<Arc<Model>>,
    /// The calls of a row are those of one list whose prompts join one by one: this is the number of the first
    /// prompt in the list, from which its random draws follow. Calls of a row take part in the steps of each
    /// other on the same thread, which takes the events of all in turn.
    pub row: Option<usize>,
}

/// Prompts being continued. Dropping this removes them from the batch.
pub struct Call {
    engine: Arc<Engine>,
    settings: Arc<Settings>,
    process: u32,
}

/// Checks prompts; returns the maximum length of each prompt's sequences.
fn lengths(model: &Model, request: &Request) -> Result<Vec<usize>> {
    let decoder = model
        .spec()
        .decoder
        .as_ref()
        .ok_or_else(|| Error::Option("this model does not generate: it has no decoder".to_owned()))?;
    model.vocab_size()?;
    let (prompts, limits) = (&request.prompts, &request.limits);
    if !limits.is_empty() && limits.len() != prompts.len() {
        return Err(Error::Option(format!(
            "{} limits were given for {} prompts: expected one for each prompt",
            limits.len(),
            prompts.len()
        )));
    }
    let longest = decoder.longest();
    let mut lengths = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() {
            return Err(Error::Option(format!("prompt {i} is empty: expected at least one token")));
        }
        in_vocabulary("the prompt", prompt.iter().copied(), decoder.vocab_size())?;
        if prompt.len() >= longest {
            return Err(Error::ContextLength(format!(
                "prompt {i} has {} tokens, which leaves no room for a new one: this model takes at most {longest}; shorten it",
                prompt.len()
            )));
        }
        let limit = limits.get(i).copied().or(request.options.max_tokens);
        if limit == Some(0) {
            return Err(Error::Option(format!(
                "the limit of prompt {i} is 0: expected at least 1 new token"
            )));
        }
        lengths.push(limit.map_or(longest, |n| prompt.len().saturating_add(n)).min(longest));
    }
    Ok(lengths)
}

/// Checks the encoder's inputs.
fn check_sources(model: &Model, request: &Request) -> Result<()> {
    let (sources, count) = (&request.sources, request.prompts.len());
    let Some((longest, vocab_size)) = model.source_limits() else {
        return match sources.len() {
            0 => Ok(()),
            _ => Err(Error::Option("sources were given: this model has no encoder".to_owned())),
        };
    };
    if sources.len() != count {
        return Err(Error::Option(format!(
            "{} sources were given for {count} prompts: expected one for each prompt",
            sources.len()
        )));
    }
    for (i, source) in sources.iter().enumerate() {
        if source.is_empty() {
            return Err(Error::Option(format!("source {i} is empty: expected at least one token")));
        }
        in_vocabulary("the source", source.iter().copied(), vocab_size)?;
        if source.len() > longest {
            return Err(Error::ContextLength(format!(
                "source {i} has {} tokens: this model takes at most {longest}; shorten or split it",
                source.len()
            )));
        }
    }
    Ok(())
}

impl Engine {
    /// Checks the request without computing anything.
    pub fn add(self: &Arc<Self>, request: Request) -> Result<Call> {
        let lengths = lengths(&self.model, &request)?;
        check_sources(&self.model, &request)?;
        let Request { prompts, sources, options, processor, draft, row, .. } = request;
        let draft = draft.map(|draft| Draft::new(&self.model, draft)).transpose()?;
        let call = self.desk().number();
        let settings = Arc::new(Settings { call, options, processor, row });
        let mailbox = Mailbox::new(Arc::clone(&settings), prompts.len());
        let mut sources = sources.into_iter();
        let prompts =
            prompts.into_iter().zip(lengths).enumerate().map(|(number, (ids, max_length))| Prompt {
                settings: Arc::clone(&settings),
                number,
                ids,
                source: sources.next().unwrap_or_default(),
                max_length,
            });
        let prompts = prompts.collect();
        let mut desk = self.desk();
        desk.calls.insert(call, mailbox);
        self.post(&mut desk, Command::Add(call, Box::new(CallState::new(draft)), prompts));
        drop(desk);
        Ok(Call { engine: Arc::clone(self), settings, process: std::process::id() })
    }
}

impl Call {
    fn here(&self) -> bool {
        self.process == std::process::id()
    }

    fn with<R>(&self, body: impl FnOnce(&mut Mailbox) -> R) -> Result<R> {
        let gone = || {
            Error::Option(
                "this generation was begun before the process forked, and stays with the parent: begin another in the child"
                    .to_owned(),
            )
        };
        if !self.here() {
            return Err(gone());
        }
        self.engine.desk().calls.get_mut(&self.settings.call).map(body).ok_or_else(gone)
    }

    /// Whether all sequences have ended and all events have been taken.
    pub fn finished(&self) -> Result<bool> {
        self.with(|mailbox| mailbox.finished())
    }

    /// Number of prompts with an unfinished sequence.
    pub fn unfinished(&self) -> Result<usize> {
        self.with(|mailbox| mailbox.unfinished())
    }

    /// Ends a sequence at the caller's request.
    pub fn stop(&mut self, sequence: usize, reason: FinishReason) -> Result<()> {
        if self.settings.options.beams > 1 {
            return Err(Error::Option("a beam search has no single sequence to stop".to_owned()));
        }
        let count = self.with(|mailbox| mailbox.lanes())?;
        if sequence >= count {
            return Err(Error::Option(format!(
                "sequence {sequence} is out of range: expected 0 to {}",
                count.saturating_sub(1)
            )));
        }
        if self.with(|mailbox| mailbox.stop(sequence, reason))? {
            let stop = Command::Stop(self.settings.call, sequence, reason);
            self.engine.post(&mut self.engine.desk(), stop);
        }
        Ok(())
    }

    /// Runs up to `steps` steps of this call's sequences (0: to the end) and adds the new tokens to `events`.
    /// Calls of other threads may share the steps. `hook` is polled to interrupt the computation; the call
    /// can be continued afterwards.
    pub fn advance(&mut self, hook: Hook<'_>, steps: usize, events: &mut Vec<Event>) -> Result<()> {
        self.with(|mailbox| {
            (mailbox.wanted, mailbox.thread) = (Some(steps), Some(std::thread::current().id()));
        })?;
        let ran = self.engine.run(self.settings.call, hook);
        self.with(|mailbox| {
            mailbox.wanted = None;
            if ran.is_ok() {
                mailbox.take(steps, events);
            }
        })?;
        ran
    }

    /// The hypotheses of each prompt, best first.
    pub fn results(&self) -> Result<Vec<Vec<Hypothesis>>> {
        self.with(|mailbox| mailbox.results())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.here() {
            return;
        }
        let mut desk = self.engine.desk();
        let mailbox = desk.calls.remove(&self.settings.call);
        self.engine.post(&mut desk, Command::Remove(self.settings.call));
        drop(desk);
        drop(mailbox);
    }
}
