//! Attention over blocks of keys and values. Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>
//!
//! One algorithm serves prefill, decoding, encoders and cross-attention. A query sees tiles of 128 absolute
//! positions. Inside a tile: scores (one multiply-add chain over the head dimension each), scale, soft cap,
//! bias, mask; the maximum m, p = exp(score - m), their sum in sixteen lanes, and the outputs p V (one chain
//! over the tile's tokens each). Tiles are merged in order with the rescaling of online softmax (Milakov
//! and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>). Which queries are computed together, in which
//! chunks a prompt arrives and how the work is shared among threads changes nothing in the results.
//!
//! Query heads that share a key head are computed together, so keys and values are read once.

mod probabilities;
mod units;

use super::kv::{BLOCK, KvBlocks, Numbers, Sequence, Sequences};
use super::position_bias::DistanceBias;
use crate::matmul::dense::{Shape, multiply, multiply_half};
use crate::simd::{LANES, exp, level, multiversion, tanh};
use crate::tensor::{Buffer, Disjoint, sized};
use crate::threads::Team;
pub use probabilities::probabilities;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use units::{FEW_ROWS, Unit};

/// Positions in a tile.
pub const TILE: usize = 128;

/// How scores are made.
#[derive(Debug, Clone)]
pub struct Scores<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub causal: bool,
    /// Keys at a distance of `window` or more are not seen.
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    pub distance_bias: Option<&'a DistanceBias>,
}

impl Scores<'_> {
    /// Positions that a query at `position` sees among `length` keys.
    fn visible(&self, position: usize, length: usize) -> Range<usize> {
        let end = if self.causal { length.min(position + 1) } else { length };
        match self.window {
            Some(w) => (position + 1).saturating_sub(w)..end.min(position + w),
            None => 0..end,
        }
    }
}

/// Memory of one thread.
#[derive(Default)]
struct ThreadScratch {
    queries: Buffer<f32>,
    scores: Buffer<f32>,
    /// A block of keys or values, as f32.
    block: Buffer<f32>,
    widened: Buffer<f32>,
    part: Buffer<f32>,
    total: Buffer<f32>,
}

/// Memory that calls reuse.
#[derive(Default)]
pub struct Scratch {
    threads: Vec<Mutex<ThreadScratch>>,
    units: Vec<Unit>,
    /// Tiles of units, each by itself.
    jobs: Vec<(usize, usize)>,
    parts: Buffer<f32>,
}

/// `c = a b` or `c += a b`, whatever b is stored as.
fn product(
    shape: &Shape,
    a: &[f32],
    b: Numbers<'_>,
    c: &mut [f32],
    accumulate: bool,
    scratch: &mut Buffer<f32>,
) {
    match b {
        Numbers::F32(b) => multiply(level(), shape, a, b, c, accumulate),
        Numbers::F16(b) => multiply_half(level(), shape, a, b, c, accumulate, scratch),
    }
}

/// Numbers of the lanes.
const LANE: [f32; LANES] = {
    let mut lanes = [0.0; LANES];
    let mut i = 0;
    while i < LANES {
        lanes[i] = i as f32;
        i += 1;
    }
    lanes
};

multiversion! {
    /// Scales, caps and biases a row of scores, masks all but `from..to`, and replaces it by
    /// exp(score - maximum). Returns the maximum and the sum; with nothing visible (minus infinity, 0), with
    /// nothing but values beyond f32 not-a-number.
    fn soften / soften_at(row: &mut [f32], from: usize, to: usize, scale: f32, softcap: f32, bias: &[f32]) -> (f32, f32) {
        let (lane, hidden) = (Lanes::from_array(LANE), Lanes::splat(f32::NEG_INFINITY));
        let mut top = hidden;
        let mut i = 0;
        while i < row.len() {
            let mut s = Lanes::load(&row[i..]) * Lanes::splat(scale);
            if softcap > 0.0 {
                let cap = Lanes::splat(softcap);
                s = tanh(s / cap) * cap;
            }
            if i < bias.len() {
                s = s + Lanes::load_or(&bias[i..bias.len().min(i + LANES)], 0.0);
            }
            if i < from {
                s = lane.select_below(from as f32 - i as f32, hidden, s);
            }
            if i + LANES > to {
                s = lane.select_below(to as f32 - i as f32, s, hidden);
            }
            s.store(&mut row[i..]);
            // Not-a-number stays: the second operand is returned then.
            top = top.max(s);
            i += LANES;
        }
        let m = top.fold_top();
        if m == f32::NEG_INFINITY {
            // Visible scores that are all not-a-number or minus infinity are not a row that sees nothing.
            return if from < to { (f32::NAN, f32::NAN) } else { (m, 0.0) };
        }
        let m_all = Lanes::splat(m);
        let mut sum = Lanes::splat(0.0);
        let mut i = 0;
        while i < row.len() {
            let e = exp(Lanes::load(&row[i..]) - m_all);
            e.store(&mut row[i..]);
            sum = sum + e;
            i += LANES;
        }
        (m, sum.fold_sum())
    }
}

