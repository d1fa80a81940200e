//! Sequences that are generated each on its own: one of a prompt, or several samples.

use super::options::Options;
use super::process::{self, Context};
use super::scores::{Choice, Forbidden, Rules, choose};
use super::speculate::{Draft, Guesses, guess};
use super::step::{Asked, Feed};
use super::{Event, Hypothesis, LENGTH, STOP};
use crate::error::Result;
use crate::model::{Cache, Model, SequenceId, Session};
use std::sync::{Mutex, PoisonError};

/// One sequence of tokens being generated.
pub(super) struct Stream {
    pub ids: Vec<u32>,
    pub prompt: usize,
    pub max_length: usize,
    pub source: usize,
    /// Whether it is its prompt's first sample.
    pub first: bool,
    pub cache: Option<SequenceId>,
    pub reason: Option<String>,
    pub score: f32,
}

impl Stream {
    /// What processors look at.
    pub fn context<'a>(&'a self, sources: &'a [Vec<u32>]) -> Context<'a> {
        let source = &sources[self.source];
        Context { ids: &self.ids, prompt: self.prompt, max_length: self.max_length, source }
    }

    /// Takes the chosen token, and ends where it must.
    pub fn take(&mut self, o: &Options, number: usize, choice: Choice) -> Event {
        let Choice { token, logprob, top } = choice;
        self.score += logprob;
        self.ids.push(token);
        if o.ends(token) {
            self.reason = Some(STOP.to_owned());
        } else if self.ids.len() >= self.max_length {
            self.reason = Some(LENGTH.to_owned());
        }
        Event { sequence: number, token, logprob, top }
    }

    /// Gives back its blocks, and leaves its keys and values to later generations; of several samples the first one's, as
    /// they share the prompt.
    pub fn leave(&mut self, model: &Model, cache: &mut Cache) {
        let Some(id) = self.cache.take() else { return };
        if let Some(mut prefixes) = model.prefixes().filter(|_| self.first) {
            prefixes.keep(&self.ids[..cache.length(id).min(self.ids.len())], cache, id, || {
                model.cache(false).ok()
            });
        }
        cache.release(id);
    }

    fn result(&self, o: &Options) -> Hypothesis {
        let (ids, reason) = (self.ids[self.prompt..].to_vec(), self.reason.clone().unwrap_or_default());
        let divisor = (ids.len().max(1) as f64).powf(o.length_penalty) as f32;
        (ids, self.score / divisor, reason, Vec::new())
    }
}

/// A stream in a step.
pub(super) struct Active {
    pub stream: usize,
    /// Tokens that it had before.
    pub length: usize,
}

/// All streams, and the lists of a step, which the next one fills again.
#[derive(Default)]
pub(super) struct Streams {
    pub list: Vec<Stream>,
    active: Vec<Active>,
    guesses: Guesses,
    feed: Feed,
    forbidden: Forbidden,
    chosen: Vec<Mutex<Choice>>,
}

impl Streams {
    pub fn new(list: Vec<Stream>) -> Streams {
        Streams { list, ..Streams::default() }
    }

    /// Ends all that still run.
    pub fn end(&mut self, reason: &str) {
        for stream in self.list.iter_mut().filter(|stream| stream.reason.is_none()) {
            stream.reason = Some(reason.to_owned());
        }
    }

    /// Per prompt its samples.
    pub fn results(&self, o: &Options) -> Vec<Vec<Hypothesis>> {
        let prompts = self.list.chunks(o.samples);
        prompts.map(|samples| samples.iter().map(|stream| stream.result(o)).collect()).collect()
    }

    /// Sequences that ended since the last step give back their blocks.
    pub fn retire(&mut self, model: &Model, cache: &mut Cache, mut draft: Option<&mut Draft>) {
        for (i, stream) in self.list.iter_mut().enumerate().filter(|(_, stream)| stream.reason.is_some()) {
            stream.leave(model, cache);
            if let Some(draft) = draft.as_deref_mut() {
                draft.end(i);
            }
        }
    }

    /// The next token of every stream that runs, or more where guesses come true.
    pub fn step(
        &mut self,
        rules: &Rules<'_>,
        s: &mut Session<'_>,
        cache: &mut Cache,
        cross: Option<&mut Cache>,
        mut draft: Option<&mut Draft>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let Streams { list, active, guesses, feed, forbidden, chosen } = self;
        active.clear();
        let running = (0..list.len()).filter(|&i| list[i].reason.is_none());
        active.extend(running.map(|stream| Active { stream, length: list[stream].ids.len() }));
        guess(rules, list, active, draft.as_deref_mut(), s, guesses)?;
        feed.clear();
        for (row, fed) in active.iter().enumerate() {
            let stream = &list[fed.stream];
            let newest = *stream.ids.last().expect("a prompt is never empty");
            let sequence = stream.cache.expect("running sequences are cached");
            feed.push(
                sequence,
                stream.source,
                std::iter::once(newest).chain(guesses.of(row).iter().copied()),
            );
        }
        let contexts = active.iter().map(|fed| list[fed.stream].context(rules.sources));
        // What a guess may not be followed by is only known once it has come true.
        let unknown = guesses.any() && process::needed(rules.options, rules.custom.is_some());
        let fewer = if unknown { None } else { forbidden.leading(rules, contexts) };
        let result = feed.run(s, cache, cross, false, fewer, &mut |team, asked, mut scores| {
            if guesses.any() {
                for (n, &Asked { row, place, token }) in asked.iter().enumerate() {
                    let Active { stream: number, length } = active[row];
                    let stream = &mut list[number];
                    // Logits after a guess count if everything guessed so far has come true.
                    let right = stream.reason.is_none()
                        && stream.ids.len() == length + place
                        && stream.ids.last() == Some(&token);
                    if right {
                        let choice = choose(rules, stream, number, &[], scores.row(n, asked.len()))?;
                        events.push(stream.take(rules.options, number, choice));
                    }
                }
                return Ok(());
            }
            scores.each_row(team, rules.custom.is_some(), asked.len(), chosen, &|n, scores, choice| {
                let row = asked[n].row;
                let number = active[row].stream;
                *choice = choose(rules, &list[number], number, forbidden.of(row), scores)?;
                Ok(())
            })?;
            for (asked, choice) in asked.iter().zip(chosen.iter_mut()) {
                let number = active[asked.row].stream;
                let choice = std::mem::take(choice.get_mut().unwrap_or_else(PoisonError::into_inner));
                events.push(list[number].take(rules.options, number, choice));
            }
            Ok(())
        });
        for (row, fed) in active.iter().enumerate().filter(|&(row, _)| !guesses.of(row).is_empty()) {
            let stream = &list[fed.stream];
            // The newest token itself is not in the cache.
            cache.truncate(stream.cache.expect("running sequences are cached"), stream.ids.len() - 1);
            if let Some(draft) = draft.as_deref_mut() {
                draft.settle(fed.stream, &stream.ids, fed.length, guesses.of(row));
            }
        }
        result
    }
}
