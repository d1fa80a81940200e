//! Matrix products `y = x @ weight.T` with packed weights.
//!
//! Weights are packed once, in panels of 16 outputs that lie in memory as the kernels read them; one layout
//! per weight type serves every number of rows and every instruction set. Each output is one chain of
//! operations in a fixed order, so it has the same bits whatever is computed beside it:
//!
//! * `f32`, `bf16`, `f16` (`float`): one fused multiply-add after the other over the inputs, also where activations are
//!   rounded to bf16 (then of each two inputs the second comes first);
//! * `q8`, `q6`, `q4`: exact integers inside groups of inputs, of `q4` inside blocks, then a few fused multiply-adds in their order.
//!
//! Kernels for few rows read weights as they are packed; before many, blocks may be turned into what is read faster
//! ([`quantized::Blocks`]), which changes no bit.
//!
//! A call (`linear`) prepares its activations once ("strips": tiles of some rows, most kinds interleaved) and shares
//! them among all its products, whose panels are one list of chunks for the threads.

pub mod bounds;
mod finish;
mod float;
mod matrix;
pub mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pieces;
mod q4;
mod q6;
mod q8;
mod quantized;
mod strips;
#[cfg(test)]
mod tests;

pub use matrix::{Activations, LAYOUT_VERSION, Matrix, Storage};
pub use pieces::{PIECE, Piece, linear_in_pieces};

use crate::simd::{Activation, Level, level};
use crate::tensor::{Buffer, Disjoint, WeightType, sized};
use crate::threads::Team;
use finish::{Place, Results, finish_at};
use quantized::{Blocks, Kernels};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
pub use strips::Input;
use strips::{Kind, Prepared, Strips};

/// Outputs in a panel.
pub const PANEL: usize = 16;

/// Rows that are computed together: more are cut, so that activations and results stay in the cache.
const MOST_ROWS: usize = 512;
/// The same for a thread on its own, which reads all weights for all its rows: their strips stay in its own cache.
const MOST_ROWS_ALONE: usize = 128;

/// Memory that calls reuse.
#[derive(Default)]
pub struct Scratch {
    strips: Strips,
    threads: Vec<Mutex<ThreadScratch>>,
}

impl Scratch {
    /// Rows `from..from + rows` of activations as a matrix and those like it take them, and memory for each thread.
    fn prepare<'a>(
        &'a mut self,
        team: &Team<'_>,
        level: Level,
        weight: &Matrix,
        x: Input<'a>,
        from: usize,
        rows: usize,
    ) -> (Prepared<'a>, &'a [Mutex<ThreadScratch>]) {
        let Scratch { strips, threads } = self;
        let (products, inputs) = (Products::of(weight, level, rows), weight.inputs());
        let (kind, height) = (products.kind(), products.height(level, rows));
        let by_rows = products.prefers_rows(rows, inputs);
        threads.resize_with(team.threads().max(threads.len()), Mutex::default);
        (strips.pack(team, level, kind, x, from, rows, inputs, height, by_rows), threads)
    }
}

/// Memory of one thread.
#[derive(Default)]
struct ThreadScratch {
    /// Results of a chunk, `[panel][row][16]`.
    result: Buffer<f32>,
    gate: Buffer<f32>,
    /// A piece of weights as the kernels take it.
    widened: Buffer<f32>,
}

/// One product of a region and where it goes: with `y = weight x + bias` and `g = gate x + gate bias`,
/// `z = activation(g) * y` where there is a gate, else `activation(y)`; then `out = z`, or
/// `out += add * z`.
pub struct Target<'a> {
    pub weight: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub gate: Option<(&'a Matrix, Option<&'a [f32]>)>,
    pub activation: Activation,
    pub add: Option<f32>,
    /// `[rows, stride]`, of which the first `weight.outputs()` columns are written.
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

