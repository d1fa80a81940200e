//! The driver of products: activations are packed once, panels and tiles are distributed over the threads,
//! results pass through the epilogue.

use super::activations::{ActivationView, Input, PackedActivations, Packing};
use super::epilogue::{Destination, PanelResults, epilogue_at};
use super::matrix::Matrix;
use super::panel::PANEL;
use super::select::{self, Products};
use super::subproduct::Subproduct;
use super::{float, q6, quantized};
use crate::simd::{Activation, Level, level};
use crate::tensor::{Buffer, Disjoint, WeightType, sized};
use crate::threads::Team;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Maximum number of rows that are computed together: with more, activations and results would not stay in
/// the cache.
pub const MAX_ROWS: usize = 512;
/// The same for a single thread, which reads all weights for all its rows: their activations stay in the L2
/// cache.
const MAX_ROWS_ONE_THREAD: usize = 128;

/// Scratch that calls reuse.
#[derive(Default)]
pub struct Scratch {
    packed: PackedActivations,
    threads: Vec<Mutex<ThreadScratch>>,
}

impl Scratch {
    /// Packs rows `from..from + rows` of activations for products with a matrix, and returns them with the
    /// scratch of each thread.
    pub(super) fn prepare<'a>(
        &'a mut self,
        team: &Team<'_>,
        level: Level,
        weight: &Matrix,
        x: Input<'a>,
        from: usize,
        rows: usize,
    ) -> (ActivationView<'a>, &'a [Mutex<ThreadScratch>]) {
        let Scratch { packed, threads } = self;
        let (products, inputs) = (Products::of(weight, level, rows), weight.inputs());
        let packing = products.packing(level, rows, inputs);
        threads.resize_with(team.threads().max(threads.len()), Mutex::default);
        (packed.pack(team, level, packing, x, from..from + rows, inputs), threads)
    }
}

/// Scratch of one thread.
#[derive(Default)]
pub struct ThreadScratch {
    /// Results of a chunk, `[panel][row][16]`.
    pub result: Buffer<f32>,
    gate: Buffer<f32>,
    /// A part of the weights, unpacked for the kernels.
    pub unpacked: Buffer<f32>,
}

/// One product of a region and its output: with `y = weight x + bias` and `g = gate x + gate bias`, `z =
/// activation(g) * y` with a gate, else `activation(y)`; then `out = z`, or `out += add * z`.
pub struct Target<'a> {
    pub weight: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub gate: Option<(&'a Matrix, Option<&'a [f32]>)>,
    pub activation: Activation,
    pub add: Option<f32>,
    /// `[rows, stride]`; the first `weight.outputs()` columns are written.
    pub out: Disjoint<'a, f32>,
    pub stride: usize,
}

