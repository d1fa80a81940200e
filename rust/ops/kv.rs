//! Keys and values of a layer in blocks of 32 tokens.
//!
//! A sequence owns a table of block numbers, so sharing a prefix, forking a beam and freeing a window are
//! edits of tables. Keys are transposed inside a block, `[kv_head][head_dim][32]`, so that scores of
//! successive tokens lie side by side; values are `[kv_head][32][head_dim]`. In 8 bits each token of each
//! head has a scale of its own, `[kv_head][32]`, for keys and for values.

use crate::error::{Error, Result};
use crate::simd::{level, multiversion, narrow, prefetch};
use crate::tensor::Buffer;
use crate::threads::Team;
use std::ops::Range;

/// Tokens in a block.
pub const BLOCK: usize = 32;

/// Work below this many values is done by the caller alone.
const SMALL: usize = 16 * 1024;

/// Blocks that are allocated together.
pub const SEGMENT: usize = 16;

/// Element type of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    F32,
    F16,
    Q8,
}

impl KvType {
    /// Its name in the public interface.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8 => "q8",
        }
    }

    /// Reads `f32`, `f16` or `q8`.
    pub fn parse(name: &str) -> Result<KvType> {
        match name {
            "f32" => Ok(KvType::F32),
            "f16" => Ok(KvType::F16),
            "q8" => Ok(KvType::Q8),
            other => Err(Error::Option(format!(
                "kv_cache={other:?} is unknown: expected \"auto\", \"f32\", \"f16\" or \"q8\""
            ))),
        }
    }
}

/// Numbers as they lie in a block: f32, or f16 by their bits.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
}

enum Segment {
    F32 { keys: Buffer<f32>, values: Buffer<f32> },
    F16 { keys: Buffer<u16>, values: Buffer<u16> },
    Q8 { keys: Buffer<i8>, values: Buffer<i8>, key_scales: Buffer<f32>, value_scales: Buffer<f32> },
}

/// The blocks of one layer.
pub struct KvBlocks {
    kv_heads: usize,
    head_dim: usize,
    kv_type: KvType,
    segments: Vec<Segment>,
}

impl KvBlocks {
    pub fn new(kv_heads: usize, head_dim: usize, kv_type: KvType) -> Self {
        KvBlocks { kv_heads, head_dim, kv_type, segments: Vec::new() }
    }

    /// Makes room for blocks `0..blocks`.
    pub fn grow(&mut self, blocks: usize) -> Result<()> {
        let size = SEGMENT * self.block_size();
        while self.segments.len() * SEGMENT < blocks {
            self.segments.push(match self.kv_type {
                KvType::F32 => Segment::F32 { keys: Buffer::zeroed(size)?, values: Buffer::zeroed(size)? },
                KvType::F16 => Segment::F16 { keys: Buffer::zeroed(size)?, values: Buffer::zeroed(size)? },
                KvType::Q8 => Segment::Q8 {
                    keys: Buffer::zeroed(size)?,
                    values: Buffer::zeroed(size)?,
                    key_scales: Buffer::zeroed(size / self.head_dim)?,
                    value_scales: Buffer::zeroed(size / self.head_dim)?,
                },
            });
        }
        Ok(())
    }

    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Blocks that there is room for.
    pub fn blocks(&self) -> usize {
        self.segments.len() * SEGMENT
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.blocks() * self.block_bytes()
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        let values = 2 * self.block_size();
        match self.kv_type {
            KvType::F32 => 4 * values,
            KvType::F16 => 2 * values,
            KvType::Q8 => values + 4 * values / self.head_dim,
        }
    }

    fn block_size(&self) -> usize {
        self.kv_heads * self.head_dim * BLOCK
    }

    fn place(&self, block: u32, head: usize) -> (usize, usize) {
        let block = block as usize;
        (block / SEGMENT, block % SEGMENT * self.block_size() + head * self.head_dim * BLOCK)
    }

