//! Activations prepared for the kernels: tiles of some rows, interleaved so that a kernel reads the values of
//! all its rows for one input side by side.
//!
//! `[block of 256 inputs][tile][...][row]`; what a block of a tile holds is the [`Kind`]. Integer kinds pad the last
//! block with zeros.

use crate::simd::{LANES, Level, ROUND, Vector, multiversion};
use crate::tensor::Disjoint;
use crate::threads::Team;
use std::ops::Range;

/// Inputs in a block.
pub const BLOCK: usize = 256;
/// Inputs that share a scale, in weights and in 8-bit activations of `q8`.
pub const GROUP: usize = 32;
/// Groups in a block.
pub const GROUPS: usize = BLOCK / GROUP;

/// What a block of a tile holds, `M` rows side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// f32 `[input][M]`.
    Float,
    /// Two i16 in a word `[input pair 128][M]`, then a scale for all `[M]` f32.
    Pairs,
    /// By group of 32: high bytes of four i16 in a word `[input quad 8][M]`, then their low bytes `[input quad 8][M]`;
    /// after the groups a scale for all `[M]` f32.
    Planes,
    /// By group of 32: two i16 (of 8 bits) in a word `[input pair 16][M]`, a scale `[M]` f32.
    GroupPairs,
    /// By group of 32: four i8 in a word `[input quad 8][M]`, -128 times their sum `[M]`, a scale `[M]` f32.
    GroupQuads,
    /// Four i8 in a word `[input quad 64][M]`, sums of two groups of 32 as two i16 `[pair of groups 4][M]`, a scale
    /// for all `[M]` f32.
    Quads,
}

impl Kind {
    /// Words of 32 bits that one row takes in a whole block.
    pub const fn words(self) -> usize {
        match self {
            Kind::Float => BLOCK,
            Kind::Pairs | Kind::Planes => BLOCK / 2 + 1,
            Kind::GroupPairs => GROUPS * (GROUP / 2 + 1),
            Kind::GroupQuads => GROUPS * (GROUP / 4 + 2),
            Kind::Quads => BLOCK / 4 + GROUPS / 2 + 1,
        }
    }
}

/// Prepared activations.
#[derive(Default)]
pub struct Strips {
    /// First row and number of rows of each tile.
    pub tiles: Vec<(usize, usize)>,
    pub rows: usize,
    inputs: usize,
    floats: Vec<f32>,
    codes: Vec<i32>,
}

/// Work below this many values is done by the caller alone.
const SMALL: usize = 16 * 1024;

impl Strips {
    /// Cuts `rows` into tiles of nearly equal height: 17 rows at a height of 4 become 4 + 4 + 3 + 3 + 3.
    fn cut(&mut self, rows: usize, inputs: usize, height: usize) {
        (self.rows, self.inputs) = (rows, inputs);
        let n = rows.div_ceil(height);
        self.tiles.clear();
        self.tiles.extend((0..n).map(|i| {
            let start = rows * i / n;
            (start, rows * (i + 1) / n - start)
        }));
    }

    /// Rows of some tiles: the first, and how many.
    pub fn rows_of(&self, tiles: &Range<usize>) -> (usize, usize) {
        let first = self.tiles[tiles.start].0;
        let last = self.tiles[tiles.end - 1];
        (first, last.0 + last.1 - first)
    }

    /// Float strip of a tile for the inputs of one block.
    pub fn float(&self, block: usize, tile: usize) -> &[f32] {
        let (start, rows) = self.tiles[tile];
        let length = BLOCK.min(self.inputs - block * BLOCK);
        &self.floats[block * BLOCK * self.rows + start * length..][..rows * length]
    }

    /// Integer strip of a tile from one block on; blocks follow each other at a distance of `rows * kind.words()`.
    pub fn codes(&self, kind: Kind, block: usize, tile: usize) -> &[i32] {
        let words = kind.words();
        &self.codes[(block * self.rows + self.tiles[tile].0) * words..]
    }

