//! Activations prepared for the kernels: tiles of some rows, interleaved so that a kernel reads the values of
//! all its rows for one input side by side.
//!
//! `[block of 256 inputs][tile][input][row]` f32.

use crate::tensor::Disjoint;
use crate::threads::Team;
use std::ops::Range;

/// Inputs in a block.
pub const BLOCK: usize = 256;
/// Prepared activations.
#[derive(Default)]
pub struct Strips {
    /// First row and number of rows of each tile.
    pub tiles: Vec<(usize, usize)>,
    rows: usize,
    inputs: usize,
    floats: Vec<f32>,
}

/// Work below this many values is done by the caller alone.
const SMALL: usize = 32 * 1024;

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

    fn each_tile(team: &Team<'_>, tiles: usize, small: bool, f: &(dyn Fn(usize) + Sync)) {
        if small {
            (0..tiles).for_each(f);
        } else {
            team.run(tiles, &|tile, _| f(tile));
        }
    }

    /// Interleaves f32 activations.
    pub fn pack_float(&mut self, team: &Team<'_>, x: &[f32], rows: usize, inputs: usize, height: usize) {
        self.cut(rows, inputs, height);
        if self.floats.len() < x.len() {
            self.floats.resize(x.len(), 0.0);
        }
        if rows == 1 {
            self.floats[..x.len()].copy_from_slice(x);
            return;
        }
        let out = Disjoint::new(&mut self.floats);
        let tiles = &self.tiles;
        Self::each_tile(team, tiles.len(), x.len() < SMALL, &|tile| {
            let (start, m) = tiles[tile];
            for block in 0..inputs.div_ceil(BLOCK) {
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
    }
}
