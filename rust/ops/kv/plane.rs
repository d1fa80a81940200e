//! The keys, or the values, of a segment in one element type.

use super::types::{KV_BLOCK, KvType, Numbers, SEGMENT};
use crate::error::Result;
use crate::simd::{LANES, level, multiversion, prefetch, to_f16, to_f32_at};
use crate::tensor::Buffer;

/// Layout of one head of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `[dim][KV_BLOCK]`: the scores of successive tokens lie side by side.
    Transposed,
    /// `[KV_BLOCK][dim]`.
    Rows,
}

/// Vectors of `dim` elements, one per token and head: `[SEGMENT][heads]` of them in `order`.
pub struct Plane {
    heads: usize,
    dim: usize,
    order: Order,
    elements: Elements,
}

enum Elements {
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    /// 8 bits with a scale per vector.
    Q8 {
        codes: Buffer<i8>,
        scales: Buffer<f32>,
    },
}

impl Plane {
    pub fn zeroed(kv_type: KvType, heads: usize, dim: usize, order: Order) -> Result<Self> {
        let vectors = SEGMENT * heads * KV_BLOCK;
        let elements = match kv_type {
            KvType::F32 => Elements::F32(Buffer::zeroed(vectors * dim)?),
            KvType::F16 => Elements::F16(Buffer::zeroed(vectors * dim)?),
            KvType::Q8 => {
                Elements::Q8 { codes: Buffer::zeroed(vectors * dim)?, scales: Buffer::zeroed(vectors)? }
            }
        };
        Ok(Plane { heads, dim, order, elements })
    }

    /// Index of the first vector of one head of a block.
    fn first(&self, block: usize, head: usize) -> usize {
        (block * self.heads + head) * KV_BLOCK
    }

    /// Stores the tokens `x`, `[n, heads * dim]`, in a block from `slot` on.
    pub fn store(&mut self, block: usize, slot: usize, x: &[f32]) {
        let (dim, order) = (self.dim, self.order);
        for head in 0..self.heads {
            let at = self.first(block, head);
            let elements = at * dim..(at + KV_BLOCK) * dim;
            let tokens = x.chunks_exact(self.heads * dim).map(|row| &row[head * dim..][..dim]).zip(slot..);
            match &mut self.elements {
                Elements::F32(to) => {
                    let to = &mut to[elements];
                    for (x, token) in tokens {
                        match order {
                            Order::Transposed => scatter(x, to, token),
                            Order::Rows => to[token * dim..][..dim].copy_from_slice(x),
                        }
                    }
                }
                Elements::F16(to) => {
                    let to = &mut to[elements];
                    let mut half = [0; 64];
                    for (x, token) in tokens {
                        if order == Order::Rows {
                            to_f16(x, &mut to[token * dim..][..dim]);
                            continue;
                        }
                        for (x, to) in x.chunks(half.len()).zip(to.chunks_mut(half.len() * KV_BLOCK)) {
                            to_f16(x, &mut half[..x.len()]);
                            scatter(&half[..x.len()], to, token);
                        }
                    }
                }
                Elements::Q8 { codes, scales } => {
                    let (to, scales) = (&mut codes[elements], &mut scales[at..at + KV_BLOCK]);
                    for (x, token) in tokens {
                        scales[token] = match order {
                            Order::Transposed => quantize(x, |d, code| to[d * KV_BLOCK + token] = code),
                            Order::Rows => quantize(x, |d, code| to[token * dim + d] = code),
                        };
                    }
                }
            }
        }
    }

    /// Copies a block of this plane onto another one of it.
    pub fn copy_within(&mut self, from: usize, to: usize) {
        let (n, from, to) = (self.first(1, 0), self.first(from, 0), self.first(to, 0));
        let (size, first, into) = (n * self.dim, from * self.dim, to * self.dim);
        match &mut self.elements {
            Elements::F32(x) => x.copy_within(first..first + size, into),
            Elements::F16(x) => x.copy_within(first..first + size, into),
            Elements::Q8 { codes, scales } => {
                codes.copy_within(first..first + size, into);
                scales.copy_within(from..from + n, to);
            }
        }
    }

    /// Copies a block of another plane of the same shape and type.
    pub fn copy_from(&mut self, other: &Plane, from: usize, to: usize) {
        let (n, from, to) = (self.first(1, 0), self.first(from, 0), self.first(to, 0));
        let (size, first, into) = (n * self.dim, from * self.dim, to * self.dim);
        match (&mut self.elements, &other.elements) {
            (Elements::F32(x), Elements::F32(y)) => {
                x[into..into + size].copy_from_slice(&y[first..first + size]);
            }
            (Elements::F16(x), Elements::F16(y)) => {
                x[into..into + size].copy_from_slice(&y[first..first + size]);
            }
            (Elements::Q8 { codes, scales }, Elements::Q8 { codes: from_codes, scales: from_scales }) => {
                codes[into..into + size].copy_from_slice(&from_codes[first..first + size]);
                scales[to..to + n].copy_from_slice(&from_scales[from..from + n]);
            }
            _ => unreachable!("all segments of a layer have one type"),
        }
    }

    /// Prefetches one head of a block, which is a stream of its own to the memory.
    pub fn prefetch(&self, block: usize, head: usize) {
        let (at, n) = (self.first(block, head) * self.dim, KV_BLOCK * self.dim);
        match &self.elements {
            Elements::F32(x) => prefetch(&x[at..at + n]),
            Elements::F16(x) => prefetch(&x[at..at + n]),
            Elements::Q8 { codes, .. } => prefetch(&codes[at..at + n]),
        }
    }

