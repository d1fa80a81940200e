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

use super::kv::{BLOCK, KvBlocks, Numbers};
use super::position_bias::DistanceBias;
use crate::matmul::micro::{Shape, multiply, multiply_half};
use crate::simd::{LANES, exp, level, multiversion, tanh};
use crate::tensor::{Buffer, Disjoint, sized};
use crate::threads::Team;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Positions in a tile.
pub const TILE: usize = 128;

/// Rows of queries (positions times grouped heads) that a unit of work aims at.
const ROWS: usize = 32;

/// Rows for which the memory is slower than the products.
const FEW_ROWS: usize = 16;

/// One sequence of a batch.
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    /// Its blocks of keys and values.
    pub table: &'a [u32],
    /// Its rows in `queries` and `out`.
    pub rows: Range<usize>,
    /// Position of the first of these queries.
    pub first: usize,
    /// Keys there are, from position 0.
    pub length: usize,
}

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
    parts: Buffer<f32>,
}

/// Some successive queries of a sequence with one key head.
#[derive(Debug, Clone, Copy)]
struct Unit {
    sequence: usize,
    kv_head: usize,
    /// First query, counted from the sequence's first, and how many.
    query: usize,
    queries: usize,
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

/// Rows of `head_dim + 2` values: outputs, maximum, sum.
fn merge_rows(total: &mut [f32], part: &[f32], dim: usize) {
    for (o, p) in total.chunks_exact_mut(dim + 2).zip(part.chunks_exact(dim + 2)) {
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

struct Call<'a> {
    queries: &'a [f32],
    sequences: &'a [Sequence<'a>],
    kv: &'a KvBlocks,
    scores: &'a Scores<'a>,
}

impl Call<'_> {
    fn group(&self) -> usize {
        self.scores.heads / self.scores.kv_heads
    }

    /// Copies the unit's queries, `[queries * group, head_dim]`.
    fn gather(&self, unit: &Unit, out: &mut Buffer<f32>) {
        let (g, d, s) = (self.group(), self.scores.head_dim, &self.sequences[unit.sequence]);
        sized(out, unit.queries * g * d);
        for q in 0..unit.queries {
            let from = (s.rows.start + unit.query + q) * self.scores.heads * d + unit.kv_head * g * d;
            out[q * g * d..][..g * d].copy_from_slice(&self.queries[from..][..g * d]);
        }
    }

    /// Positions that the unit's queries see, taken together.
    fn span(&self, unit: &Unit) -> Range<usize> {
        let s = &self.sequences[unit.sequence];
        let first = self.scores.visible(s.first + unit.query, s.length);
        let last = self.scores.visible(s.first + unit.query + unit.queries - 1, s.length);
        first.start.min(last.start)..first.end.max(last.end)
    }

