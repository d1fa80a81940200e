//! One tile of an item of work: its scores, their softmax numerators and its outputs, which online softmax
//! merges.

use super::call::{Call, TILE};
use super::partition::{MAX_MEMORY_BOUND_ROWS, WorkItem};
use crate::matmul::dense::{Shape, multiply, multiply_half};
use crate::ops::kv::{KV_BLOCK, Numbers};
use crate::simd::{LANES, exp, level, multiversion, tanh};
use crate::tensor::{Buffer, Disjoint, sized};

/// Scratch of one thread.
#[derive(Default)]
pub struct ThreadScratch {
    pub queries: Buffer<f32>,
    pub scores: Buffer<f32>,
    /// A block of keys or values, as f32.
    pub block: Buffer<f32>,
    /// Operands of a product, converted from f16.
    pub converted: Buffer<f32>,
    pub part: Buffer<f32>,
    pub total: Buffer<f32>,
}
/// `c = a b` or `c += a b` for either type of b.
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

/// Indices of the lanes.
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
    /// `exp(score - maximum)`. Returns the maximum and the sum: (minus infinity, 0) if nothing is visible,
    /// NaN if no visible score is finite.
    pub fn exp_scores / exp_scores_at(row: &mut [f32], from: usize, to: usize, scale: f32, softcap: f32, bias: &[f32]) -> (f32, f32) {
        let (lane, masked) = (Lanes::from_array(LANE), Lanes::splat(f32::NEG_INFINITY));
        let mut max = masked;
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
                s = lane.select_below(from as f32 - i as f32, masked, s);
            }
            if i + LANES > to {
                s = lane.select_below(to as f32 - i as f32, s, masked);
            }
            s.store(&mut row[i..]);
            // Keeps NaN: `max` returns its second operand then.
            max = max.max(s);
            i += LANES;
        }
        let m = max.fold_top();
        if m == f32::NEG_INFINITY {
            // Visible scores that are all NaN or minus infinity differ from a row without visible keys.
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
    /// exp of one value, with the bits of a lane.
    pub fn exp_one / exp_one_at(x: f32) -> f32 {
        exp(Lanes::splat(x)).to_array()[0]
    }
}

multiversion! {
    /// Adds the outputs of a tile to the running ones: `o = o * a + part * b`.
    pub fn merge / merge_at(o: &mut [f32], a: f32, part: &[f32], b: f32) {
        let mut i = 0;
        while i < o.len() {
            let end = (i + LANES).min(o.len());
            let p = Lanes::load_or(&part[i..end], 0.0) * Lanes::splat(b);
            Lanes::load_or(&o[i..end], 0.0).mul_add(Lanes::splat(a), p).store_part(&mut o[i..end]);
            i = end;
        }
    }
}

