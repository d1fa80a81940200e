//! Activations prepared for the kernels: tiles of some rows, interleaved so that a kernel reads the values of
//! all its rows for one input side by side.
//!
//! `[block of 256 inputs][tile][...][row]`; what a block of a tile holds is the [`Kind`]. All kinds but `Float` and `Rows` pad the
//! last block with zeros.

mod codes;

use crate::simd::Level;
use crate::tensor::{Buffer, Disjoint, sized};
use crate::threads::Team;
use codes::quantize;
#[cfg(test)]
pub use codes::{MOST_16, nearest_half};
use std::ops::{Deref, Range};
use std::sync::{Mutex, PoisonError};

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
    /// f32 row after row, where they are, or copies in blocks, `[M][256]`, see [`COLLIDING`].
    Rows,
    /// Two bf16 in a word `[input pair 128][M]`, the first input in the low half.
    Halves,
    /// The same values as f32, for kernels that multiply those: `[input pair 128][second, first][M]`.
    Rounded,
    /// By group of 32: two i16 in a word `[input pair 16][M]` ([`Vector::to_pairs`](crate::simd::Vector::to_pairs) names the pairs), -128 times their sum
    /// `[M]`; after the groups a scale for all `[M]` f32.
    Pairs,
    /// By group of 32: high bytes of four i16 in a word `[input quad 8][M]`, then their low bytes `[input quad 8][M]`, both
    /// signed: `256 high + low`; -128 times the sum `[M]`; after the groups a scale for all `[M]` f32.
    Planes,
    /// By group of 32: two i16 (of 8 bits) in a word `[input pair 16][M]`, -128 times their sum `[M]`, a scale `[M]` f32.
    GroupPairs,
    /// By group of 32: four i8 in a word `[input quad 8][M]`, -128 times their sum `[M]`, a scale `[M]` f32.
    GroupQuads,
    /// Four i8 in a word `[input quad 64][M]`, the sums of two groups of 32 as two i16 `[pair of groups 4][M]`, -128 times the sum of
    /// all `[M]`, a scale for all `[M]` f32.
    Quads,
}

impl Kind {
    /// Words of 32 bits that one row takes in a whole block.
    pub const fn words(self) -> usize {
        match self {
            Kind::Float | Kind::Rows | Kind::Rounded => BLOCK,
            Kind::Halves => BLOCK / 2,
            Kind::Pairs | Kind::Planes => GROUPS * (GROUP / 2 + 1) + 1,
            Kind::GroupPairs => GROUPS * (GROUP / 2 + 2),
            Kind::GroupQuads => GROUPS * (GROUP / 4 + 2),
            Kind::Quads => BLOCK / 4 + GROUPS / 2 + 2,
        }
    }
}

/// Prepared activations.
#[derive(Default)]
pub struct Strips {
    /// First row and number of rows of each tile.
    pub tiles: Vec<(usize, usize)>,
    pub rows: usize,
    /// Whether words of codes lie row after row in a tile's block, instead of side by side for all rows.
    pub by_rows: bool,
    inputs: usize,
    floats: Buffer<f32>,
    codes: Buffer<i32>,
    threads: Vec<Mutex<Packing>>,
}

/// Memory of one thread.
#[derive(Default)]
struct Packing {
    /// Rows of a tile after what comes before.
    rows: Buffer<f32>,
    /// Words of a tile's rows before they are interleaved.
    words: Buffer<i32>,
}

/// Activations `[rows, inputs]`, and what each row goes through before it is used, which takes its number, its values
/// and where its results go: a normalization that needs no memory of its own.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub values: &'a [f32],
    pub before: Option<&'a Before<'a>>,
}

