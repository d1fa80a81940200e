//! Beam search for one prompt, with the semantics of transformers.
//!
//! Each step keeps the best 2 * beams continuations (more with several end tokens). Those that end and are
//! among the first `beams` move to the finished hypotheses; their score is the sum of log-probabilities
//! divided by the number of generated tokens to the power `length_penalty`. The best of the others continue.

use super::options::{EarlyStopping, Options};
use super::sequence::{FinishReason, Hypothesis};
use std::sync::Arc;

const NEVER: f32 = -1.0e9;

/// Log-probability of a token under the unprocessed model, and the most probable tokens with theirs.
pub type Scored = (f32, Arc<[(u32, f32)]>);

/// A running beam, or a hypothesis.
#[derive(Debug, Clone, Default)]
pub struct Beam {
    /// Prompt and generated tokens.
    pub ids: Vec<u32>,
    /// Sum of log-probabilities; of a finished hypothesis divided by its length.
    pub score: f32,
    /// One entry per generated token; empty unless requested.
    scored: Vec<Scored>,
}

impl Beam {
    /// Becomes `beam` followed by the candidate's token; reuses its own memory.
    fn follow(&mut self, beam: &Beam, c: &Candidate, score: f32) {
        self.ids.clone_from(&beam.ids);
        self.ids.push(c.token);
        self.scored.clone_from(&beam.scored);
        self.scored.extend(c.scored.clone());
        self.score = score;
    }
}

/// A finished hypothesis, or an empty place for one.
#[derive(Debug, Clone)]
struct Finished {
    beam: Beam,
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
    /// Candidate continuations of this step.
    candidates: Vec<Candidate>,
    /// The best unfinished candidates: score, and index of the candidate.
    order: Vec<(f32, usize)>,
    /// The previous beam that each running beam continues.
    parents: Vec<usize>,
    /// The beams of the previous step; their memory is reused.
    past: Vec<Beam>,
}

/// A continuation of a beam by a token, with the sum of log-probabilities.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub beam: usize,
    /// Rank within the candidates of its beam, best first.
    pub rank: usize,
    pub token: u32,
    pub score: f32,
    pub scored: Option<Scored>,
}

impl Search {
    pub fn new(prompt: &[u32], max_length: usize, o: &Options) -> Search {
        let empty = Finished { beam: Beam { score: NEVER, ..Beam::default() }, done: false };
        Search {
            running: vec![Beam { ids: prompt.to_vec(), ..Beam::default() }],
            finished: vec![empty; o.beams],
            prompt: prompt.len(),
            max_length,
            improvable: true,
            over: false,
            candidates: Vec::new(),
            order: Vec::new(),
            parents: Vec::new(),
            past: Vec::new(),
        }
    }

    /// Ends every hypothesis with the next token.
    pub fn end(&mut self) {
        self.max_length = self.running[0].ids.len() + 1;
    }

    /// Number of candidates that a step considers.
    pub fn width(o: &Options) -> usize {
        o.beams * (o.eos_ids.len() + 1).max(2)
    }

    /// Adds the continuations of a beam, best first.
    pub fn offer(&mut self, found: &mut Vec<Candidate>) {
        self.candidates.append(found);
    }

    /// Discards the candidates.
    pub fn withdraw(&mut self) {
        self.candidates.clear();
    }

    /// Ends the step with the best candidates; returns the previous beam that each new running beam
    /// continues.
    pub fn step(&mut self, o: &Options) -> &[usize] {
        let Search { running, finished, candidates, order, parents, past, .. } = self;
        // A stable sort: the candidates of a beam keep their order where rounding has made scores equal.
        candidates.sort_unstable_by(|a, b| {
            b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)).then(a.rank.cmp(&b.rank))
        });
        candidates.truncate(Search::width(o));
        let length = running[0].ids.len();
        let ends = |c: &Candidate| o.ends(c.token) || length + 1 >= self.max_length;

        // Finished hypotheses, including those that have just ended.
        let generated = (length + 1 - self.prompt) as f64;
        let divisor = generated.powf(o.length_penalty) as f32;
        let full = finished.iter().all(|f| f.done);
        for c in candidates.iter().take(o.beams).filter(|c| ends(c)) {
            let mut score = c.score / divisor;
            if (full && o.early_stopping == EarlyStopping::WhenFull) || !self.improvable {
                score += NEVER;
            }
            let at = finished.partition_point(|f| f.beam.score.total_cmp(&score).is_ge());
            if at < finished.len() {
                // Replaces the worst one.
                finished[at..].rotate_right(1);
                finished[at].beam.follow(&running[c.beam], c, score);
                finished[at].done = true;
            }
        }

        // The best unfinished candidates; finished ones sort last with a score of minus infinity.
        order.clear();
        let score = |c: &Candidate| if ends(c) { c.score + NEVER } else { c.score };
        order.extend(candidates.iter().enumerate().map(|(i, c)| (score(c), i)));
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.truncate(o.beams);
        std::mem::swap(running, past);
        running.resize_with(order.len(), Beam::default);
        parents.clear();
        for (beam, &(score, i)) in running.iter_mut().zip(&*order) {
            let c = &candidates[i];
            beam.follow(&past[c.beam], c, score);
            parents.push(c.beam);
        }

        // Whether any running beam can still exceed the worst finished hypothesis.
        let reach = if o.early_stopping == EarlyStopping::Never && o.length_penalty > 0.0 {
            self.max_length - self.prompt
        } else {
            length + 1 - self.prompt
        };
        let best = running[0].score / (reach as f64).powf(o.length_penalty) as f32;
        let worst = finished.iter().map(|f| f.beam.score).fold(f32::INFINITY, f32::min);
        self.improvable &= finished.iter().any(|f| best > if f.done { worst } else { NEVER });
        let open = !(finished.iter().all(|f| f.done) && o.early_stopping == EarlyStopping::WhenFull);
        self.over = !(self.improvable && open && !candidates.iter().all(ends));
        candidates.clear();
        parents
    }

    /// The hypotheses, best first.
    pub fn hypotheses(&self, o: &Options) -> Vec<Hypothesis> {
        let hypothesis = |beam: &Beam| {
            let ids = beam.ids[self.prompt..].to_vec();
            let stopped = ids.last().is_some_and(|&id| o.ends(id));
            let reason = Some(if stopped { FinishReason::Stop } else { FinishReason::Length });
            let scored = beam.scored.iter().map(|(own, top)| (*own, top.to_vec())).collect();
            Hypothesis { ids, score: beam.score, reason, scored }
        };
        let done = self.finished.iter().filter(|f| f.done);
        done.take(o.num_hypotheses).map(|f| hypothesis(&f.beam)).collect()
    }
}