/// Computes all `targets` from the same activations `x: [rows, inputs]`, in one parallel region behind the one that
/// prepares them.
///
/// # Panics
/// If sizes do not fit: weights of other inputs than `x` has, outputs too short.
pub fn linear(team: &Team<'_>, scratch: &mut Scratch, x: Input<'_>, rows: usize, targets: &[Target<'_>]) {
    let Some(first) = targets.first() else { return };
    let inputs = first.weight.inputs();
    let values = x.values.len();
    assert!(values == rows * inputs, "activations have {values} values: expected {rows} x {inputs}");
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
    let kind = |w: &Matrix| Products::of(w, level(), rows).kind();
    let first = kind(first.weight);
    if targets
        .iter()
        .any(|t| kind(t.weight) != first || t.gate.as_ref().is_some_and(|(g, _)| kind(g) != first))
    {
        assert!(targets.len() > 1, "a matrix and its gate have types that take the same activations");
        for t in targets {
            linear(team, scratch, x, rows, std::slice::from_ref(t));
        }
        return;
    }
    let most = if team.threads() == 1 { MOST_ROWS_ALONE } else { MOST_ROWS };
    let mut from = 0;
    while from < rows {
        let n = (rows - from).min(most);
        block(team, scratch, x, from..from + n, targets);
        from += n;
    }
}

/// The same pointer, of which the compiler knows nothing any more: what it would read ahead from there, it cannot.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn hidden<T>(pointer: *const T) -> *const T {
    let mut at = pointer.addr();
    // SAFETY: does nothing.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) at, options(nomem, nostack, preserves_flags)) };
    pointer.with_addr(at)
}

/// The kernels of a matrix.
#[derive(Clone, Copy)]
enum Products {
    Float(Kind),
    Quantized(&'static Kernels, &'static Blocks),
    /// Few rows of 6-bit weights.
    Q6(&'static Kernels),
}

impl Products {
    /// For so many rows.
    fn of(w: &Matrix, level: Level, rows: usize) -> Products {
        let (kernels, blocks) = match w.weight_type() {
            WeightType::Q8 => q8::products(level, w.activations(), rows),
            WeightType::Q6 => (q8::kernels(level, w.activations()), &q6::BLOCKS),
            WeightType::Q4 => q4::products(level, rows),
            _ => return Products::Float(float::kind(level, w)),
        };
        // Those are a tile, whose memory is asked for as it goes.
        if w.weight_type() == WeightType::Q6 && rows <= kernels.few.len() {
            Products::Q6(kernels)
        } else {
            Products::Quantized(kernels, blocks)
        }
    }

    /// What they take as activations.
    fn kind(self) -> Kind {
        match self {
            Products::Float(kind) => kind,
            Products::Quantized(kernels, _) | Products::Q6(kernels) => kernels.kind,
        }
    }

    /// How codes of activations `[rows, inputs]` lie, see [`Strips::by_rows`].
    fn prefers_rows(self, rows: usize, inputs: usize) -> bool {
        match self {
            Products::Float(_) => false,
            Products::Quantized(kernels, _) | Products::Q6(kernels) => kernels.prefers_rows(rows, inputs),
        }
    }

    /// Bytes of results in a slab.
    fn slab(self) -> usize {
        match self {
            Products::Quantized(_, Blocks { widening: Some(_), .. }) => SLAB_OF_WIDENED,
            _ => SLAB,
        }
    }