/// See [`Input`].
pub type Before<'a> = dyn Fn(usize, &[f32], &mut [f32]) + Sync + 'a;

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(values: &'a [f32]) -> Self {
        Input { values, before: None }
    }
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

    /// Strip of codes of a tile from one block on; blocks follow each other at a distance of `rows * kind.words()`.
    pub fn codes(&self, kind: Kind, block: usize, tile: usize) -> &[i32] {
        let words = kind.words();
        &self.codes[(block * self.rows + self.tiles[tile].0) * words..]
    }

    /// Prepares rows `first..first + rows` of activations `[_, inputs]` in tiles of at most `height` rows; codes `by_rows` or
    /// interleaved.
    pub fn pack<'a>(
        &'a mut self,
        team: &Team<'_>,
        level: Level,
        kind: Kind,
        input: Input<'a>,
        first: usize,
        rows: usize,
        inputs: usize,
        height: usize,
        by_rows: bool,
    ) -> Prepared<'a> {
        self.cut(rows, inputs, height);
        self.by_rows = by_rows;
        let blocks = inputs.div_ceil(BLOCK);
        let words = kind.words();
        let whole = kind == Kind::Rows && !inputs.is_multiple_of(COLLIDING);
        if whole && input.before.is_none() {
            return Prepared { strips: self, whole: Some(&input.values[first * inputs..]) };
        }
        if kind == Kind::Float || whole {
            sized(&mut self.floats, rows * inputs);
        } else if kind == Kind::Rows {
            sized(&mut self.floats, rows * blocks * BLOCK);
        } else {
            sized(&mut self.codes, blocks * rows * words);
        }
        self.threads.resize_with(team.threads().max(self.threads.len()), Mutex::default);
        let (floats, codes) = (Disjoint::new(&mut self.floats), Disjoint::new(&mut self.codes));
        let (tiles, threads) = (&self.tiles, &self.threads);
        let pack = |tile: usize, thread: usize| {
            let (start, m) = tiles[tile];
            let Packing { rows: made, words: side_by_side } =
                &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let mut x = &input.values[(first + start) * inputs..][..m * inputs];
            if let Some(before) = input.before {
                // SAFETY: rows of a tile belong to it alone.
                let in_place = whole.then(|| unsafe { floats.slice(start * inputs, m * inputs) });
                let made = in_place.unwrap_or_else(|| sized(made, m * inputs));
                for (i, (from, to)) in x.chunks_exact(inputs).zip(made.chunks_exact_mut(inputs)).enumerate() {
                    before(first + start + i, from, to);
                }
                if whole {
                    return;
                }
                x = made;
            }
            for block in 0..blocks {
                let length = BLOCK.min(inputs - block * BLOCK);
                if kind == Kind::Float {
                    // SAFETY: each block of each tile is a part of its own.
                    let to = unsafe { floats.slice(block * BLOCK * rows + start * length, m * length) };
                    interleave(&x[block * BLOCK..], inputs, length, m, to);
                    continue;
                }
                if kind == Kind::Rows {
                    // SAFETY: as above.
                    let to = unsafe { floats.slice((block * rows + start) * BLOCK, m * BLOCK) };
                    for (to, x) in to.chunks_exact_mut(BLOCK).zip(x.chunks_exact(inputs)) {
                        to[..length].copy_from_slice(&x[block * BLOCK..][..length]);
                    }
                    continue;
                }
                // SAFETY: as above.
                let to = unsafe { codes.slice((block * rows + start) * words, m * words) };
                // Those that are interleaved are made first.
                let in_place = m == 1 || by_rows;
                let made = if in_place { &mut *to } else { sized(side_by_side, m * words) };
                for (x, made) in x.chunks_exact(inputs).zip(made.chunks_exact_mut(words)) {
                    let x = &x[block * BLOCK..][..length];
                    match x.try_into() {
                        Ok(whole) => quantize(level, kind, whole, made),
                        Err(_) => {
                            let mut padded = [0.0; BLOCK];
                            padded[..length].copy_from_slice(x);
                            quantize(level, kind, &padded, made);
                        }
                    }
                }
                if !in_place {
                    interleave(side_by_side, words, words, m, to);
                }
            }
        };
        if rows * inputs < SMALL || tiles.len() == 1 {
            (0..tiles.len()).for_each(|tile| pack(tile, 0));
        } else {
            team.run(tiles.len(), &pack);
        }
        let strips = &*self;
        Prepared { strips, whole: whole.then_some(&strips.floats) }
    }
}

/// Activations as the kernels read them.
#[derive(Clone, Copy)]
pub struct Prepared<'a> {
    strips: &'a Strips,
    /// Rows one after the other, where they are neither interleaved nor cut into blocks.
    whole: Option<&'a [f32]>,
}

impl Deref for Prepared<'_> {
    type Target = Strips;

    fn deref(&self) -> &Strips {
        self.strips
    }
}

impl<'a> Prepared<'a> {
    /// Float strip of a tile for the inputs of one block, and how many values lie between its rows: of interleaved ones, 1.
    /// Rounded ones come in whole pairs of inputs.
    pub fn float(&self, kind: Kind, block: usize, tile: usize) -> (&'a [f32], usize) {
        let Strips { tiles, rows: all, inputs, floats, .. } = self.strips;
        let (start, rows) = tiles[tile];
        let length = BLOCK.min(inputs - block * BLOCK);
        match (kind, self.whole) {
            (Kind::Rows, Some(whole)) => {
                (&whole[start * inputs + block * BLOCK..][..(rows - 1) * inputs + length], *inputs)
            }
            (Kind::Rows, None) => (&floats[(block * all + start) * BLOCK..][..rows * BLOCK], BLOCK),
            (Kind::Rounded, _) => {
                let bits = &self.strips.codes(kind, block, tile)[..rows * length.next_multiple_of(2)];
                // SAFETY: both types have four bytes, and any of them are an f32.
                (unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }, 1)
            }
            _ => (&floats[block * BLOCK * all + start * length..][..rows * length], 1),
        }
    }
}

/// Rows of a multiple of so many inputs are not read where they are: they get into each other's way in the caches.
const COLLIDING: usize = 2048;

/// Most rows in a tile.
const MOST_HEIGHT: usize = 12;

/// `to[k * m + i] = x[i * stride + k]` for k below `length`.
fn interleave<T: Copy>(x: &[T], stride: usize, length: usize, m: usize, to: &mut [T]) {
    fn rows<T: Copy, const M: usize>(x: &[T], stride: usize, length: usize, to: &mut [T]) {
        let rows: [&[T]; M] = std::array::from_fn(|i| &x[i * stride..][..length]);
        for (k, to) in to.chunks_exact_mut(M).enumerate().take(length) {
            for i in 0..M {
                to[i] = rows[i][k];
            }
        }
    }
    match m {
        1 => to[..length].copy_from_slice(&x[..length]),
        2 => rows::<T, 2>(x, stride, length, to),
        3 => rows::<T, 3>(x, stride, length, to),
        4 => rows::<T, 4>(x, stride, length, to),
        5 => rows::<T, 5>(x, stride, length, to),
        6 => rows::<T, 6>(x, stride, length, to),
        7 => rows::<T, 7>(x, stride, length, to),
        8 => rows::<T, 8>(x, stride, length, to),
        9 => rows::<T, 9>(x, stride, length, to),
        10 => rows::<T, 10>(x, stride, length, to),
        11 => rows::<T, 11>(x, stride, length, to),
        _ => rows::<T, MOST_HEIGHT>(x, stride, length, to),
    }
}