    /// Stores the rows of all sequences: `keys` and `values` are `[rows, kv_heads * head_dim]`. No block belongs to two of
    /// them.
    pub fn store(&mut self, sequences: Sequences<'_>, keys: &[f32], values: &[f32]) {
        let (width, dim) = (self.kv_heads * self.head_dim, self.head_dim);
        sequences.each_block(|block, slot, rows| {
            self.segments[block / SEGMENT].store(block % SEGMENT, slot, rows, keys, values, width, dim);
        });
    }

    /// The same on all threads where there are many rows.
    pub fn store_all(&mut self, team: &Team<'_>, sequences: Sequences<'_>, keys: &[f32], values: &[f32]) {
        let (width, dim) = (self.kv_heads * self.head_dim, self.head_dim);
        let rows: usize = sequences.list.iter().map(|s| s.rows.len()).sum();
        if rows * width < SMALL {
            self.store(sequences, keys, values);
            return;
        }
        team.run_mut(&mut self.segments, 1, &|segment, here, _| {
            sequences.each_block(|block, slot, rows| {
                if block / SEGMENT == segment {
                    here[0].store(block % SEGMENT, slot, rows, keys, values, width, dim);
                }
            });
        });
    }

    /// Copies a block onto another (before a shared one is written).
    pub fn copy_block(&mut self, from: u32, to: u32) {
        let size = self.block_size();
        let ((sf, af), (st, at)) = (self.place(from, 0), self.place(to, 0));
        let scales = size / self.head_dim;
        if sf == st {
            match &mut self.segments[sf] {
                Segment::F32 { keys, values } => {
                    keys.copy_within(af..af + size, at);
                    values.copy_within(af..af + size, at);
                }
                Segment::F16 { keys, values } => {
                    keys.copy_within(af..af + size, at);
                    values.copy_within(af..af + size, at);
                }
                Segment::Q8 { keys, values, key_scales, value_scales } => {
                    keys.copy_within(af..af + size, at);
                    values.copy_within(af..af + size, at);
                    let (af, at) = (af / self.head_dim, at / self.head_dim);
                    key_scales.copy_within(af..af + scales, at);
                    value_scales.copy_within(af..af + scales, at);
                }
            }
            return;
        }
        let (low, high) = self.segments.split_at_mut(sf.max(st));
        let (a, b) = if sf < st { (&low[sf], &mut high[0]) } else { (&high[0], &mut low[st]) };
        copy_segment(a, b, af, at, size, self.head_dim);
    }

    /// Copies a block of another cache of the same kind onto one of this.
    pub fn copy_block_of(&mut self, other: &KvBlocks, from: u32, to: u32) {
        let size = self.block_size();
        debug_assert_eq!(size, other.block_size());
        let ((sf, af), (st, at)) = (other.place(from, 0), self.place(to, 0));
        copy_segment(&other.segments[sf], &mut self.segments[st], af, at, size, self.head_dim);
    }

    /// Asks the memory for the keys, or the values, of one head of a block, which are a stream of their own to it.
    pub fn ask(&self, block: u32, head: usize, values: bool) {
        let ((segment, at), n) = (self.place(block, head), self.head_dim * BLOCK);
        match &self.segments[segment] {
            Segment::F32 { keys: k, values: v } => prefetch(&if values { v } else { k }[at..at + n]),
            Segment::F16 { keys: k, values: v } => prefetch(&if values { v } else { k }[at..at + n]),
            Segment::Q8 { keys: k, values: v, .. } => prefetch(&if values { v } else { k }[at..at + n]),
        }
    }