multiversion! {
    /// exp of one value.
    fn exp_one / exp_one_at(x: f32) -> f32 {
        exp(Lanes::splat(x)).to_array()[0]
    }
}

multiversion! {
    /// Adds the outputs of a tile to the running ones: `o = o * a + part * b`.
    fn merge / merge_at(o: &mut [f32], a: f32, part: &[f32], b: f32) {
        let mut i = 0;
        while i < o.len() {
            let end = (i + LANES).min(o.len());
            let p = Lanes::load_or(&part[i..end], 0.0) * Lanes::splat(b);
            Lanes::load_or(&o[i..end], 0.0).mul_add(Lanes::splat(a), p).store_part(&mut o[i..end]);
            i = end;
        }
    }
}

/// Rows of `width = head_dim + 2` values: outputs, maximum, sum.
fn merge_rows(total: &mut [f32], part: &[f32], width: usize) {
    let dim = width - 2;
    for (o, p) in total.chunks_exact_mut(width).zip(part.chunks_exact(width)) {
        let (mp, mo) = (p[dim], o[dim]);
        if mp == f32::NEG_INFINITY {
            continue;
        }
        if mo == f32::NEG_INFINITY {
            o.copy_from_slice(p);
            continue;
        }
        let m = if mp > mo { mp } else { mo };
        let (a, b) = (exp_one(mo - m), exp_one(mp - m));
        merge(&mut o[..dim], a, &p[..dim], b);
        o[dim] = m;
        o[dim + 1] = o[dim + 1].mul_add(a, p[dim + 1] * b);
    }
}

/// See [`Call`]. Measured on a Zen 5 with 32 MB of shared cache: fewer stay there from one sequence to the next, and together
/// they take 4 % longer; 16 MB take 0.7 of the time.
const SHARED_FROM: usize = 6 << 20;

/// What all parts of the work read.
struct Call<'a> {
    queries: &'a [f32],
    sequences: Sequences<'a>,
    kv: &'a KvBlocks,
    scores: &'a Scores<'a>,
    /// Bytes of keys and values from which on several sequences see them together.
    shared_from: usize,
}

