//! A stack: stem, layers, final norm, over a ragged batch without padding.

use super::blocks::{self, Block, Captured, Part, Pass, Widths};
use super::cache::Cache;
use super::rows::{Span, Views};
use super::spec;
use super::state::{State, StateLayout, StatePlace};
use super::stem::{self, Input, Stem};
use super::walk::{Linear, Walk};
use crate::error::Result;
use crate::matmul::linear;
use crate::ops::norm::Norm;
use crate::ops::top_logits::TopLogits;
use crate::tensor::{Buffer, sized};
use crate::threads::{Pool, Team};
use std::sync::Mutex;

/// A loaded stack.
pub struct Stack {
    stem: Stem,
    layers: Vec<Vec<Block>>,
    /// The table of relative positions, normalized.
    relative: Vec<f32>,
    norm: Option<Norm>,
    output: Option<Linear>,
    layout: StateLayout,
    hidden: usize,
    /// Layer and block after which an output row depends on no other rows.
    last_mixer: Option<(usize, usize)>,
}

/// Reused memory of passes: a step makes no large allocations.
#[derive(Default)]
pub struct Scratch {
    pub blocks: blocks::Scratch,
    views: Views,
    /// Number of the last view.
    stamp: u64,
    /// States before or after a projection from or to another width.
    narrow: Buffer<f32>,
    /// Logits of a step.
    pub logits: Buffer<f32>,
    pub top_logits: TopLogits,
    /// The cache of the last whole sequences with its stack, reused by the next ones.
    pub cache: Option<(usize, Cache)>,
    /// Scratch of the threads that run sequences independently.
    pub per_thread: Vec<Mutex<Scratch>>,
}

/// Intermediate results of a pass that a caller has requested.
#[derive(Default)]
pub struct Capture {
    /// The embedding and the output of every layer, `[rows, hidden]` each, if requested.
    pub states: Option<Vec<Vec<f32>>>,
    /// Layer and kind of the attention whose probabilities are collected.
    pub attention: Option<(usize, Captured)>,
    /// `[heads, queries, keys]` of each sequence in turn.
    pub probabilities: Vec<f32>,
}

impl Capture {
    /// Whether nothing is requested.
    pub fn is_idle(&self) -> bool {
        self.states.is_none() && self.attention.is_none()
    }

    fn keep(&mut self, x: &[f32]) {
        if let Some(states) = &mut self.states {
            states.push(x.to_vec());
        }
    }
}

/// The rows of a pass.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub spans: &'a [Span],
    /// Rows whose final states are wanted, in ascending order; `None`: all.
    pub wanted: Option<&'a [usize]>,
}

/// The states that a pass reads and writes.
pub struct Caches<'a> {
    pub own: &'a mut Cache,
    /// Cache of the sources in an encoder-decoder.
    pub sources: Option<&'a mut Cache>,
}

impl Caches<'_> {
    fn state(&mut self, place: StatePlace) -> State<'_> {
        match place {
            StatePlace::Sources { .. } => {
                self.sources.as_deref_mut().expect("a decoder beside an encoder has sources").state(place)
            }
            _ => self.own.state(place),
        }
    }
}

/// Moves some rows, in ascending order, to the front.
fn gather(x: &mut [f32], rows: &[usize], width: usize) {
    for (to, row) in rows.iter().enumerate() {
        x.copy_within(row * width..(row + 1) * width, to * width);
    }
}

impl Stack {
    /// Takes the tensors of a stack; `source` is the width of the encoder's states.
    pub(super) fn load(s: &spec::Stack, walk: &mut Walk<'_>, name: &str, source: usize) -> Stack {
        let hidden = s.hidden_size;
        let layers = s.layers.iter().map(|layer| &layer.blocks);
        let layout =
            StateLayout::of(layers.map(|blocks| blocks.iter().map(|block| block.body.state(hidden))));
        let widths = Widths { hidden, source };
        let stem = Stem::load(&s.stem, walk, name, hidden);
        let relative = s.relative.as_ref().map_or_else(Vec::new, |table| {
            let rows = walk.values(format!("{name}.relative.weight"), vec![table.rows, hidden]);
            normalized(
                rows,
                walk.norm(&format!("{name}.relative.norm"), table.norm.as_ref(), &[hidden]),
                hidden,
            )
        });
        let layers: Vec<Vec<Block>> = s
            .layers
            .iter()
            .zip(&layout.places)
            .enumerate()
            .map(|(i, (layer, places))| {
                let name = format!("{name}.layers.{i}");
                let blocks = layer.blocks.iter().zip(places);
                blocks.map(|(block, &place)| Block::load(block, walk, &name, widths, place)).collect()
            })
            .collect();
        let places = layers
            .iter()
            .enumerate()
            .flat_map(|(i, blocks)| blocks.iter().enumerate().map(move |(j, b)| (i, j, b)));
        let mixers = places.filter(|(_, _, block)| !block.body.is_row_wise());
        let last_mixer = mixers.map(|(i, j, _)| (i, j)).next_back();
        Stack {
            stem,
            layers,
            relative,
            norm: walk.norm(&format!("{name}.norm"), s.final_norm.as_ref(), &[hidden]),
            output: s.output_size.map(|o| walk.linear(&format!("{name}.output"), o, hidden, false)),
            layout,
            hidden,
            last_mixer,
        }
    }

