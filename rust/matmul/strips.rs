//! Activations prepared for the kernels: tiles of some rows, interleaved so that a kernel reads the values of
//! all its rows for one input side by side.
//!
//! `[block of 256 inputs][tile][...][row]`; what a block of a tile holds is the [`Kind`]. Integer kinds pad the last
//! block with zeros.

use crate::simd::{Level, multiversion};
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
                    for i in 0..m {
                        let from = &x[(start + i) * inputs + block * BLOCK..][..length];
                        for (k, &v) in from.iter().enumerate() {
                            to[k * m + i] = v;
                        }
                    }
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
        Kind::GroupPairs | Kind::GroupQuads => {
            let mut codes = [0i8; BLOCK];
            let mut scales = [0.0f32; GROUPS];
            groups_at(level, x, &mut codes, &mut scales);
            for (g, (codes, scale)) in codes.chunks_exact(GROUP).zip(scales).enumerate() {
                if kind == Kind::GroupPairs {
                    let mut words = [0i32; GROUP / 2 + 1];
                    for (word, c) in words.iter_mut().zip(codes.chunks_exact(2)) {
                        *word = pair(i16::from(c[0]), i16::from(c[1]));
                    }
                    words[GROUP / 2] = scale.to_bits() as i32;
                    spread(&words, g * (GROUP / 2 + 1), to);
                } else {
                    let mut words = [0i32; GROUP / 4 + 2];
                    for (word, c) in words.iter_mut().zip(codes.chunks_exact(4)) {
                        *word = i32::from_le_bytes([c[0] as u8, c[1] as u8, c[2] as u8, c[3] as u8]);
                    }
                    words[GROUP / 4] = -128 * codes.iter().map(|&c| i32::from(c)).sum::<i32>();
                    words[GROUP / 4 + 1] = scale.to_bits() as i32;
                    spread(&words, g * (GROUP / 4 + 2), to);
                }
            }
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

/// Two i16 in a word, the first in the low half.
#[inline(always)]
fn pair(a: i16, b: i16) -> i32 {
    i32::from(a as u16) | i32::from(b) << 16
}

/// 1.5 * 2^23: adding it to a number below 2^22 leaves the nearest integer (ties to even) in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Scale of codes up to `most` and its inverse. Not-a-number and infinities make a scale that is not finite, so that
/// they are found in the results; values too small to divide by count as zero.
#[inline(always)]
fn scale(x: &[f32], most: f32) -> (f32, f32) {
    // As integers, so that not-a-number is the largest and no order of comparisons matters.
    let top = x.iter().fold(0, |top: i32, v| top.max((v.to_bits() & 0x7fff_ffff) as i32));
    let top = f32::from_bits(top as u32);
    let inverse = if top > 1e-30 { most / top } else { 0.0 };
    (top * (1.0 / most), inverse)
}

#[inline(always)]
fn code(x: f32, inverse: f32) -> i32 {
    ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

multiversion! {
    /// 16-bit codes of a block, in pairs; returns their scale.
    fn pairs / pairs_at (x: &[f32; BLOCK], out: &mut [i32; BLOCK / 2]) -> f32 {
        let (scale, inverse) = scale(x, 32767.0);
        let mut codes = [0i16; BLOCK];
        for i in 0..BLOCK {
            codes[i] = code(x[i], inverse) as i16;
        }
        for i in 0..BLOCK / 2 {
            out[i] = pair(codes[2 * i], codes[2 * i + 1]);
        }
        scale
    }
}

multiversion! {
    /// 8-bit codes of a block, in fours, and the sums of its groups, in pairs; returns their scale.
    fn quads / quads_at (x: &[f32; BLOCK], out: &mut [i32; BLOCK / 4 + GROUPS / 2 + 1]) -> f32 {
        let (scale, inverse) = scale(x, 127.0);
        let mut codes = [0i8; BLOCK];
        for i in 0..BLOCK {
            codes[i] = code(x[i], inverse) as i8;
        }
        let mut sums = [0i16; GROUPS];
        for g in 0..GROUPS {
            let mut sum = 0i32;
            for i in 0..GROUP {
                sum += codes[g * GROUP + i] as i32;
            }
            sums[g] = sum as i16;
        }
        for i in 0..BLOCK / 4 {
            let c = &codes[4 * i..4 * i + 4];
            out[i] = i32::from_le_bytes([c[0] as u8, c[1] as u8, c[2] as u8, c[3] as u8]);
        }
        for i in 0..GROUPS / 2 {
            out[BLOCK / 4 + i] = pair(sums[2 * i], sums[2 * i + 1]);
        }
        scale
    }
}

multiversion! {
    /// 8-bit codes of a block with a scale for each group.
    fn groups / groups_at (x: &[f32; BLOCK], codes: &mut [i8; BLOCK], scales: &mut [f32; GROUPS]) {
        for g in 0..GROUPS {
            let x = &x[g * GROUP..(g + 1) * GROUP];
            let (scale, inverse) = scale(x, 127.0);
            scales[g] = scale;
            for i in 0..GROUP {
                codes[g * GROUP + i] = code(x[i], inverse) as i8;
            }
        }
    }
}