    /// Keys of one head of a block, `[head_dim][32]`: the stored ones, or as f32 in `scratch`.
    pub fn keys<'a>(&'a self, block: u32, head: usize, scratch: &'a mut [f32]) -> Numbers<'a> {
        let ((segment, at), n) = (self.place(block, head), self.head_dim * BLOCK);
        match &self.segments[segment] {
            Segment::F32 { keys, .. } => Numbers::F32(&keys[at..at + n]),
            Segment::F16 { keys, .. } => Numbers::F16(&keys[at..at + n]),
            Segment::Q8 { keys, key_scales, .. } => {
                let scales = &key_scales[at / self.head_dim..][..BLOCK];
                keys_at(level(), &keys[at..at + n], scales, &mut scratch[..n]);
                Numbers::F32(&scratch[..n])
            }
        }
    }

    /// Values of the first `tokens` of a block, `[tokens][head_dim]`.
    pub fn values<'a>(
        &'a self,
        block: u32,
        head: usize,
        tokens: usize,
        scratch: &'a mut [f32],
    ) -> Numbers<'a> {
        let ((segment, at), n) = (self.place(block, head), self.head_dim * tokens);
        match &self.segments[segment] {
            Segment::F32 { values, .. } => Numbers::F32(&values[at..at + n]),
            Segment::F16 { values, .. } => Numbers::F16(&values[at..at + n]),
            Segment::Q8 { values, value_scales, .. } => {
                let scales = &value_scales[at / self.head_dim..][..tokens];
                values_at(level(), &values[at..at + n], scales, &mut scratch[..n]);
                Numbers::F32(&scratch[..n])
            }
        }
    }
}

/// Rows of a batch that belong to one sequence.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Number of the table of its blocks.
    pub table: usize,
    /// Its rows among all of the batch.
    pub rows: Range<usize>,
    /// Position of the first of these rows.
    pub first: usize,
    /// Keys there are, from position 0.
    pub length: usize,
}

/// The sequences of a batch, with the tables that they name. The list holds no borrowed table, so that it can be kept and
/// filled again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequences<'a> {
    pub list: &'a [Sequence],
    /// Numbers of blocks of keys and values.
    pub tables: &'a [Vec<u32>],
}

impl<'a> Sequences<'a> {
    pub fn table(&self, sequence: &Sequence) -> &'a [u32] {
        &self.tables[sequence.table]
    }

    /// Calls `f(block, first slot, rows)` for each block that takes some of the rows of a sequence.
    fn each_block(&self, mut f: impl FnMut(usize, usize, Range<usize>)) {
        for sequence in self.list {
            let mut row = sequence.rows.start;
            while row < sequence.rows.end {
                let position = sequence.first + row - sequence.rows.start;
                let (block, slot) = (self.table(sequence)[position / BLOCK], position % BLOCK);
                let end = sequence.rows.end.min(row + BLOCK - slot);
                f(block as usize, slot, row..end);
                row = end;
            }
        }
    }
}

impl Segment {
    /// Stores rows of `keys` and `values`, `[_, width]`, in a block from `slot` on.
    fn store(
        &mut self,
        block: usize,
        slot: usize,
        rows: Range<usize>,
        keys: &[f32],
        values: &[f32],
        width: usize,
        dim: usize,
    ) {
        let part = rows.start * width..rows.end * width;
        let (n, keys, values) = (rows.len(), &keys[part.clone()], &values[part]);
        for head in 0..width / dim {
            let at = (block * width + head * dim) * BLOCK;
            match self {
                Segment::F32 { keys: k, values: v } => {
                    let (k, v) = (&mut k[at..at + dim * BLOCK], &mut v[at..at + dim * BLOCK]);
                    for i in 0..n {
                        let from = i * width + head * dim;
                        for (d, &key) in keys[from..from + dim].iter().enumerate() {
                            k[d * BLOCK + slot + i] = key;
                        }
                        v[(slot + i) * dim..][..dim].copy_from_slice(&values[from..from + dim]);
                    }
                }
                Segment::F16 { keys: k, values: v } => {
                    let (k, v) = (&mut k[at..at + dim * BLOCK], &mut v[at..at + dim * BLOCK]);
                    let mut half = [0; 64];
                    for i in 0..n {
                        let from = i * width + head * dim;
                        for start in (0..dim).step_by(64) {
                            let m = (dim - start).min(64);
                            narrow(&keys[from + start..][..m], &mut half[..m]);
                            for (d, &key) in half[..m].iter().enumerate() {
                                k[(start + d) * BLOCK + slot + i] = key;
                            }
                            narrow(&values[from + start..][..m], &mut v[(slot + i) * dim + start..][..m]);
                        }
                    }
                }
                Segment::Q8 { keys: k, values: v, key_scales, value_scales } => {
                    let (k, v) = (&mut k[at..at + dim * BLOCK], &mut v[at..at + dim * BLOCK]);
                    let scales = at / dim + slot;
                    for i in 0..n {
                        let from = i * width + head * dim;
                        key_scales[scales + i] = codes(&keys[from..from + dim], |d, code| {
                            k[d * BLOCK + slot + i] = code;
                        });
                        value_scales[scales + i] = codes(&values[from..from + dim], |d, code| {
                            v[(slot + i) * dim + d] = code;
                        });
                    }
                }
            }
        }
    }
}

