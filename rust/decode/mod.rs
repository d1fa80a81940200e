//! Generation: a batch of prompts becomes tokens, one step for all of them at a time.
//!
//! A step feeds the last token of every running sequence in one batch, takes the logits of their last rows,
//! changes them (`process`), chooses (`sample`, `beam`) and goes on. Sequences that end leave the batch.
//! What a sequence becomes does not depend on the others: logits are equal to the bit, and a random draw
//! depends on the seed, the sequence's number and the step alone.

pub mod beam;
pub mod options;
mod prefill;
pub mod process;
pub mod sample;
mod scores;
pub mod speculate;
mod step;

use crate::error::{Error, Result};
use crate::model::{Cache, Model, SequenceId, Session};
use beam::{Candidate, Search};
use options::Options;
use process::Custom;
use scores::{RowScores, choose, continuations, leading};
use speculate::{Draft, guess};
use std::sync::Arc;
use std::time::{Duration, Instant};
use step::{Row, advance_beams, feed};

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

/// One sequence of tokens being generated.
struct Stream {
    ids: Vec<u32>,
    prompt: usize,
    max_length: usize,
    source: usize,
    /// Whether it is its prompt's first sample.
    first: bool,
    cache: Option<SequenceId>,
    reason: Option<String>,
    score: f32,
}