impl Call<'_> {
    fn group(&self) -> usize {
        self.scores.heads / self.scores.kv_heads
    }

    /// A sequence by its place in the list.
    fn sequence(&self, index: usize) -> &Sequence {
        &self.sequences.list[index]
    }

    /// The blocks of a unit's sequence.
    fn table(&self, unit: &Unit) -> &[u32] {
        self.sequences.table(self.sequence(unit.sequence))
    }

    /// Rows of queries that one key head of a unit sees.
    fn rows(&self, unit: &Unit) -> usize {
        unit.queries * self.group()
    }

    /// Where a key head's share of one of a unit's queries lies in `queries` and `out`.
    fn place(&self, unit: &Unit, head: usize, query: usize) -> usize {
        let (g, s) = (self.group(), self.sequence(unit.sequence));
        ((s.rows.start + unit.query + query) * self.scores.heads + (unit.kv_head + head) * g)
            * self.scores.head_dim
    }

    /// Copies the unit's queries, `[kv_heads, queries * group, head_dim]`.
    fn gather(&self, unit: &Unit, out: &mut Buffer<f32>) {
        let n = self.group() * self.scores.head_dim;
        let out = sized(out, unit.kv_heads * unit.queries * n);
        for (i, to) in out.chunks_exact_mut(n).enumerate() {
            let from = self.place(unit, i / unit.queries, i % unit.queries);
            to.copy_from_slice(&self.queries[from..][..n]);
        }
    }

    /// Asks the memory for the keys, or the values, that follow those of a head of a block, where they are read once and
    /// for few products.
    fn ask_beyond(&self, unit: &Unit, block: usize, head: usize, values: bool) {
        if self.rows(unit) > FEW_ROWS {
            return;
        }
        let table = self.table(unit);
        if head + 1 < unit.kv_heads {
            self.kv.ask(table[block], unit.kv_head + head + 1, values);
        } else if let Some(&next) = table.get(block + 1) {
            self.kv.ask(next, unit.kv_head, values);
        }
    }

    /// Scores of one tile, softened in place, `[kv_heads, rows, TILE]`; calls `each(row, maximum, sum)`.
    fn tile_scores(
        &self,
        unit: &Unit,
        tile: usize,
        t: &mut ThreadScratch,
        mut each: impl FnMut(usize, f32, f32),
    ) {
        let (g, d, table) = (self.group(), self.scores.head_dim, self.table(unit));
        let (rows, start) = (self.rows(unit), tile * TILE);
        let end = self.end(unit, tile);
        sized(&mut t.scores, unit.kv_heads * rows * TILE);
        sized(&mut t.block, d * BLOCK);
        let padded = (end - start).next_multiple_of(LANES);
        for block in 0..(end - start).div_ceil(BLOCK) {
            let number = table[start / BLOCK + block];
            let columns = BLOCK.min(padded - block * BLOCK);
            let shape = Shape { rows, columns, depth: d, a_stride: d, b_stride: BLOCK, c_stride: TILE };
            for head in 0..unit.kv_heads {
                self.ask_beyond(unit, start / BLOCK + block, head, false);
                let keys = self.kv.keys(number, unit.kv_head + head, &mut t.block);
                let scores = &mut t.scores[head * rows * TILE + block * BLOCK..];
                product(&shape, &t.queries[head * rows * d..], keys, scores, false, &mut t.widened);
            }
        }
        for (row, scores) in t.scores.chunks_exact_mut(TILE).enumerate().take(unit.kv_heads * rows) {
            let (head, query) = (unit.kv_head + row / rows, row % rows);
            let (position, length) = self.query(unit, query / g);
            let visible = self.scores.visible(position, length);
            let (from, to) =
                (visible.start.saturating_sub(start), visible.end.saturating_sub(start).min(end - start));
            let bias = match self.scores.distance_bias {
                Some(bias) => bias.row(head * g + query % g, position, start, end - start),
                None => &[],
            };
            let values = &mut scores[..padded];
            let softcap = self.scores.softcap.unwrap_or(0.0);
            let (m, sum) = soften(values, from, to, self.scores.scale, softcap, bias);
            if m == f32::NEG_INFINITY {
                values.fill(0.0);
            }
            each(row, m, sum);
        }
    }

    /// One tile of a unit: rows of outputs, maximum and sum into `part`.
    fn tile(&self, unit: &Unit, tile: usize, t: &mut ThreadScratch, part: &mut [f32]) {
        let (d, table) = (self.scores.head_dim, self.table(unit));
        let (rows, start) = (self.rows(unit), tile * TILE);
        let end = self.end(unit, tile);
        self.tile_scores(unit, tile, t, |row, m, sum| {
            part[row * (d + 2) + d] = m;
            part[row * (d + 2) + d + 1] = sum;
        });
        for block in 0..(end - start).div_ceil(BLOCK) {
            let tokens = BLOCK.min(end - start - block * BLOCK);
            let number = table[start / BLOCK + block];
            let shape =
                Shape { rows, columns: d, depth: tokens, a_stride: TILE, b_stride: d, c_stride: d + 2 };
            for head in 0..unit.kv_heads {
                self.ask_beyond(unit, start / BLOCK + block, head, true);
                let values = self.kv.values(number, unit.kv_head + head, tokens, &mut t.block);
                let (scores, part) =
                    (&t.scores[head * rows * TILE + block * BLOCK..], &mut part[head * rows * (d + 2)..]);
                product(&shape, scores, values, part, block > 0, &mut t.widened);
            }
        }
    }

    /// Divides by the sums and writes the outputs of one key head of a unit.
    fn finish(&self, unit: &Unit, head: usize, total: &[f32], out: &Disjoint<'_, f32>) {
        let (g, d) = (self.group(), self.scores.head_dim);
        for (row, o) in total.chunks_exact(d + 2).enumerate() {
            // SAFETY: each head of each row belongs to one unit.
            let to = unsafe { out.slice(self.place(unit, head, row / g) + row % g * d, d) };
            let inverse = if o[d + 1] == 0.0 { 0.0 } else { 1.0 / o[d + 1] };
            for (to, &v) in to.iter_mut().zip(o) {
                // Adding zero makes minus zero, which a skipped key could leave behind, plus zero.
                *to = v * inverse + 0.0;
            }
        }
    }
}