    /// Prepares activations `x: [rows, inputs]` in tiles of at most `height` rows.
    pub fn pack(
        &mut self,
        team: &Team<'_>,
        level: Level,
        kind: Kind,
        x: &[f32],
        rows: usize,
        inputs: usize,
        height: usize,
    ) {
        self.cut(rows, inputs, height);
        let blocks = inputs.div_ceil(BLOCK);
        let alone = x.len() < SMALL || self.tiles.len() == 1;
        if kind == Kind::Float {
            if self.floats.len() < x.len() {
                self.floats.resize(x.len(), 0.0);
            }
            if rows == 1 {
                self.floats[..x.len()].copy_from_slice(x);
                return;
            }
            let out = Disjoint::new(&mut self.floats);
            each_tile(team, &self.tiles, alone, &|start, m| {
                for block in 0..blocks {
                    let length = BLOCK.min(inputs - block * BLOCK);
                    // SAFETY: each block of each tile is a part of its own.
                    let to = unsafe { out.slice(block * BLOCK * rows + start * length, m * length) };
                    interleave(&x[start * inputs + block * BLOCK..], inputs, length, m, to);
                }
            });
            return;
        }
        let words = kind.words();
        if self.codes.len() < blocks * rows * words {
            self.codes.resize(blocks * rows * words, 0);
        }
        let out = Disjoint::new(&mut self.codes);
        each_tile(team, &self.tiles, alone, &|start, m| {
            let mut padded = [0.0; BLOCK];
            for block in 0..blocks {
                let length = BLOCK.min(inputs - block * BLOCK);
                // SAFETY: each block of each tile is a part of its own.
                let to = unsafe { out.slice((block * rows + start) * words, m * words) };
                for i in 0..m {
                    let from = &x[(start + i) * inputs + block * BLOCK..][..length];
                    let values: &[f32; BLOCK] = match from.try_into() {
                        Ok(whole) => whole,
                        Err(_) => {
                            padded[..length].copy_from_slice(from);
                            padded[length..].fill(0.0);
                            &padded
                        }
                    };
                    quantize(level, kind, values, m, &mut to[i..]);
                }
            }
        });
    }
}

/// `to[k * m + i] = x[i * stride + k]` for k below `length`.
fn interleave(x: &[f32], stride: usize, length: usize, m: usize, to: &mut [f32]) {
    fn rows<const M: usize>(x: &[f32], stride: usize, length: usize, to: &mut [f32]) {
        let rows: [&[f32]; M] = std::array::from_fn(|i| &x[i * stride..][..length]);
        for (k, to) in to.chunks_exact_mut(M).enumerate().take(length) {
            for i in 0..M {
                to[i] = rows[i][k];
            }
        }
    }
    match m {
        1 => to[..length].copy_from_slice(&x[..length]),
        2 => rows::<2>(x, stride, length, to),
        3 => rows::<3>(x, stride, length, to),
        4 => rows::<4>(x, stride, length, to),
        5 => rows::<5>(x, stride, length, to),
        6 => rows::<6>(x, stride, length, to),
        7 => rows::<7>(x, stride, length, to),
        8 => rows::<8>(x, stride, length, to),
        9 => rows::<9>(x, stride, length, to),
        10 => rows::<10>(x, stride, length, to),
        11 => rows::<11>(x, stride, length, to),
        _ => rows::<12>(x, stride, length, to),
    }
}

fn each_tile(team: &Team<'_>, tiles: &[(usize, usize)], alone: bool, f: &(dyn Fn(usize, usize) + Sync)) {
    if alone {
        tiles.iter().for_each(|&(start, m)| f(start, m));
    } else {
        team.run(tiles.len(), &|tile, _| f(tiles[tile].0, tiles[tile].1));
    }
}

/// Quantizes a block of one row into every `m`-th word of `to`.
fn quantize(level: Level, kind: Kind, x: &[f32; BLOCK], m: usize, to: &mut [i32]) {
    let spread = |words: &[i32], from: usize, to: &mut [i32]| {
        if m == 1 {
            to[from..from + words.len()].copy_from_slice(words);
        } else {
            for (to, &word) in to[from * m..].iter_mut().step_by(m).zip(words) {
                *to = word;
            }
        }
    };
    match kind {
        Kind::Float => {}
        Kind::Pairs | Kind::Planes => {
            let mut words = [0i32; BLOCK / 2 + 1];
            let (codes, scale) = words.split_at_mut(BLOCK / 2);
            scale[0] = pairs_at(level, x, codes.try_into().expect("half a block")).to_bits() as i32;
            if kind == Kind::Planes {
                words[..BLOCK / 2].chunks_exact_mut(GROUP / 2).for_each(part);
            }
            spread(&words, 0, to);
        }
        Kind::Quads => {
            let mut words = [0i32; BLOCK / 4 + GROUPS / 2 + 1];
            words[BLOCK / 4 + GROUPS / 2] = quads_at(level, x, &mut words).to_bits() as i32;
            spread(&words, 0, to);
        }
        Kind::GroupPairs => {
            let mut words = [0i32; Kind::GroupPairs.words()];
            group_pairs_at(level, x, &mut words);
            spread(&words, 0, to);
        }
        Kind::GroupQuads => {
            let mut words = [0i32; Kind::GroupQuads.words()];
            group_quads_at(level, x, &mut words);
            spread(&words, 0, to);
        }
    }
}