/// Rounds a token's values to 8 bits; returns their scale, which is not finite where a value is not.
fn codes(x: &[f32], mut put: impl FnMut(usize, i8)) -> f32 {
    let top = x.iter().fold(0u32, |top, v| top.max(v.to_bits() & 0x7fff_ffff));
    let top = f32::from_bits(top);
    let inverse = if top > 1e-30 { 127.0 / top } else { 0.0 };
    for (d, v) in x.iter().enumerate() {
        put(d, (v * inverse).round_ties_even() as i8);
    }
    top * (1.0 / 127.0)
}

multiversion! {
    /// Keys `[head_dim][32]` from codes and a scale for each token.
    fn keys / keys_at (codes: &[i8], scales: &[f32], out: &mut [f32]) {
        for (out, codes) in out.chunks_exact_mut(BLOCK).zip(codes.chunks_exact(BLOCK)) {
            for i in 0..BLOCK {
                out[i] = codes[i] as f32 * scales[i];
            }
        }
    }
}

multiversion! {
    /// Values `[tokens][head_dim]` from codes and a scale for each token.
    fn values / values_at (codes: &[i8], scales: &[f32], out: &mut [f32]) {
        let dim = out.len() / scales.len().max(1);
        for ((out, codes), scale) in out.chunks_exact_mut(dim).zip(codes.chunks_exact(dim)).zip(scales) {
            for (o, c) in out.iter_mut().zip(codes) {
                *o = *c as f32 * scale;
            }
        }
    }
}