    /// The places of its blocks' states.
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// All blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.layers.iter().flatten()
    }

    /// Runs the stem.
    pub fn embed(&self, team: &Team<'_>, scratch: &mut Scratch, input: Input<'_>, spans: &[Span]) {
        let Scratch { blocks, narrow, .. } = scratch;
        let memory = stem::Scratch { x: &mut blocks.x, narrow, product: &mut blocks.product };
        self.stem.forward(team, input, spans, memory);
    }

    /// Runs the layers and the final norm over the states that [`Stack::embed`] has left. For rows that are
    /// not wanted only the state is computed. Final states are left in `scratch.blocks.x`.
    pub fn forward(
        &self,
        team: &Team<'_>,
        scratch: &mut Scratch,
        rows: Rows<'_>,
        caches: &mut Caches<'_>,
        capture: &mut Capture,
    ) -> Result<()> {
        let Scratch { blocks, views, stamp, narrow, .. } = scratch;
        let count = rows.spans.last().map_or(0, |span| span.rows.end);
        let wanted = rows.wanted.filter(|wanted| wanted.len() < count);
        let sources = caches.sources.is_some();
        views.all.fill(rows.spans.iter().cloned(), sources);
        views.wanted.fill(views.all.pick(wanted.unwrap_or_default()), sources);
        *stamp += 2;
        let (hidden, part, relative) = (self.hidden, Part::All, &self.relative[..]);
        let all = Pass { team, view: &views.all, rows: count, hidden, part, stamp: *stamp, relative };
        let mut pass = all;
        // The wanted rows, in their order.
        let only = wanted.map(|wanted| {
            (wanted, Pass { view: &views.wanted, rows: wanted.len(), stamp: *stamp + 1, ..all })
        });
        capture.keep(&blocks.x[..count * hidden]);
        if let Some((wanted, only)) = only.filter(|_| self.last_mixer.is_none()) {
            gather(&mut blocks.x, wanted, hidden);
            pass = only;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let again = layer.iter().any(Block::reads_layer_input);
            if again {
                let n = pass.rows * hidden;
                sized(&mut blocks.layer_input, n).copy_from_slice(&blocks.x[..n]);
            }
            for (j, block) in layer.iter().enumerate() {
                let last = only.filter(|_| self.last_mixer == Some((i, j)));
                let mut part = pass;
                if let Some((wanted, only)) = last {
                    // All rows store their state; the output is computed only for the wanted ones.
                    part.part = if block.body.splits() { Part::Store } else { Part::All };
                    block.forward(&part, caches.state(block.place), blocks, None);
                    if wanted.is_empty() {
                        return team.check();
                    }
                    gather(&mut blocks.x, wanted, hidden);
                    if again {
                        gather(&mut blocks.layer_input, wanted, hidden);
                    }
                    pass = only;
                    if part.part == Part::All {
                        continue;
                    }
                    part = Pass { part: Part::Output, ..pass };
                }
                let captured = block.body.captured().map(|kind| (i, kind));
                let watched = (captured.is_some() && captured == capture.attention)
                    .then_some(&mut capture.probabilities);
                block.forward(&part, caches.state(block.place), blocks, watched);
            }
            team.check()?;
            if i + 1 < self.layers.len() {
                capture.keep(&blocks.x[..pass.rows * hidden]);
            }
        }
        self.finish(team, pass.rows, blocks, narrow);
        capture.keep(&blocks.x[..pass.rows * self.output.as_ref().map_or(hidden, |o| o.weight.outputs())]);
        team.check()
    }

    /// Puts states before the final norm, `[rows, hidden]`, through it; the final states are left in
    /// `scratch.blocks.x`.
    pub fn finish_states(&self, team: &Team<'_>, scratch: &mut Scratch, states: &[f32]) {
        let Scratch { blocks, narrow, .. } = scratch;
        sized(&mut blocks.x, states.len()).copy_from_slice(states);
        self.finish(team, states.len() / self.hidden, blocks, narrow);
    }

    /// The final norm, and the projection to another width.
    fn finish(&self, team: &Team<'_>, rows: usize, blocks: &mut blocks::Scratch, narrow: &mut Buffer<f32>) {
        let n = rows * self.hidden;
        if let Some(norm) = &self.norm {
            norm.normalize_in_place(team, &mut blocks.x[..n], self.hidden);
        }
        if let Some(output) = &self.output {
            let x = sized(narrow, n);
            x.copy_from_slice(&blocks.x[..n]);
            let out = sized(&mut blocks.x, rows * output.weight.outputs());
            linear(team, &mut blocks.product, (&*x).into(), rows, &[output.target(out)]);
        }
    }
}

/// A table normalized once, while loading.
fn normalized(mut table: Vec<f32>, norm: Option<Norm>, width: usize) -> Vec<f32> {
    if let Some(norm) = norm.filter(|_| !table.is_empty()) {
        Pool::new(1).run_alone(|team| norm.normalize_in_place(team, &mut table, width));
    }
    table
}