impl<'a> Target<'a> {
    /// `out[rows, outputs] = x weight.T + bias`.
    pub fn new(weight: &'a Matrix, bias: Option<&'a [f32]>, out: &'a mut [f32]) -> Target<'a> {
        let (out, stride) = (Disjoint::new(out), weight.outputs());
        Target { weight, bias, gate: None, activation: Activation::Identity, add: None, out, stride }
    }
}

/// Computes all `targets` from the same activations `x: [rows, inputs]`, in one parallel region after the one
/// that packs them.
///
/// # Panics
/// Sizes do not match: weights with other inputs than `x`, an output that is too short.
pub fn linear(team: &Team<'_>, scratch: &mut Scratch, x: Input<'_>, rows: usize, targets: &[Target<'_>]) {
    let Some(first) = targets.first() else { return };
    let inputs = first.weight.inputs();
    let values = x.values.len();
    assert!(values == rows * inputs, "activations have {values} values: expected {rows} x {inputs}");
    check(inputs, rows, targets);
    let layout = |w: &Matrix| Products::of(w, level(), rows).layout();
    let first = layout(first.weight);
    if targets
        .iter()
        .any(|t| layout(t.weight) != first || t.gate.as_ref().is_some_and(|(g, _)| layout(g) != first))
    {
        assert!(targets.len() > 1, "a matrix and its gate have types that take the same activations");
        for t in targets {
            linear(team, scratch, x, rows, std::slice::from_ref(t));
        }
        return;
    }
    let max = if team.threads() == 1 { MAX_ROWS_ONE_THREAD } else { MAX_ROWS };
    let mut from = 0;
    while from < rows {
        let n = (rows - from).min(max);
        rows_chunk(team, scratch, x, from..from + n, targets);
        from += n;
    }
}

/// # Panics
/// Sizes do not match.
fn check(inputs: usize, rows: usize, targets: &[Target<'_>]) {
    for t in targets.iter() {
        let n = t.weight.outputs();
        let gate = t.gate.as_ref().is_none_or(|(g, bias)| {
            g.outputs() == n && g.inputs() == inputs && bias.is_none_or(|b| b.len() == n)
        });
        assert!(
            t.weight.inputs() == inputs && gate && t.bias.is_none_or(|b| b.len() == n),
            "all weights of a region have the same inputs, gates and biases the same outputs"
        );
        assert!(
            rows == 0 || (t.stride >= n && t.out.len() >= (rows - 1) * t.stride + n),
            "room for the results"
        );
    }
}

/// Computes target i from row i of `x: [targets, inputs]`, all in one parallel region: for rows that need
/// different weights, each with the bits of [`linear`] of that row alone.
///
/// # Panics
/// Sizes do not match.
pub fn linear_each(team: &Team<'_>, scratch: &mut Scratch, x: &[f32], targets: &[Target<'_>]) {
    let Some(first) = targets.first() else { return };
    let (level, inputs) = (level(), first.weight.inputs());
    assert!(x.len() == targets.len() * inputs, "one row of {inputs} inputs for each target");
    check(inputs, 1, targets);
    let products = Products::of(first.weight, level, 1);
    // Few rows of 6-bit weights are one tile.
    let kind = Some(first.weight.weight_type()).filter(|&kind| kind != WeightType::Q6);
    let same = |t: &Target<'_>| Some(t.weight.weight_type()) == kind && t.gate.is_none();
    if !targets.iter().all(same) {
        let rows = x.chunks_exact(inputs.max(1)).zip(targets);
        return rows.for_each(|(x, t)| linear(team, scratch, x.into(), 1, std::slice::from_ref(t)));
    }
    let Scratch { packed, threads } = scratch;
    threads.resize_with(team.threads().max(threads.len()), Mutex::default);
    let packing = Packing { height: 1, ..products.packing(level, 1, inputs) };
    let view = packed.pack(team, level, packing, x.into(), 0..targets.len(), inputs);
    let groups = Groups::new(team, 1, targets);
    let threads = &*threads;
    team.run(groups.count, &|group, thread| {
        let (row, panels) = groups.at(group);
        let t = &targets[row];
        let work = &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
        // The tile's row is the first of the target's output.
        let part = Subproduct { weight: t.weight, panels, x: view, tiles: row..row + 1, rows: 1 };
        compute(level, t, part, work, 0usize.wrapping_sub(row));
    });
}

fn rows_chunk(
    team: &Team<'_>,
    scratch: &mut Scratch,
    x: Input<'_>,
    rows: Range<usize>,
    targets: &[Target<'_>],
) {
    let (from, rows) = (rows.start, rows.len());
    let level = level();
    let (view, threads) = scratch.prepare(team, level, targets[0].weight, x, from, rows);

    // Chunks: some panels of one target and, where panels are few, a part of the row tiles.
    let groups = Groups::new(team, rows, targets);
    let tiles = view.packed.tiles.len();
    let cuts = cuts(team, rows, groups.count, tiles);
    team.run(groups.count * cuts, &|chunk, thread| {
        let (group, cut) = (chunk / cuts, chunk % cuts);
        let (target, panels) = groups.at(group);
        let t = &targets[target];
        let tiles = tiles * cut / cuts..tiles * (cut + 1) / cuts;
        let work = &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
        compute(level, t, Subproduct { weight: t.weight, panels, x: view, tiles, rows }, work, from);
    });
}

/// The panels of all targets of a region, in groups of panels of one target that a thread takes at a time.
struct Groups<'a> {
    targets: &'a [Target<'a>],
    per_group: usize,
    count: usize,
}

impl<'a> Groups<'a> {
    fn new(team: &Team<'_>, rows: usize, targets: &'a [Target<'a>]) -> Groups<'a> {
        let per_group = panels_per_chunk(team, rows, targets.iter().map(|t| t.weight.panels()).sum());
        let count = targets.iter().map(|t| t.weight.panels().div_ceil(per_group)).sum();
        Groups { targets, per_group, count }
    }

    /// The target and the panels of a group below `count`.
    #[inline]
    fn at(&self, mut group: usize) -> (usize, Range<usize>) {
        let mut target = 0;
        loop {
            let panels = self.targets[target].weight.panels();
            let groups = panels.div_ceil(self.per_group);
            if group < groups {
                let first = group * self.per_group;
                return (target, first..(first + self.per_group).min(panels));
            }
            group -= groups;
            target += 1;
        }
    }
}

/// Panels of one target that a thread takes at a time.
fn panels_per_chunk(team: &Team<'_>, rows: usize, panels: usize) -> usize {
    let wanted = if team.threads() == 1 { 1 } else { 16 * team.threads() };
    match rows {
        1..=4 => (panels / wanted).clamp(1, 16).next_multiple_of(float::SIDE_BY_SIDE),
        _ => 4,
    }
}

/// Number of parts of the row tiles; more than one if there are too few groups of panels for all threads.
pub fn cuts(team: &Team<'_>, rows: usize, groups: usize, tiles: usize) -> usize {
    if rows > 16 && groups < 4 * team.threads() {
        (4 * team.threads()).div_ceil(groups.max(1)).min(tiles)
    } else {
        1
    }
}

/// Computes a subproduct of a target and writes it through the epilogue. Row 0 of the activations is row
/// `from`, modulo the size of `usize`, of the output.
fn compute(level: Level, t: &Target<'_>, whole: Subproduct<'_>, work: &mut ThreadScratch, from: usize) {
    let ThreadScratch { result, gate, unpacked } = work;
    let (view, panels, tiles) = (whole.x, whole.panels.clone(), whole.tiles.clone());
    let slab_bytes = Products::of(t.weight, level, whole.rows).slab();
    let results = panels.len() * if t.gate.is_some() { 2 } else { 1 };
    let mut next = tiles.start;
    while next < tiles.end {
        let slab = slab(view.packed, next..tiles.end, results, slab_bytes);
        next = slab.end;
        let (first_row, rows) = view.packed.rows_of(&slab);
        let size = panels.len() * rows * PANEL;
        let result = sized(result, size);
        let gate = sized(gate, if t.gate.is_some() { size } else { 0 });
        let part = Subproduct { tiles: slab, ..whole.clone() };
        product(level, part.clone(), unpacked, result);
        if let Some((weight, _)) = t.gate {
            product(level, Subproduct { weight, ..part }, unpacked, gate);
        }
        for (i, panel) in panels.clone().enumerate() {
            let (part, first) = (i * rows * PANEL..(i + 1) * rows * PANEL, panel * PANEL);
            let y = PanelResults::new(&result[part.clone()], t.bias, first);
            let gate = t.gate.map(|(_, bias)| PanelResults::new(&gate[part], bias, first));
            let at = from.wrapping_add(first_row) * t.stride + first;
            let n = PANEL.min(t.weight.outputs() - first);
            epilogue_at(
                level,
                y,
                gate,
                t.activation,
                Destination { out: &t.out, at, stride: t.stride, n, add: t.add },
            );
        }
    }
}

/// The first of some tiles: as many as have their results of `panels` panels in a slab, in slabs of nearly
/// equal size, as a single leftover tile would read all weights for itself.
pub fn slab(packed: &PackedActivations, tiles: Range<usize>, panels: usize, bytes: usize) -> Range<usize> {
    let height = packed.tiles[tiles.start].1;
    let max = (bytes / (4 * PANEL * panels * height)).max(1);
    let slabs = tiles.len().div_ceil(max);
    tiles.start..tiles.start + tiles.len().div_ceil(slabs)
}

/// Computes a subproduct with the kernels of its matrix.
pub fn product(level: Level, part: Subproduct<'_>, unpacked: &mut Buffer<f32>, out: &mut [f32]) {
    match Products::of(part.weight, level, part.rows) {
        Products::Float(layout) => (select::of(level).float.product)(layout, part, unpacked, out),
        Products::Quantized(kernels, blocks) => {
            quantized::product(level, kernels, blocks, part, unpacked, out);
        }
        Products::Q6(kernels) => q6::product(level, kernels, part, unpacked, out),
    }
}