/// Copies `size` keys and values, with their scales, from one segment to another.
fn copy_segment(a: &Segment, b: &mut Segment, af: usize, at: usize, size: usize, head_dim: usize) {
    let scales = size / head_dim;
    match (a, b) {
        (Segment::F32 { keys, values }, Segment::F32 { keys: k, values: v }) => {
            k[at..at + size].copy_from_slice(&keys[af..af + size]);
            v[at..at + size].copy_from_slice(&values[af..af + size]);
        }
        (Segment::F16 { keys, values }, Segment::F16 { keys: k, values: v }) => {
            k[at..at + size].copy_from_slice(&keys[af..af + size]);
            v[at..at + size].copy_from_slice(&values[af..af + size]);
        }
        (
            Segment::Q8 { keys, values, key_scales, value_scales },
            Segment::Q8 { keys: k, values: v, key_scales: ks, value_scales: vs },
        ) => {
            k[at..at + size].copy_from_slice(&keys[af..af + size]);
            v[at..at + size].copy_from_slice(&values[af..af + size]);
            let (af, at) = (af / head_dim, at / head_dim);
            ks[at..at + scales].copy_from_slice(&key_scales[af..af + scales]);
            vs[at..at + scales].copy_from_slice(&value_scales[af..af + scales]);
        }
        _ => unreachable!("all segments of a layer have one type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(numbers: Numbers<'_>, index: usize) -> f32 {
        match numbers {
            Numbers::F32(x) => x[index],
            Numbers::F16(x) => half::f16::from_bits(x[index]).to_f32(),
        }
    }

    #[test]
    fn tokens_come_back_from_where_the_table_says() {
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8] {
            let (heads, dim, tokens) = (2, 5, 70);
            let mut kv = KvBlocks::new(heads, dim, kv_type);
            kv.grow(40).expect("small");
            let x: Vec<f32> = (0..tokens * heads * dim).map(|i| (i % 1000) as f32 / 8.0).collect();
            let y: Vec<f32> = x.iter().map(|v| -v).collect();
            let table = [33, 2, 17];
            let mut tables = vec![table.to_vec()];
            let part = |table, rows: Range<usize>, first| Sequence {
                table,
                length: first + rows.len(),
                rows,
                first,
            };
            let mut parts = vec![part(0, 0..41, 0), part(0, 41..tokens, 41)];
            kv.store(Sequences { list: &parts, tables: &tables }, &x, &y);
            kv.copy_block(33, 5);
            // Many sequences at once, in blocks of several segments, change nothing.
            let mut all = KvBlocks::new(heads, dim, kv_type);
            all.grow(40).expect("small");
            tables.extend((18..32).map(|block| vec![block]));
            parts.extend((1..tables.len()).map(|table| part(table, 0..32, 0)));
            let all_parts = Sequences { list: &parts, tables: &tables };
            crate::threads::Pool::new(2).run_alone(|team| all.store_all(team, all_parts, &x, &y));
            let mut scratch = (vec![0.0; dim * BLOCK], vec![0.0; dim * BLOCK]);
            for (h, block) in (0..heads).flat_map(|h| [(h, 33), (h, 2)]) {
                for d in 0..dim * BLOCK {
                    let got = at(all.keys(block, h, &mut scratch.0), d);
                    assert_eq!(got, at(kv.keys(block, h, &mut scratch.1), d));
                    let got = at(all.values(block, h, 32, &mut scratch.0), d);
                    assert_eq!(got, at(kv.values(block, h, 32, &mut scratch.1), d));
                }
            }
            let mut scratch = vec![0.0; dim * BLOCK];
            for (t, block) in (0..tokens).map(|t| (t, if t < 32 { 5 } else { table[t / BLOCK] })) {
                for h in 0..heads {
                    for d in 0..dim {
                        let want = x[(t * heads + h) * dim + d];
                        let near = |got: f32, want: f32| match kv_type {
                            KvType::Q8 => {
                                let head = &x[(t * heads + h) * dim..][..dim];
                                let top = head.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                                (got - want).abs() <= top / 253.0
                            }
                            _ => got == want,
                        };
                        assert!(near(at(kv.keys(block, h, &mut scratch), d * BLOCK + t % BLOCK), want));
                        let n = t % BLOCK + 1;
                        assert!(near(at(kv.values(block, h, n, &mut scratch), t % BLOCK * dim + d), -want));
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_reads_eight_bits_equally() {
        use crate::simd::testing::{every_level_equals_portable, with_extremes};
        for dim in 1..70 {
            let codes: Vec<i8> = (0..dim * BLOCK).map(|i| (i * 37 % 256) as u8 as i8).collect();
            let scales = with_extremes(BLOCK, dim as u32);
            every_level_equals_portable(&dim, &|level| {
                let mut out = vec![0.5; codes.len()];
                keys_at(level, &codes, &scales, &mut out);
                out
            });
            for tokens in [1, 31, BLOCK] {
                every_level_equals_portable(&(dim, tokens), &|level| {
                    let mut out = vec![0.5; dim * tokens];
                    values_at(level, &codes[..dim * tokens], &scales[..tokens], &mut out);
                    out
                });
            }
        }
    }
}
