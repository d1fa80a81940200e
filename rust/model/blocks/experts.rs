//! Routed experts: a router chooses the top-k of many feed-forward networks for each row and weights the sum
//! of their outputs. Shazeer et al. 2017, <https://arxiv.org/abs/1701.06538>
//!
//! Only the chosen experts' weights are read, each once per pass: rows are gathered by expert. An output adds
//! its experts in ascending order, each by one fused multiply-add, so its bits do not depend on the rows
//! beside it.

use super::feed_forward::{FeedForward, FeedForwardSpec};
use super::operator::{Capture, Operator, Widths};
use super::pass::Pass;
use super::stream::Stream;
use crate::error::Result;
use crate::matmul::{self, Matrix, Target, linear, linear_each};
use crate::model::bounds::{Site, positive, refuse, size};
use crate::model::describe::{mirror, one};
use crate::model::state::State;
use crate::model::walk::{Use, Walk};
use crate::ops::softmax::softmax;
use crate::simd::{Activation, activate, add_scaled};
use crate::tensor::{Buffer, sized};
use crate::threads::Team;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The function from router logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScore {
    /// Softmax over all experts.
    #[default]
    Softmax,
    Sigmoid,
}

mirror!(/// The choice of experts.
Router {
    count: usize,
    per_token: usize,
    #[serde(default)] score: RouterScore,
    renormalize: bool,
    #[serde(default = "one")] scale: f64,
});

mirror!(/// Feed-forward networks; each row uses a few of them.
ExpertsSpec { router: Router, expert: FeedForwardSpec });

/// Loaded experts.
pub struct Experts {
    spec: Router,
    router: Arc<Matrix>,
    experts: Vec<FeedForward>,
}

/// A row's choice of an expert, with the weight of its output.
#[derive(Debug, Clone, Copy)]
struct Choice {
    expert: u32,
    row: u32,
    weight: f32,
}

/// Reused memory of passes.
#[derive(Default)]
pub struct Scratch {
    scores: Buffer<f32>,
    ranking: Vec<u32>,
    /// Choices of all rows, sorted by expert, then by row.
    choices: Vec<Choice>,
    /// The rows of one expert, `[rows, hidden]`.
    gathered: Buffer<f32>,
    inner: Buffer<f32>,
    outputs: Buffer<f32>,
}

impl Operator for Experts {
    type Spec = ExpertsSpec;
    type Scratch = Scratch;
    const NAME: &'static str = "experts";
    const ROW_WISE: bool = true;

    fn validate(e: &ExpertsSpec, place: &str, site: &Site) -> Result<()> {
        let r = &e.router;
        size(place, "router.count", r.count)?;
        if r.per_token == 0 || r.per_token > r.count {
            return refuse(place, "router.per_token", r.per_token, &format!("1 to {}, the experts", r.count));
        }
        positive(place, "router.scale", r.scale)?;
        FeedForward::validate(&e.expert, &format!("{place}.expert"), site)
    }

    fn networks(e: &ExpertsSpec) -> usize {
        e.router.count
    }

    fn load(e: &ExpertsSpec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> Experts {
        let count = e.router.count;
        let expert = |i| FeedForward::load(&e.expert, walk, &format!("{name}.{i}"), widths);
        let experts = (0..count).map(expert).collect();
        let router = walk.matrix(format!("{name}.router.weight"), count, widths.hidden, Use::Router);
        Experts { spec: e.router.clone(), router, experts }
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        _state: State<'_>,
        scratch: &mut Scratch,
        _capture: Capture<'_>,
    ) {
        let (input, output, product) = stream.input_and_output(pass);
        let scores = sized(&mut scratch.scores, pass.rows * self.spec.count);
        let target = Target::new(&self.router, None, scores);
        linear(pass.team, product, input.into(), pass.rows, &[target]);
        self.choose(pass.rows, scratch);
        output.fill(0.0);
        if pass.rows == 1 {
            self.one_row(pass.team, product, input, output, scratch);
        } else {
            self.by_expert(pass, product, input, output, scratch);
        }
        stream.residual(pass);
    }
}

impl Experts {
    /// Chooses the experts of every row from its router logits: the top-k scores; ties go to the lower index.
    fn choose(&self, rows: usize, scratch: &mut Scratch) {
        let Scratch { scores, ranking, choices, .. } = scratch;
        let r = &self.spec;
        choices.clear();
        for (row, scores) in scores[..rows * r.count].chunks_exact_mut(r.count).enumerate() {
            match r.score {
                RouterScore::Softmax => softmax(scores),
                RouterScore::Sigmoid => activate(Activation::Sigmoid, scores),
            }
            ranking.clear();
            ranking.extend(0..r.count as u32);
            let order = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
            if r.per_token < r.count {
                ranking.select_nth_unstable_by(r.per_token - 1, order);
            }
            let chosen = &mut ranking[..r.per_token];
            chosen.sort_unstable();
            let sum: f32 = chosen.iter().map(|&expert| scores[expert as usize]).sum();
            let scale = r.scale as f32;
            let scale = if r.renormalize { scale / sum } else { scale };
            choices.extend(chosen.iter().map(|&expert| Choice {
                expert,
                row: row as u32,
                weight: scores[expert as usize] * scale,
            }));
        }
        choices.sort_unstable_by_key(|choice| (choice.expert, choice.row));
    }