/// Parts a group of pairs into high and low bytes.
fn part(group: &mut [i32]) {
    let (mut high, mut low) = ([0u8; GROUP], [0u8; GROUP]);
    for (p, word) in group.iter().enumerate() {
        [low[2 * p], high[2 * p], low[2 * p + 1], high[2 * p + 1]] = word.to_le_bytes();
    }
    for (word, four) in group.iter_mut().zip(high.chunks_exact(4).chain(low.chunks_exact(4))) {
        *word = i32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    }
}

/// Scale of codes up to `most` and its inverse. Not-a-number and infinities make a scale that is not finite, so that
/// they are found in the results; values too small to divide by count as zero.
#[inline(always)]
fn scale<V: Vector>(x: &[f32], most: f32) -> (f32, f32) {
    // Loops, as functions of iterators are not compiled for the instruction set.
    let mut top = V::splat(0.0);
    for x in x.chunks_exact(LANES) {
        top = top.max_magnitude(V::load(x));
    }
    let top = f32::from_bits(top.to_array().iter().fold(0, |top, v| v.to_bits().max(top)));
    let inverse = if top > 1e-30 { most / top } else { 0.0 };
    (top * (1.0 / most), inverse)
}

/// Sixteen codes, as the low bits of numbers.
#[inline(always)]
fn codes<V: Vector>(x: &[f32], inverse: f32) -> V {
    V::load(x) * V::splat(inverse) + V::splat(ROUND)
}

/// Codes of a group in quads, and their sum.
#[inline(always)]
fn quads_of_group<V: Vector>(x: &[f32], inverse: f32, out: &mut [i32]) -> i32 {
    let (a, b) = (codes::<V>(x, inverse), codes::<V>(&x[LANES..], inverse));
    out[..LANES / 4].copy_from_slice(&a.to_quads());
    out[LANES / 4..].copy_from_slice(&b.to_quads());
    // Exact: whole numbers of at most 32 * 127.
    ((a - V::splat(ROUND)) + (b - V::splat(ROUND))).fold_sum() as i32
}

multiversion! {
    /// 16-bit codes of a block, in pairs; returns their scale.
    fn pairs / pairs_at (x: &[f32; BLOCK], out: &mut [i32; BLOCK / 2]) -> f32 {
        let (scale, inverse) = scale::<Lanes>(x, 32767.0);
        for (x, out) in x.chunks_exact(LANES).zip(out.chunks_exact_mut(LANES / 2)) {
            out.copy_from_slice(&codes::<Lanes>(x, inverse).to_pairs());
        }
        scale
    }
}

multiversion! {
    /// 8-bit codes of a block, in fours, and the sums of its groups, in pairs; returns their scale.
    fn quads / quads_at (x: &[f32; BLOCK], out: &mut [i32; BLOCK / 4 + GROUPS / 2 + 1]) -> f32 {
        let (scale, inverse) = scale::<Lanes>(x, 127.0);
        let mut sums = [0; GROUPS];
        for g in 0..GROUPS {
            let quads = &mut out[g * GROUP / 4..(g + 1) * GROUP / 4];
            sums[g] = quads_of_group::<Lanes>(&x[g * GROUP..], inverse, quads);
        }
        for (out, s) in out[BLOCK / 4..].iter_mut().zip(sums.chunks_exact(2)) {
            *out = (s[0] & 0xffff) | s[1] << 16;
        }
        scale
    }
}

multiversion! {
    /// 8-bit codes of a block, as i16 in pairs, and a scale, group by group.
    fn group_pairs / group_pairs_at (x: &[f32; BLOCK], out: &mut [i32; Kind::GroupPairs.words()]) {
        for (x, out) in x.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP / 2 + 1)) {
            let (scale, inverse) = scale::<Lanes>(x, 127.0);
            out[..LANES / 2].copy_from_slice(&codes::<Lanes>(x, inverse).to_pairs());
            out[LANES / 2..LANES].copy_from_slice(&codes::<Lanes>(&x[LANES..], inverse).to_pairs());
            out[GROUP / 2] = scale.to_bits() as i32;
        }
    }
}

multiversion! {
    /// 8-bit codes of a block, in fours, -128 times their sum and a scale, group by group.
    fn group_quads / group_quads_at (x: &[f32; BLOCK], out: &mut [i32; Kind::GroupQuads.words()]) {
        for (x, out) in x.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP / 4 + 2)) {
            let (scale, inverse) = scale::<Lanes>(x, 127.0);
            let sum = quads_of_group::<Lanes>(x, inverse, &mut out[..GROUP / 4]);
            out[GROUP / 4] = -128 * sum;
            out[GROUP / 4 + 1] = scale.to_bits() as i32;
        }
    }
}