/// Attends: `queries` and `out` are `[rows, heads * head_dim]`. A query that sees no key gets zeros.
pub fn attention(
    team: &Team<'_>,
    scratch: &mut Scratch,
    queries: &[f32],
    sequences: Sequences<'_>,
    kv: &KvBlocks,
    scores: &Scores<'_>,
    out: &mut [f32],
) {
    attend(team, scratch, &Call { queries, sequences, kv, scores, shared_from: SHARED_FROM }, out);
}

fn attend(team: &Team<'_>, scratch: &mut Scratch, call: &Call<'_>, out: &mut [f32]) {
    let width = call.scores.head_dim + 2;
    let Scratch { threads, units, jobs, parts } = scratch;
    call.units(team.threads(), units);
    threads.resize_with(team.threads().max(threads.len()), Mutex::default);
    let threads = &*threads;
    let lock = |thread: usize| threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
    let out = Disjoint::new(out);
    let most_tiles = units.iter().map(|u| u.tiles().len()).max().unwrap_or(0);

    let share = units.iter().any(|u| u.members > 1);
    if !share && (units.len() >= 2 * team.threads() || most_tiles <= 2 || team.threads() == 1) {
        let units = &*units;
        team.run(units.len(), &|i, thread| {
            let (t, unit) = (&mut *lock(thread), &units[i]);
            let size = call.rows(unit) * width;
            let (mut part, mut total) = (std::mem::take(&mut t.part), std::mem::take(&mut t.total));
            let parts = sized(&mut part, unit.kv_heads * size);
            let totals = sized(&mut total, unit.kv_heads * size);
            call.gather(unit, &mut t.queries);
            reset(totals, width);
            for tile in unit.tiles() {
                call.tile(unit, tile, t, parts);
                merge_rows(totals, parts, width);
            }
            for (head, total) in totals.chunks_exact(size).enumerate() {
                call.finish(unit, head, total, &out);
            }
            (t.part, t.total) = (part, total);
        });
        return;
    }
    // Few units with many tiles (decoding at long context), or some that share tiles: the tiles are shared out.
    jobs.clear();
    let mut room = 0;
    for (i, unit) in units.iter_mut().enumerate() {
        unit.parts = room;
        jobs.extend(unit.tiles().map(|tile| (i, tile)));
        room += unit.tiles().len() * call.part(unit);
    }
    let (units, jobs) = (&*units, &*jobs);
    let parts = Disjoint::new(sized(parts, room));
    team.run(jobs.len(), &|i, thread| {
        let (unit, tile) = (&units[jobs[i].0], jobs[i].1);
        let t = &mut *lock(thread);
        call.gather(unit, &mut t.queries);
        // SAFETY: each tile of a unit has a part of its own.
        let part = unsafe { parts.slice(call.place_of_part(unit, tile), call.part(unit)) };
        call.tile(unit, tile, t, part);
    });
    let heads = units.iter().map(|u| u.kv_heads).max().unwrap_or(0);
    team.run(units.len() * heads, &|i, thread| {
        let (unit, head) = (&units[i / heads], i % heads);
        if unit.members > 1 || head >= unit.kv_heads {
            return;
        }
        let (t, size) = (&mut *lock(thread), call.rows(unit) * width);
        let total = sized(&mut t.total, size);
        reset(total, width);
        let mut merge = |unit: &Unit, row: usize| {
            for tile in unit.tiles() {
                let at = call.place_of_part(unit, tile) + (head * call.rows(unit) + row) * width;
                // SAFETY: the parts are only read now, each by one chunk.
                merge_rows(total, unsafe { parts.slice(at, size) }, width);
            }
        };
        if let Some((shared, member)) = unit.before {
            merge(&units[shared], member * call.group());
        }
        merge(unit, 0);
        call.finish(unit, head, total, &out);
    });
}

fn reset(total: &mut [f32], width: usize) {
    for row in total.chunks_exact_mut(width) {
        row.fill(0.0);
        row[width - 2] = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod levels;
#[cfg(test)]
mod tests;