/// Rows of `width = value_dim + 2` values: outputs, maximum, sum.
pub fn merge_rows(total: &mut [f32], part: &[f32], width: usize) {
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
impl Call<'_> {
    /// Copies the item's queries, `[kv_heads, queries * group, key_dim]`.
    pub fn gather(&self, item: &WorkItem, out: &mut Buffer<f32>) {
        let n = self.group() * self.scores.key_dim;
        let out = sized(out, item.kv_heads * item.queries * n);
        for (i, to) in out.chunks_exact_mut(n).enumerate() {
            let from = self.first_head(item, i / item.queries, i % item.queries) * self.scores.key_dim;
            to.copy_from_slice(&self.queries[from..][..n]);
        }
    }

    /// The block and the key head that are read after a head of a block, to be prefetched where reads are
    /// bound by memory. None behind the item's last tile: the table may hold no valid block there.
    pub fn next_read(&self, item: &WorkItem, block: usize, head: usize) -> Option<(u32, usize)> {
        let table = self.table(item);
        if self.rows(item) > MAX_MEMORY_BOUND_ROWS {
            None
        } else if head + 1 < item.kv_heads {
            Some((table[block], item.kv_head + head + 1))
        } else if (block + 1) * KV_BLOCK < item.tiles().end * TILE {
            table.get(block + 1).map(|&next| (next, item.kv_head))
        } else {
            None
        }
    }

    /// Computes exp(score - maximum) of one tile into `t.scores`, `[kv_heads, rows, TILE]`; calls
    /// `each(row, maximum, sum)`.
    pub fn tile_scores(
        &self,
        item: &WorkItem,
        tile: usize,
        t: &mut ThreadScratch,
        mut each: impl FnMut(usize, f32, f32),
    ) {
        let (g, d, table) = (self.group(), self.scores.key_dim, self.table(item));
        let (rows, start) = (self.rows(item), tile * TILE);
        let end = self.end(item, tile);
        sized(&mut t.scores, item.kv_heads * rows * TILE);
        sized(&mut t.block, self.scores.key_dim.max(self.scores.value_dim) * KV_BLOCK);
        let padded = (end - start).next_multiple_of(LANES);
        for block in 0..(end - start).div_ceil(KV_BLOCK) {
            let number = table[start / KV_BLOCK + block];
            let columns = KV_BLOCK.min(padded - block * KV_BLOCK);
            let shape = Shape { rows, columns, depth: d, a_stride: d, b_stride: KV_BLOCK, c_stride: TILE };
            for head in 0..item.kv_heads {
                if let Some((next, next_head)) = self.next_read(item, start / KV_BLOCK + block, head) {
                    self.kv.prefetch_keys(next, next_head);
                }
                let keys = self.kv.keys(number, item.kv_head + head, &mut t.block);
                let scores = &mut t.scores[head * rows * TILE + block * KV_BLOCK..];
                product(&shape, &t.queries[head * rows * d..], keys, scores, false, &mut t.converted);
            }
        }
        for (row, scores) in t.scores.chunks_exact_mut(TILE).enumerate().take(item.kv_heads * rows) {
            let (head, query) = (item.kv_head + row / rows, row % rows);
            let (position, length) = self.query(item, query / g);
            let visible = self.scores.visible(position, length);
            let (from, to) =
                (visible.start.saturating_sub(start), visible.end.saturating_sub(start).min(end - start));
            let bias = match self.scores.distance_bias {
                Some(bias) => bias.row(head * g + query % g, position, start, end - start),
                None => &[],
            };
            let values = &mut scores[..padded];
            let softcap = self.scores.softcap.unwrap_or(0.0);
            let (m, sum) = exp_scores(values, from, to, self.scores.scale, softcap, bias);
            if m == f32::NEG_INFINITY {
                values.fill(0.0);
            }
            each(row, m, sum);
        }
    }

    /// Computes one tile of an item: rows of outputs, maximum and sum into `part`.
    pub fn tile(&self, item: &WorkItem, tile: usize, t: &mut ThreadScratch, part: &mut [f32]) {
        let (d, table) = (self.scores.value_dim, self.table(item));
        let (rows, start) = (self.rows(item), tile * TILE);
        let end = self.end(item, tile);
        self.tile_scores(item, tile, t, |row, m, sum| {
            part[row * (d + 2) + d] = m;
            part[row * (d + 2) + d + 1] = sum;
        });
        for block in 0..(end - start).div_ceil(KV_BLOCK) {
            let tokens = KV_BLOCK.min(end - start - block * KV_BLOCK);
            let number = table[start / KV_BLOCK + block];
            let shape =
                Shape { rows, columns: d, depth: tokens, a_stride: TILE, b_stride: d, c_stride: d + 2 };
            for head in 0..item.kv_heads {
                if let Some((next, next_head)) = self.next_read(item, start / KV_BLOCK + block, head) {
                    self.kv.prefetch_values(next, next_head);
                }
                let values = self.kv.values(number, item.kv_head + head, tokens, &mut t.block);
                let (scores, part) =
                    (&t.scores[head * rows * TILE + block * KV_BLOCK..], &mut part[head * rows * (d + 2)..]);
                product(&shape, scores, values, part, block > 0, &mut t.converted);
            }
        }
    }

    /// Divides by the sums and writes the outputs of one key head of an item.
    pub fn finish(&self, item: &WorkItem, head: usize, total: &[f32], out: &Disjoint<'_, f32>) {
        let (g, d) = (self.group(), self.scores.value_dim);
        for (row, o) in total.chunks_exact(d + 2).enumerate() {
            // SAFETY: each head of each row belongs to one item.
            let to = unsafe { out.slice((self.first_head(item, head, row / g) + row % g) * d, d) };
            let inverse = if o[d + 1] == 0.0 { 0.0 } else { 1.0 / o[d + 1] };
            for (to, &v) in to.iter_mut().zip(o) {
                // Adding zero turns minus zero, which a skipped key could leave, into plus zero.
                *to = v * inverse + 0.0;
            }
        }
    }
}
