//! Beam search with transformers' semantics, one prompt's part of it.
//!
//! Each step keeps the best 2 * beams continuations (more with several end tokens). Those that end move to
//! the finished hypotheses, if they are among the first `beams`, with their score: the sum of
//! log-probabilities divided by the number of generated tokens to the power `length_penalty`. The best others
//! go on.

use super::options::{EarlyStopping, Options};
use super::process::Context;
use std::sync::Arc;

const NEVER: f32 = -1.0e9;

/// What the model itself gave a token: its log-probability, and the likeliest tokens with theirs.
pub type Scored = (f32, Arc<Vec<(u32, f32)>>);

/// A running beam.
#[derive(Debug, Clone)]
pub struct Beam {
    /// Prompt and generated tokens.
    pub ids: Vec<u32>,
    /// Sum of log-probabilities.
    pub score: f32,
    /// Of each generated token; empty unless asked for.
    scored: Vec<Scored>,
}

/// A hypothesis: finished, or a place for one.
#[derive(Debug, Clone)]
pub struct Finished {
    pub ids: Vec<u32>,
    pub score: f32,
    scored: Vec<Scored>,
    done: bool,
}

/// The search for one prompt.
pub struct Search {
    pub running: Vec<Beam>,
    finished: Vec<Finished>,
    prompt: usize,
    max_length: usize,
    improvable: bool,
    pub over: bool,
}

/// A continuation of a beam by a token, with the sum of log-probabilities.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub beam: usize,
    pub token: u32,
    pub score: f32,
    pub scored: Option<Scored>,
}

impl Search {
    pub fn new(prompt: &[u32], max_length: usize, o: &Options) -> Search {
        let empty = Finished { ids: Vec::new(), score: NEVER, scored: Vec::new(), done: false };
        Search {
            running: vec![Beam { ids: prompt.to_vec(), score: 0.0, scored: Vec::new() }],
            finished: vec![empty; o.beams],
            prompt: prompt.len(),
            max_length,
            improvable: true,
            over: false,
        }
    }

    /// What processors look at for a running beam.
    pub fn context<'a>(&'a self, beam: usize, source: &'a [u32]) -> Context<'a> {
        Context { ids: &self.running[beam].ids, prompt: self.prompt, max_length: self.max_length, source }
    }

    /// Ends every hypothesis with the next token.
    pub fn end(&mut self) {
        self.max_length = self.running[0].ids.len() + 1;
    }

    /// How many candidates a step looks at.
    pub fn width(o: &Options) -> usize {
        o.beams * (o.eos_ids.len() + 1).max(2)
    }

    /// Takes the best candidates, best first, and returns for each new running beam the one it continues.
    pub fn step(&mut self, candidates: &[Candidate], o: &Options) -> Vec<(usize, u32)> {
        let length = self.running[0].ids.len();
        let ends: Vec<bool> =
            candidates.iter().map(|c| o.ends(c.token) || length + 1 >= self.max_length).collect();

        // The best that go on; those that end count as impossible and stay behind.
        let mut order: Vec<(f32, usize)> = candidates
            .iter()
            .enumerate()
            .map(|(i, c)| (if ends[i] { c.score + NEVER } else { c.score }, i))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.truncate(o.beams);

        // The finished ones, with those that have just ended.
        let generated = (length + 1 - self.prompt) as f64;
        let divisor = generated.powf(o.length_penalty) as f32;
        let full = self.finished.iter().all(|f| f.done);
        let mut merged = self.finished.clone();
        for (i, c) in candidates.iter().enumerate() {
            if ends[i] && i < o.beams {
                let mut score = c.score / divisor;
                if (full && o.early_stopping == EarlyStopping::WhenFull) || !self.improvable {
                    score += NEVER;
                }
                let Beam { ids, scored, .. } = self.grown(c, score);
                merged.push(Finished { ids, score, scored, done: true });
            }
        }
        merged.sort_by(|a, b| b.score.total_cmp(&a.score));
        merged.truncate(o.beams);
        self.finished = merged;

        let parents: Vec<(usize, u32)> =
            order.iter().map(|&(_, i)| (candidates[i].beam, candidates[i].token)).collect();
        self.running = order.iter().map(|&(score, i)| self.grown(&candidates[i], score)).collect();

        // Whether any running beam can still become better than the worst finished one.
        let reach = if o.early_stopping == EarlyStopping::Never && o.length_penalty > 0.0 {
            self.max_length - self.prompt
        } else {
            length + 1 - self.prompt
        };
        let best = self.running[0].score / (reach as f64).powf(o.length_penalty) as f32;
        let worst = self.finished.iter().map(|f| f.score).fold(f32::INFINITY, f32::min);
        self.improvable &= self.finished.iter().any(|f| best > if f.done { worst } else { NEVER });
        let open = !(self.finished.iter().all(|f| f.done) && o.early_stopping == EarlyStopping::WhenFull);
        self.over = !(self.improvable && open && !ends.iter().all(|&e| e));
        parents
    }

    /// The beam of a candidate with its token behind it.
    fn grown(&self, c: &Candidate, score: f32) -> Beam {
        let Beam { mut ids, mut scored, .. } = self.running[c.beam].clone();
        ids.push(c.token);
        scored.extend(c.scored.clone());
        Beam { ids, score, scored }
    }

    /// The hypotheses, best first: generated ids, score and what each token was given.
    pub fn hypotheses(&self, count: usize) -> Vec<(Vec<u32>, f32, Vec<Scored>)> {
        self.finished
            .iter()
            .filter(|f| f.done)
            .take(count)
            .map(|f| (f.ids[self.prompt..].to_vec(), f.score, f.scored.clone()))
            .collect()
    }
}