    /// The experts of a single row: all first layers in one region, all last layers in another.
    fn one_row(
        &self,
        team: &Team<'_>,
        product: &mut matmul::Scratch,
        input: &[f32],
        output: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Scratch { choices, inner, outputs, .. } = scratch;
        let (width, hidden) = (self.experts[0].width(), output.len());
        let inner = sized(inner, choices.len() * width);
        let outputs = sized(outputs, choices.len() * hidden);
        let (mut rest, mut inner, mut outputs) = (&choices[..], inner, outputs);
        while !rest.is_empty() {
            let n = if rest.len() >= 8 { 8 } else { 1 << rest.len().ilog2() };
            let (chosen, others) = rest.split_at(n);
            let (part, free) = inner.split_at_mut(n * width);
            let (results, room) = outputs.split_at_mut(n * hidden);
            let mut run = Few { experts: &self.experts, chosen, team, product: &mut *product, input };
            match n {
                8 => run.layers::<8>(part, results),
                4 => run.layers::<4>(part, results),
                2 => run.layers::<2>(part, results),
                _ => run.layers::<1>(part, results),
            }
            for (choice, y) in chosen.iter().zip(results.chunks_exact(hidden)) {
                add_scaled(output, choice.weight, y);
            }
            (rest, inner, outputs) = (others, free, room);
        }
    }

    /// The rows of each expert gathered to a matrix.
    fn by_expert(
        &self,
        pass: &Pass<'_>,
        product: &mut matmul::Scratch,
        input: &[f32],
        output: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let Scratch { choices, gathered, inner, outputs, .. } = scratch;
        let (team, hidden) = (pass.team, pass.hidden);
        for same in choices.chunk_by(|a, b| a.expert == b.expert) {
            let (expert, rows) = (&self.experts[same[0].expert as usize], same.len());
            let gathered = sized(gathered, rows * hidden);
            for (choice, to) in same.iter().zip(gathered.chunks_exact_mut(hidden)) {
                to.copy_from_slice(&input[choice.row as usize * hidden..][..hidden]);
            }
            let inner = sized(inner, rows * expert.width());
            linear(team, product, (&*gathered).into(), rows, &[expert.inner(inner)]);
            let outputs = sized(outputs, rows * hidden);
            linear(team, product, (&*inner).into(), rows, &[expert.down.target(outputs)]);
            for (choice, from) in same.iter().zip(outputs.chunks_exact(hidden)) {
                add_scaled(&mut output[choice.row as usize * hidden..][..hidden], choice.weight, from);
            }
        }
    }
}

/// A few chosen experts of one row.
struct Few<'a> {
    experts: &'a [FeedForward],
    chosen: &'a [Choice],
    team: &'a Team<'a>,
    product: &'a mut matmul::Scratch,
    input: &'a [f32],
}

impl Few<'_> {
    /// Both layers of `N` experts, with their targets in arrays: the token loop allocates nothing. `inner:
    /// [N, width]`, `outputs: [N, hidden]`.
    fn layers<const N: usize>(&mut self, inner: &mut [f32], outputs: &mut [f32]) {
        let expert = |choice: &Choice| &self.experts[choice.expert as usize];
        let mut parts = inner.chunks_exact_mut(inner.len() / N).zip(self.chosen);
        let first: [Target<'_>; N] = std::array::from_fn(|_| {
            let (part, choice) = parts.next().expect("one for each target");
            expert(choice).inner(part)
        });
        linear(self.team, self.product, self.input.into(), 1, &first);
        let mut parts = outputs.chunks_exact_mut(outputs.len() / N).zip(self.chosen);
        let last: [Target<'_>; N] = std::array::from_fn(|_| {
            let (part, choice) = parts.next().expect("one for each target");
            expert(choice).down.target(part)
        });
        linear_each(self.team, self.product, inner, &last);
    }
}