enum State {
    Streams(Vec<Stream>),
    /// Per prompt the search and the cached sequences of its running beams.
    Beams(Vec<(Search, Vec<SequenceId>)>),
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
            in_vocabulary("the prompt", prompt.iter().copied(), decoder.vocab_size)?;
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
            let search =
                |(prompt, &limit): (&Vec<u32>, &usize)| (Search::new(prompt, limit, &options), Vec::new());
            State::Beams(prompts.iter().zip(&limits).map(search).collect())
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
            State::Streams(
                (0..prompts.len())
                    .flat_map(|i| (0..options.samples).map(move |n| (i, n == 0)))
                    .map(stream)
                    .collect(),
            )
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
                .chunks(self.options.samples)
                .filter(|samples| samples.iter().any(|s| s.reason.is_none()))
                .count(),
            State::Beams(searches) => searches.iter().filter(|(search, _)| !search.over).count(),
        }
    }

    /// Ends a sequence from outside.
    pub fn stop(&mut self, sequence: usize, reason: &str) -> Result<()> {
        let State::Streams(streams) = &mut self.state else {
            return Err(Error::Option("a beam search has no single sequence to stop".to_owned()));
        };
        let count = streams.len();
        let stream = streams.get_mut(sequence).ok_or_else(|| {
            Error::Option(format!("sequence {sequence} is out of range: expected 0 to {}", count - 1))
        })?;
        if stream.reason.is_none() {
            stream.reason = Some(reason.to_owned());
        }
        Ok(())
    }

    /// Runs up to `steps` steps (0: to the end) and returns the new tokens.
    pub fn advance(
        &mut self,
        s: &mut Session<'_>,
        steps: usize,
        custom: Option<Custom<'_>>,
    ) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut left = if steps == 0 { usize::MAX } else { steps };
        while left > 0 && !self.finished() {
            let result = self.step(s, custom, &mut events);
            if let Err(error) = result {
                // What is half done is not to be continued.
                self.cache = None;
                return Err(error);
            }
            if self.late()
                && let State::Streams(streams) = &mut self.state
            {
                for stream in streams.iter_mut().filter(|t| t.reason.is_none()) {
                    stream.reason = Some(TIME.to_owned());
                }
            }
            left -= 1;
        }
        if self.finished() {
            self.end();
        }
        Ok(events)
    }

    fn late(&self) -> bool {
        self.deadline.is_some_and(|end| Instant::now() >= end)
    }

    /// Leaves what was computed, and the memory, to later generations.
    fn end(&mut self) {
        if let (State::Streams(streams), Some(cache)) = (&mut self.state, &mut self.cache) {
            for stream in streams.iter_mut() {
                if let Some(id) = stream.cache.take() {
                    keep(&self.model, stream, cache, id);
                    cache.release(id);
                }
            }
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
            return self.first(&logits, vocab, custom, events);
        }
        let late = self.late();
        let mut cache = self.cache.take().ok_or_else(|| {
            Error::Option(
                "this generation was interrupted and cannot be continued: start it again".to_owned(),
            )
        })?;
        let result = match &mut self.state {
            State::Streams(streams) => {
                let active: Vec<usize> =
                    (0..streams.len()).filter(|&i| streams[i].reason.is_none()).collect();
                // Sequences that ended since the last step give back their blocks.
                for stream in streams.iter_mut().filter(|t| t.reason.is_some()) {
                    if let Some(id) = stream.cache.take() {
                        keep(&self.model, stream, &cache, id);
                        cache.release(id);
                    }
                }
                if let Some(draft) = &mut self.draft {
                    (0..streams.len()).filter(|&i| streams[i].reason.is_some()).for_each(|i| draft.end(i));
                }
                let guesses = guess(&self.options, streams, &active, &self.sources, self.draft.as_mut(), s)?;
                let row = |(&i, guesses): (&usize, &Vec<u32>)| {
                    let newest = *streams[i].ids.last().expect("a prompt is never empty");
                    Row {
                        tokens: std::iter::once(newest).chain(guesses.iter().copied()).collect(),
                        sequence: streams[i].cache.expect("running sequences are cached"),
                        source: streams[i].source,
                    }
                };
                let rows: Vec<Row> = active.iter().zip(&guesses).map(row).collect();
                let sources = if self.sources.is_empty() { &self.prompts } else { &self.sources };
                let options = &self.options;
                let before: Vec<usize> = active.iter().map(|&i| streams[i].ids.len()).collect();
                let cross = self.cross.as_mut();
                let guessed = guesses.iter().any(|guesses| !guesses.is_empty());
                let contexts = active.iter().map(|&i| streams[i].context(&sources[streams[i].source]));
                let fewer = leading(options, vocab, custom.is_some(), contexts)
                    // What a guess may not be followed by is only known once it has come true.
                    .filter(|_| !guessed || !process::needed(options, custom.is_some()));
                let (fewer, forbidden) = fewer.unzip();
                let forbidden = forbidden.unwrap_or_default();
                let result =
                    feed(s, &rows, &mut cache, cross, false, fewer, &mut |team, tokens, mut scores| {
                        if !guessed {
                            let forbidden = &forbidden[..];
                            let choice = |n: usize, scores: RowScores<'_>| {
                                let i = active[tokens[n].0];
                                choose(options, &streams[i], i, &sources[streams[i].source], scores, custom)
                            };
                            let chosen =
                                scores.each_row(team, tokens.len(), forbidden, custom.is_some(), &choice)?;
                            for (&(row, _), choice) in tokens.iter().zip(chosen) {
                                events.push(streams[active[row]].take(options, active[row], choice));
                            }
                            return Ok(());
                        }
                        for (n, &(row, place)) in tokens.iter().enumerate() {
                            let i = active[row];
                            let stream = &mut streams[i];
                            // Logits after a guess count if everything guessed so far has come true.
                            let right = stream.reason.is_none()
                                && stream.ids.len() == before[row] + place
                                && stream.ids.last() == Some(&rows[row].tokens[place]);
                            if right {
                                let source = &sources[stream.source];
                                let scores = scores.row(n, tokens.len(), &[]);
                                let choice = choose(options, stream, i, source, scores, custom)?;
                                events.push(stream.take(options, i, choice));
                            }
                        }
                        Ok(())
                    });
                for ((&i, guesses), before) in active.iter().zip(&guesses).zip(before) {
                    if guesses.is_empty() {
                        continue;
                    }
                    // The newest token itself is not in the cache.
                    let sequence = streams[i].cache.expect("running sequences are cached");
                    cache.truncate(sequence, streams[i].ids.len() - 1);
                    if let Some(draft) = &mut self.draft {
                        draft.settle(i, &streams[i].ids, before, guesses);
                    }
                }
                result
            }
            State::Beams(searches) => {
                let mut rows = Vec::new();
                let mut owners = Vec::new();
                for (p, (search, sequences)) in searches.iter().enumerate().filter(|(_, (s, _))| !s.over) {
                    for (b, beam) in search.running.iter().enumerate() {
                        let token = *beam.ids.last().expect("a prompt is never empty");
                        rows.push(Row { tokens: vec![token], sequence: sequences[b], source: p });
                        owners.push((p, b));
                    }
                }
                let mut candidates: Vec<Vec<Candidate>> = vec![Vec::new(); searches.len()];
                let sources = if self.sources.is_empty() { &self.prompts } else { &self.sources };
                let options = &self.options;
                let cross = self.cross.as_mut();
                let contexts = owners.iter().map(|&(p, b)| searches[p].0.context(b, &sources[p]));
                let (fewer, forbidden) = leading(options, vocab, custom.is_some(), contexts).unzip();
                let forbidden = forbidden.unwrap_or_default();
                let result = feed(s, &rows, &mut cache, cross, false, fewer, &mut |team, tokens, scores| {
                    let next = |n: usize, scores: RowScores<'_>| {
                        let (p, b) = owners[tokens[n].0];
                        continuations(options, &searches[p].0, b, &sources[p], scores, custom)
                    };
                    let found = scores.each_row(team, tokens.len(), &forbidden, custom.is_some(), &next)?;
                    for (&(row, _), found) in tokens.iter().zip(found) {
                        candidates[owners[row].0].extend(found);
                    }
                    Ok(())
                });
                if result.is_ok() {
                    for (p, (search, sequences)) in
                        searches.iter_mut().enumerate().filter(|(_, (s, _))| !s.over)
                    {
                        if late {
                            search.end();
                        }
                        advance_beams(options, search, sequences, &mut candidates[p], &mut cache);
                    }
                }
                result
            }
        };
        self.cache = Some(cache);
        result
    }

    /// Per prompt its hypotheses, best first.
    pub fn results(&self) -> Vec<Vec<Hypothesis>> {
        match &self.state {
            State::Streams(streams) => streams
                .chunks(self.options.samples)
                .map(|samples| {
                    let result = |t: &Stream| {
                        let (ids, reason) =
                            (t.ids[t.prompt..].to_vec(), t.reason.clone().unwrap_or_default());
                        let divisor = (ids.len().max(1) as f64).powf(self.options.length_penalty) as f32;
                        (ids, t.score / divisor, reason, Vec::new())
                    };
                    samples.iter().map(result).collect()
                })
                .collect(),
            State::Beams(searches) => searches
                .iter()
                .map(|(search, _)| {
                    search
                        .hypotheses(self.options.num_hypotheses)
                        .into_iter()
                        .map(|(ids, score, scored)| {
                            let ended = ids.last().is_some_and(|&id| self.options.ends(id));
                            let scored = scored.into_iter().map(|(own, top)| (own, top.to_vec())).collect();
                            (ids, score, if ended { STOP } else { LENGTH }.to_owned(), scored)
                        })
                        .collect()
                })
                .collect(),
        }
    }
}

/// Leaves a stream's keys and values to later generations; of several samples the first one's, as they share the prompt.
fn keep(model: &Model, stream: &Stream, cache: &Cache, id: SequenceId) {
    if let Some(mut prefixes) = model.prefixes().filter(|_| stream.first) {
        prefixes.keep(&stream.ids[..cache.length(id).min(stream.ids.len())], cache, id, || {
            model.cache(false).ok()
        });
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
