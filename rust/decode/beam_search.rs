//! Beam search with transformers' semantics, one prompt's part of it.
//!
//! Each step keeps the best 2 * beams continuations (more with several end tokens). Those that end move to
//! the finished hypotheses, if they are among the first `beams`, with their score: the sum of
//! log-probabilities divided by the number of generated tokens to the power `length_penalty`. The best others
//! go on.

use super::options::{EarlyStopping, Options};
use super::sequence::{FinishReason, Hypothesis};
use std::sync::Arc;

const NEVER: f32 = -1.0e9;

/// What the model itself gave a token: its log-probability, and the most probable tokens with theirs.
pub type Scored = (f32, Arc<[(u32, f32)]>);

/// A running beam, or a hypothesis.
#[derive(Debug, Clone, Default)]
pub struct Beam {
    /// Prompt and generated tokens.
    pub ids: Vec<u32>,
    /// Sum of log-probabilities; of a finished one by its length.
    pub score: f32,
    /// Of each generated token; empty unless asked for.
    scored: Vec<Scored>,
}

impl Beam {
    /// Becomes a beam with a candidate's token behind it; its memory stays.
    fn follow(&mut self, beam: &Beam, c: &Candidate, score: f32) {
        self.ids.clone_from(&beam.ids);
        self.ids.push(c.token);
        self.scored.clone_from(&beam.scored);
        self.scored.extend(c.scored.clone());
        self.score = score;
    }
}

/// A finished hypothesis, or a place for one.
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
    /// Continuations that this step chooses from.
    candidates: Vec<Candidate>,
    /// The best that go on: score, and place among the candidates.
    order: Vec<(f32, usize)>,
    /// Of each running beam the one before that it continues.
    parents: Vec<usize>,
    /// The beams before, whose memory the next ones take.
    past: Vec<Beam>,
}

/// A continuation of a beam by a token, with the sum of log-probabilities.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub beam: usize,
    /// Its place among those of the beam, best first.
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

    /// How many candidates a step looks at.
    pub fn width(o: &Options) -> usize {
        o.beams * (o.eos_ids.len() + 1).max(2)
    }

    /// Adds continuations, best first, of a beam behind those that were offered before.
    pub fn offer(&mut self, found: &mut Vec<Candidate>) {
        self.candidates.append(found);
    }

    /// Forgets what was offered.
    pub fn withdraw(&mut self) {
        self.candidates.clear();
    }

    /// Takes the best of what was offered, and returns for each new running beam the one it continues.
    pub fn step(&mut self, o: &Options) -> &[usize] {
        let Search { running, finished, candidates, order, parents, past, .. } = self;
        // Those of one beam come best first, and stay so where rounding has made their scores equal.
        candidates.sort_unstable_by(|a, b| {
            b.score.total_cmp(&a.score).then(a.beam.cmp(&b.beam)).then(a.rank.cmp(&b.rank))
        });
        candidates.truncate(Search::width(o));
        let length = running[0].ids.len();
        let ends = |c: &Candidate| o.ends(c.token) || length + 1 >= self.max_length;

        // The finished ones, with those that have just ended.
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
                // The worst one leaves its place.
                finished[at..].rotate_right(1);
                finished[at].beam.follow(&running[c.beam], c, score);
                finished[at].done = true;
            }
        }

        // The best that go on; those that end count as impossible and stay behind.
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

        // Whether any running beam can still become better than the worst finished one.
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