    /// The first `tokens` tokens of one head of a block (all of a transposed one): as stored, or dequantized
    /// in `scratch`.
    pub fn read<'a>(
        &'a self,
        block: usize,
        head: usize,
        tokens: usize,
        scratch: &'a mut [f32],
    ) -> Numbers<'a> {
        debug_assert!(self.order == Order::Rows || tokens == KV_BLOCK);
        let (first, n) = (self.first(block, head), tokens * self.dim);
        let at = first * self.dim;
        match &self.elements {
            Elements::F32(x) => Numbers::F32(&x[at..at + n]),
            Elements::F16(x) => Numbers::F16(&x[at..at + n]),
            Elements::Q8 { codes, scales } => {
                let (codes, scales, out) =
                    (&codes[at..at + n], &scales[first..first + tokens], &mut scratch[..n]);
                match self.order {
                    Order::Transposed => dequantize_columns_at(level(), codes, scales, out),
                    Order::Rows => dequantize_rows_at(level(), codes, scales, out),
                }
                Numbers::F32(out)
            }
        }
    }

    /// The first `dims` elements of the first `tokens` tokens of one head of a transposed block,
    /// `[tokens][dims]` as f32 in `scratch`.
    pub fn read_rows<'a>(
        &self,
        block: usize,
        head: usize,
        tokens: usize,
        dims: usize,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        debug_assert!(self.order == Order::Transposed && dims <= self.dim);
        let (level, first, out) = (level(), self.first(block, head), &mut scratch[..tokens * dims]);
        // Sixteen dimensions at a time, so that each line of `out` is written at once and their source stays
        // near.
        for start in (0..dims).step_by(LANES) {
            let width = LANES.min(dims - start);
            let (at, n) = (first * self.dim + start * KV_BLOCK, width * KV_BLOCK);
            let mut columns = [0.0; LANES * KV_BLOCK];
            let columns = match &self.elements {
                Elements::F32(x) => &x[at..at + n],
                Elements::F16(x) => {
                    to_f32_at(level, &x[at..at + n], &mut columns[..n]);
                    &columns[..n]
                }
                Elements::Q8 { codes, scales } => {
                    let (codes, scales) = (&codes[at..at + n], &scales[first..first + KV_BLOCK]);
                    dequantize_columns_at(level, codes, scales, &mut columns[..n]);
                    &columns[..n]
                }
            };
            for (token, row) in out.chunks_exact_mut(dims).enumerate() {
                for (to, column) in row[start..start + width].iter_mut().zip(columns.chunks_exact(KV_BLOCK)) {
                    *to = column[token];
                }
            }
        }
        out
    }
}

/// Writes the elements of a token into its column of a transposed block.
fn scatter<T: Copy>(x: &[T], block: &mut [T], token: usize) {
    for (d, &v) in x.iter().enumerate() {
        block[d * KV_BLOCK + token] = v;
    }
}

/// Rounds a vector to 8 bits; returns its scale, which is not finite where an element is not.
fn quantize(x: &[f32], mut put: impl FnMut(usize, i8)) -> f32 {
    let max = x.iter().fold(0u32, |max, v| max.max(v.to_bits() & 0x7fff_ffff));
    let max = f32::from_bits(max);
    let inverse = if max > 1e-30 { 127.0 / max } else { 0.0 };
    for (d, v) in x.iter().enumerate() {
        put(d, (v * inverse).round_ties_even() as i8);
    }
    max * (1.0 / 127.0)
}

multiversion! {
    /// `[dim][KV_BLOCK]` from codes and a scale per column.
    fn dequantize_columns / dequantize_columns_at (codes: &[i8], scales: &[f32], out: &mut [f32]) {
        for (out, codes) in out.chunks_exact_mut(KV_BLOCK).zip(codes.chunks_exact(KV_BLOCK)) {
            for i in 0..KV_BLOCK {
                out[i] = codes[i] as f32 * scales[i];
            }
        }
    }
}

multiversion! {
    /// `[tokens][dim]` from codes and a scale per row.
    fn dequantize_rows / dequantize_rows_at (codes: &[i8], scales: &[f32], out: &mut [f32]) {
        let dim = out.len() / scales.len().max(1);
        for ((out, codes), scale) in out.chunks_exact_mut(dim).zip(codes.chunks_exact(dim)).zip(scales) {
            for (o, c) in out.iter_mut().zip(codes) {
                *o = *c as f32 * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::testing::{every_level_equals_portable, with_extremes};

    #[test]
    fn every_level_dequantizes_equally() {
        for dim in 1..70 {
            let codes: Vec<i8> = (0..dim * KV_BLOCK).map(|i| (i * 37 % 256) as u8 as i8).collect();
            let scales = with_extremes(KV_BLOCK, dim as u32);
            every_level_equals_portable(&dim, &|level| {
                let mut out = vec![0.5; codes.len()];
                dequantize_columns_at(level, &codes, &scales, &mut out);
                out
            });
            for tokens in [1, 31, KV_BLOCK] {
                every_level_equals_portable(&(dim, tokens), &|level| {
                    let mut out = vec![0.5; dim * tokens];
                    dequantize_rows_at(level, &codes[..dim * tokens], &scales[..tokens], &mut out);
                    out
                });
            }
        }
    }
}
