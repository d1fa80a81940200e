//! Packing of activations for the kernels: tiles of a few rows, interleaved so that a kernel reads the values
//! of all its rows for one input side by side.
//!
//! `[block of 256 inputs][tile][...][row]`; [`Layout`] defines the contents of a block of a tile. All layouts
//! but `F32` and `F32Rows` pad the last block with zeros.

mod codes;

use super::layout::Layout;
use super::panel::SUPERBLOCK;
use crate::simd::Level;
use crate::tensor::{Buffer, Disjoint, sized};
use crate::threads::Team;
use codes::quantize;
#[cfg(test)]
pub use codes::{MAX_I16_CODE, nearest_half};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How activations are packed.
#[derive(Clone, Copy)]
pub struct Packing {
    pub layout: Layout,
    /// Maximum number of rows in a tile.
    pub height: usize,
    /// See [`PackedActivations::by_rows`].
    pub by_rows: bool,
}

/// Packed activations.
#[derive(Default)]
pub struct PackedActivations {
    /// First row and number of rows of each tile.
    pub tiles: Vec<(usize, usize)>,
    pub rows: usize,
    /// Whether the codes of a tile's block are row-major, instead of interleaved.
    pub by_rows: bool,
    inputs: usize,
    floats: Buffer<f32>,
    codes: Buffer<i32>,
    threads: Vec<Mutex<ThreadScratch>>,
}

/// Scratch of one thread.
#[derive(Default)]
struct ThreadScratch {
    /// Rows of a tile after the prologue.
    rows: Buffer<f32>,
    /// Words of a tile's rows before they are interleaved.
    words: Buffer<i32>,
}

/// Activations `[rows, inputs]` and a prologue applied to each row before packing, such as a normalization:
/// it takes the row's number, its values and the output row, and needs no scratch.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub values: &'a [f32],
    pub prologue: Option<&'a Prologue<'a>>,
}

/// See [`Input`].
pub type Prologue<'a> = dyn Fn(usize, &[f32], &mut [f32]) + Sync + 'a;

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(values: &'a [f32]) -> Self {
        Input { values, prologue: None }
    }
}

/// Fewer values than this are packed by the calling thread alone.
const SERIAL_BELOW: usize = 16 * 1024;

impl PackedActivations {
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

    /// Rows of a range of tiles: the first, and their number.
    pub fn rows_of(&self, tiles: &Range<usize>) -> (usize, usize) {
        let first = self.tiles[tiles.start].0;
        let last = self.tiles[tiles.end - 1];
        (first, last.0 + last.1 - first)
    }

    /// Codes of a tile from a block on; blocks follow each other at a distance of `rows * layout.words()`.
    pub fn codes(&self, layout: Layout, block: usize, tile: usize) -> &[i32] {
        let words = layout.words();
        &self.codes[(block * self.rows + self.tiles[tile].0) * words..]
    }