    /// Rows in a tile.
    fn height(self, level: Level, rows: usize) -> usize {
        match self {
            Products::Float(kind) => float::height(level, kind, rows),
            Products::Quantized(kernels, _) | Products::Q6(kernels) => kernels.height(rows),
        }
    }
}

fn block(team: &Team<'_>, scratch: &mut Scratch, x: Input<'_>, rows: Range<usize>, targets: &[Target<'_>]) {
    let (from, rows) = (rows.start, rows.len());
    let level = level();
    let (strips, threads) = scratch.prepare(team, level, targets[0].weight, x, from, rows);

    // Chunks: some panels of one target, and, where there are few panels, some of the tiles of rows.
    let panels: usize = targets.iter().map(|t| t.weight.panels()).sum();
    let wanted = if team.threads() == 1 { 1 } else { 16 * team.threads() };
    let per_chunk = match rows {
        1..=4 => (panels / wanted).clamp(1, 16).next_multiple_of(float::SIDE_BY_SIDE),
        _ => 4,
    };
    let groups: usize = targets.iter().map(|t| t.weight.panels().div_ceil(per_chunk)).sum();
    let tiles = strips.tiles.len();
    let cuts = cuts(team, rows, groups, tiles);
    team.run(groups * cuts, &|chunk, thread| {
        let (mut group, cut) = (chunk / cuts, chunk % cuts);
        for t in targets {
            let count = t.weight.panels().div_ceil(per_chunk);
            if group < count {
                let first = group * per_chunk;
                let panels = first..(first + per_chunk).min(t.weight.panels());
                let tiles = tiles * cut / cuts..tiles * (cut + 1) / cuts;
                let work = &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
                compute(level, t, panels, tiles, strips, work, from);
                return;
            }
            group -= count;
        }
    });
}

/// Parts that the tiles of rows are cut into, where there are too few groups of panels for all threads.
fn cuts(team: &Team<'_>, rows: usize, groups: usize, tiles: usize) -> usize {
    if rows > 16 && groups < 4 * team.threads() {
        (4 * team.threads()).div_ceil(groups.max(1)).min(tiles)
    } else {
        1
    }
}

/// Results of some panels for some tiles of rows, finished and written.
fn compute(
    level: Level,
    t: &Target<'_>,
    panels: Range<usize>,
    tiles: Range<usize>,
    s: Prepared<'_>,
    work: &mut ThreadScratch,
    from: usize,
) {
    let ThreadScratch { result, gate, widened } = work;
    let mut next = tiles.start;
    while next < tiles.end {
        let most = Products::of(t.weight, level, s.rows).slab();
        let slab = slab(&s, next..tiles.end, panels.len() * if t.gate.is_some() { 2 } else { 1 }, most);
        next = slab.end;
        let (first_row, rows) = s.rows_of(&slab);
        let size = panels.len() * rows * PANEL;
        let result = sized(result, size);
        let gate = sized(gate, if t.gate.is_some() { size } else { 0 });
        product(level, t.weight, panels.clone(), s, slab.clone(), widened, result);
        if let Some((matrix, _)) = t.gate {
            product(level, matrix, panels.clone(), s, slab, widened, gate);
        }
        for (i, panel) in panels.clone().enumerate() {
            let (part, first) = (i * rows * PANEL..(i + 1) * rows * PANEL, panel * PANEL);
            let y = Results::new(&result[part.clone()], t.bias, first);
            let gate = t.gate.map(|(_, bias)| Results::new(&gate[part], bias, first));
            let at = (from + first_row) * t.stride + first;
            let n = PANEL.min(t.weight.outputs() - first);
            finish_at(
                level,
                y,
                gate,
                t.activation,
                Place { out: &t.out, at, stride: t.stride, n, add: t.add },
            );
        }
    }
}

/// Bytes of results that a thread makes before it finishes them: they stay in the nearest cache meanwhile.
const SLAB: usize = 32 * 1024;
/// The same where weights are widened for each slab: they stay in a core's own cache.
const SLAB_OF_WIDENED: usize = 256 * 1024;

/// The first of some tiles, as many as have their results of `panels` panels in a slab, in slabs of nearly equal size: a
/// tile that is left alone would read its weights for itself.
fn slab(s: &Strips, tiles: Range<usize>, panels: usize, bytes: usize) -> Range<usize> {
    let height = s.tiles[tiles.start].1;
    let most = (bytes / (4 * PANEL * panels * height)).max(1);
    let slabs = tiles.len().div_ceil(most);
    tiles.start..tiles.start + tiles.len().div_ceil(slabs)
}

/// Results of some panels for some tiles, `[panel][row][16]`.
fn product(
    level: Level,
    w: &Matrix,
    panels: Range<usize>,
    s: Prepared<'_>,
    tiles: Range<usize>,
    widened: &mut Buffer<f32>,
    out: &mut [f32],
) {
    match Products::of(w, level, s.rows) {
        Products::Float(kind) => float::product(level, kind, w, panels, s, tiles, widened, out),
        Products::Quantized(kernels, blocks) => {
            quantized::product(level, kernels, blocks, w, panels, &s, tiles, widened, out);
        }
        Products::Q6(kernels) => q6::product(level, kernels, w, panels, &s, widened, out),
    }
}