    /// Scores of one tile, softened in place, `[rows, TILE]`; calls `each(row, maximum, sum)`.
    fn tile_scores(
        &self,
        unit: &Unit,
        tile: usize,
        t: &mut ThreadScratch,
        mut each: impl FnMut(usize, f32, f32),
    ) {
        let (g, d, s) = (self.group(), self.scores.head_dim, &self.sequences[unit.sequence]);
        let (rows, start) = (unit.queries * g, tile * TILE);
        let end = self.span(unit).end.min(start + TILE);
        sized(&mut t.scores, ROWS.max(rows) * TILE);
        sized(&mut t.block, d * BLOCK);
        let padded = (end - start).next_multiple_of(LANES);
        for block in 0..(end - start).div_ceil(BLOCK) {
            let at = start / BLOCK + block;
            if rows <= FEW_ROWS {
                // Read once and for few products: what comes next is asked for meanwhile.
                self.kv.ask(s.table[at], unit.kv_head, true);
                if (at + 1) * BLOCK < s.length {
                    self.kv.ask(s.table[at + 1], unit.kv_head, false);
                }
            }
            let keys = self.kv.keys(s.table[at], unit.kv_head, &mut t.block);
            let columns = BLOCK.min(padded - block * BLOCK);
            let shape = Shape { rows, columns, depth: d, a_stride: d, b_stride: BLOCK, c_stride: TILE };
            product(&shape, &t.queries, keys, &mut t.scores[block * BLOCK..], false, &mut t.widened);
        }
        for row in 0..rows {
            let position = s.first + unit.query + row / g;
            let visible = self.scores.visible(position, s.length);
            let (from, to) =
                (visible.start.saturating_sub(start), visible.end.saturating_sub(start).min(end - start));
            let bias = match self.scores.distance_bias {
                Some(bias) => bias.row(unit.kv_head * g + row % g, position, start, end - start),
                None => &[],
            };
            let values = &mut t.scores[row * TILE..][..padded];
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
        let (g, d, s) = (self.group(), self.scores.head_dim, &self.sequences[unit.sequence]);
        let (rows, start) = (unit.queries * g, tile * TILE);
        let end = self.span(unit).end.min(start + TILE);
        self.tile_scores(unit, tile, t, |row, m, sum| {
            part[row * (d + 2) + d] = m;
            part[row * (d + 2) + d + 1] = sum;
        });
        for block in 0..(end - start).div_ceil(BLOCK) {
            let tokens = BLOCK.min(end - start - block * BLOCK);
            let table = s.table[start / BLOCK + block];
            let values = self.kv.values(table, unit.kv_head, tokens, &mut t.block);
            let shape =
                Shape { rows, columns: d, depth: tokens, a_stride: TILE, b_stride: d, c_stride: d + 2 };
            product(&shape, &t.scores[block * BLOCK..], values, part, block > 0, &mut t.widened);
        }
    }

    fn tiles(&self, unit: &Unit) -> Range<usize> {
        let span = self.span(unit);
        span.start / TILE..span.end.div_ceil(TILE)
    }

    /// Divides by the sums and writes the outputs of a unit.
    fn finish(&self, unit: &Unit, total: &[f32], out: &Disjoint<'_, f32>) {
        let (g, d, s) = (self.group(), self.scores.head_dim, &self.sequences[unit.sequence]);
        for (row, o) in total.chunks_exact(d + 2).enumerate().take(unit.queries * g) {
            let at = (s.rows.start + unit.query + row / g) * self.scores.heads * d
                + (unit.kv_head * g + row % g) * d;
            // SAFETY: each head of each row belongs to one unit.
            let to = unsafe { out.slice(at, d) };
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
    sequences: &[Sequence<'_>],
    kv: &KvBlocks,
    scores: &Scores<'_>,
    out: &mut [f32],
) {
    let call = Call { queries, sequences, kv, scores };
    let d = scores.head_dim;
    let per_unit = (ROWS / call.group()).max(1);
    scratch.units.clear();
    for (i, s) in sequences.iter().enumerate() {
        for query in (0..s.rows.len()).step_by(per_unit) {
            let queries = per_unit.min(s.rows.len() - query);
            for kv_head in 0..scores.kv_heads {
                scratch.units.push(Unit { sequence: i, kv_head, query, queries });
            }
        }
    }
    scratch.threads.resize_with(team.threads().max(scratch.threads.len()), Mutex::default);
    let (units, threads) = (&scratch.units, &scratch.threads);
    let lock = |thread: usize| threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
    let out = Disjoint::new(out);
    let most_tiles = units.iter().map(|u| call.tiles(u).len()).max().unwrap_or(0);
    let stride = per_unit * call.group() * (d + 2);

    if units.len() >= 2 * team.threads() || most_tiles <= 2 || team.threads() == 1 {
        team.run(units.len(), &|i, thread| {
            let (t, unit) = (&mut *lock(thread), &units[i]);
            let rows = unit.queries * call.group() * (d + 2);
            let (mut part, mut total) = (std::mem::take(&mut t.part), std::mem::take(&mut t.total));
            sized(&mut part, rows);
            sized(&mut total, rows);
            call.gather(unit, &mut t.queries);
            reset(&mut total[..rows], d);
            for tile in call.tiles(unit) {
                call.tile(unit, tile, t, &mut part);
                merge_rows(&mut total[..rows], &part, d);
            }
            call.finish(unit, &total[..rows], &out);
            (t.part, t.total) = (part, total);
        });
        return;
    }
    // Few units with many tiles (decoding at long context): the tiles are shared out.
    sized(&mut scratch.parts, units.len() * most_tiles * stride);
    let parts = Disjoint::new(&mut scratch.parts);
    team.run(units.len() * most_tiles, &|i, thread| {
        let unit = &units[i / most_tiles];
        let Some(tile) = call.tiles(unit).nth(i % most_tiles) else { return };
        let t = &mut *lock(thread);
        call.gather(unit, &mut t.queries);
        // SAFETY: each chunk has a part of its own.
        let part = unsafe { parts.slice(i * stride, stride) };
        call.tile(unit, tile, t, part);
    });
    team.run(units.len(), &|i, thread| {
        let (t, unit) = (&mut *lock(thread), &units[i]);
        let rows = unit.queries * call.group() * (d + 2);
        sized(&mut t.total, rows);
        reset(&mut t.total[..rows], d);
        for j in 0..call.tiles(unit).len() {
            // SAFETY: the parts are only read now, each by one chunk.
            let part = unsafe { parts.slice((i * most_tiles + j) * stride, stride) };
            merge_rows(&mut t.total[..rows], part, d);
        }
        call.finish(unit, &t.total[..rows], &out);
    });
}

fn reset(total: &mut [f32], d: usize) {
    for row in total.chunks_exact_mut(d + 2) {
        row.fill(0.0);
        row[d] = f32::NEG_INFINITY;
    }
}

/// The probabilities of one sequence, `[heads, queries, length]`.
pub fn probabilities(
    queries: &[f32],
    sequence: &Sequence<'_>,
    kv: &KvBlocks,
    scores: &Scores<'_>,
) -> Vec<f32> {
    let sequences = std::slice::from_ref(sequence);
    let call = Call { queries, sequences, kv, scores };
    let (g, n, length) = (call.group(), sequence.rows.len(), sequence.length);
    let mut out = vec![0.0; scores.heads * n * length];
    let mut t = ThreadScratch::default();
    let mut maxima = Vec::new();
    for kv_head in 0..scores.kv_heads {
        for query in 0..n {
            let unit = Unit { sequence: 0, kv_head, query, queries: 1 };
            call.gather(&unit, &mut t.queries);
            maxima.clear();
            for tile in call.tiles(&unit) {
                let mut found = vec![(0.0, 0.0); g];
                call.tile_scores(&unit, tile, &mut t, |row, m, sum| found[row] = (m, sum));
                for row in 0..g {
                    let at = ((kv_head * g + row) * n + query) * length + tile * TILE;
                    let count = TILE.min(length - tile * TILE).min(call.span(&unit).end - tile * TILE);
                    out[at..at + count].copy_from_slice(&t.scores[row * TILE..][..count]);
                }
                maxima.push((tile, found));
            }
            for row in 0..g {
                let top = maxima
                    .iter()
                    .fold(f32::NEG_INFINITY, |m, (_, f)| if f[row].0 > m { f[row].0 } else { m });
                let sum: f32 = maxima.iter().map(|(_, f)| f[row].1 * exp_one(f[row].0 - top)).sum();
                for (tile, found) in &maxima {
                    let at = ((kv_head * g + row) * n + query) * length + tile * TILE;
                    let count = TILE.min(length - tile * TILE);
                    let factor = exp_one(found[row].0 - top) / sum;
                    out[at..at + count].iter_mut().for_each(|p| *p *= factor);
                }
            }
        }
    }
    out
}