    /// Packs some rows of activations `[_, inputs]`.
    pub fn pack<'a>(
        &'a mut self,
        team: &Team<'_>,
        level: Level,
        Packing { layout, height, by_rows }: Packing,
        input: Input<'a>,
        rows: Range<usize>,
        inputs: usize,
    ) -> ActivationView<'a> {
        let (first, rows) = (rows.start, rows.len());
        self.cut(rows, inputs, height);
        self.by_rows = by_rows;
        let blocks = inputs.div_ceil(SUPERBLOCK);
        let words = layout.words();
        let whole = layout == Layout::F32Rows && !inputs.is_multiple_of(COLLIDING);
        if whole && input.prologue.is_none() {
            return ActivationView { packed: self, rows: Some(&input.values[first * inputs..]) };
        }
        if layout == Layout::F32 || whole {
            sized(&mut self.floats, rows * inputs);
        } else if layout == Layout::F32Rows {
            sized(&mut self.floats, rows * blocks * SUPERBLOCK);
        } else {
            sized(&mut self.codes, blocks * rows * words);
        }
        self.threads.resize_with(team.threads().max(self.threads.len()), Mutex::default);
        let (floats, codes) = (Disjoint::new(&mut self.floats), Disjoint::new(&mut self.codes));
        let (tiles, threads) = (&self.tiles, &self.threads);
        let pack = |tile: usize, thread: usize| {
            let (start, m) = tiles[tile];
            let ThreadScratch { rows: made, words: side_by_side } =
                &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let mut x = &input.values[(first + start) * inputs..][..m * inputs];
            if let Some(prologue) = input.prologue {
                // SAFETY: rows of a tile belong to it alone.
                let in_place = whole.then(|| unsafe { floats.slice(start * inputs, m * inputs) });
                let made = in_place.unwrap_or_else(|| sized(made, m * inputs));
                for (i, (from, to)) in x.chunks_exact(inputs).zip(made.chunks_exact_mut(inputs)).enumerate() {
                    prologue(first + start + i, from, to);
                }
                if whole {
                    return;
                }
                x = made;
            }
            for block in 0..blocks {
                let length = SUPERBLOCK.min(inputs - block * SUPERBLOCK);
                if layout == Layout::F32 {
                    // SAFETY: blocks of tiles do not overlap.
                    let to = unsafe { floats.slice(block * SUPERBLOCK * rows + start * length, m * length) };
                    interleave(&x[block * SUPERBLOCK..], inputs, length, m, to);
                    continue;
                }
                if layout == Layout::F32Rows {
                    // SAFETY: as above.
                    let to = unsafe { floats.slice((block * rows + start) * SUPERBLOCK, m * SUPERBLOCK) };
                    for (to, x) in to.chunks_exact_mut(SUPERBLOCK).zip(x.chunks_exact(inputs)) {
                        to[..length].copy_from_slice(&x[block * SUPERBLOCK..][..length]);
                    }
                    continue;
                }
                // SAFETY: as above.
                let to = unsafe { codes.slice((block * rows + start) * words, m * words) };
                // Interleaved codes are made row by row first.
                let in_place = m == 1 || by_rows;
                let made = if in_place { &mut *to } else { sized(side_by_side, m * words) };
                for (x, made) in x.chunks_exact(inputs).zip(made.chunks_exact_mut(words)) {
                    let x = &x[block * SUPERBLOCK..][..length];
                    match x.try_into() {
                        Ok(whole) => quantize(level, layout, whole, made),
                        Err(_) => {
                            let mut padded = [0.0; SUPERBLOCK];
                            padded[..length].copy_from_slice(x);
                            quantize(level, layout, &padded, made);
                        }
                    }
                }
                if !in_place {
                    interleave(side_by_side, words, words, m, to);
                }
            }
        };
        if rows * inputs < SERIAL_BELOW || tiles.len() == 1 {
            (0..tiles.len()).for_each(|tile| pack(tile, 0));
        } else {
            team.run(tiles.len(), &pack);
        }
        let packed = &*self;
        ActivationView { packed, rows: whole.then_some(&packed.floats) }
    }
}

/// Packed activations as the kernels read them.
#[derive(Clone, Copy)]
pub struct ActivationView<'a> {
    pub packed: &'a PackedActivations,
    /// The rows themselves, where they are neither interleaved nor cut into blocks.
    rows: Option<&'a [f32]>,
}

impl<'a> ActivationView<'a> {
    /// Floats of a tile for the inputs of one block, and the distance between its rows: 1 where they are
    /// interleaved. `Bf16AsF32` comes in whole pairs of inputs.
    pub fn float(&self, layout: Layout, block: usize, tile: usize) -> (&'a [f32], usize) {
        let PackedActivations { tiles, rows: all, inputs, floats, .. } = self.packed;
        let (start, rows) = tiles[tile];
        let length = SUPERBLOCK.min(inputs - block * SUPERBLOCK);
        match (layout, self.rows) {
            (Layout::F32Rows, Some(whole)) => {
                (&whole[start * inputs + block * SUPERBLOCK..][..(rows - 1) * inputs + length], *inputs)
            }
            (Layout::F32Rows, None) => {
                (&floats[(block * all + start) * SUPERBLOCK..][..rows * SUPERBLOCK], SUPERBLOCK)
            }
            (Layout::Bf16AsF32, _) => {
                let bits = &self.packed.codes(layout, block, tile)[..rows * length.next_multiple_of(2)];
                // SAFETY: both types have four bytes, and any bits are an f32.
                (unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }, 1)
            }
            _ => (&floats[block * SUPERBLOCK * all + start * length..][..rows * length], 1),
        }
    }
}

/// Rows of a multiple of this many inputs are copied instead of read in place: their addresses collide in the
/// sets of the caches.
const COLLIDING: usize = 2048;

/// Maximum number of rows in a tile.
const MAX_HEIGHT: usize = 12;

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
        _ => rows::<T, MAX_HEIGHT>(x, stride, length, to),
    }
}
