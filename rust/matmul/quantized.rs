//! What the quantized types share: panels of blocks of 256 inputs, and the loops around their kernels.

use super::strips::{GROUP, GROUPS, Kind, Strips};
use super::{Matrix, PANEL};
use std::ops::Range;

/// Scales are stored as f16 times this, so that those of small weights stay normal numbers.
pub const SCALE_BIAS: f32 = 4096.0;

/// Blocks that all rows go through before the next: their weights stay in the cache.
const BLOCKS_AT_ONCE: usize = 4;

/// Bytes ahead of the reading that some kernels ask the memory for.
#[cfg(target_arch = "x86_64")]
pub const AHEAD: usize = 16 * 1024;

/// M rows by 16 outputs: `(blocks, groups, w, x, x_stride, c, ahead, lines, first)`.
///
/// `blocks` blocks of `groups` groups each, packed one after the other from `w`; strips from `x`, `x_stride` words
/// from block to block; results in `c: [M][16]`, which start at zero where `first`. After each block the kernel asks
/// for `lines` cache lines from `ahead` on.
pub type Kernel = unsafe fn(usize, usize, *const u8, *const i32, usize, *mut f32, *const u8, usize, bool);

/// Kernels of an instruction set, by number of rows - 1.
pub struct Kernels {
    pub kind: Kind,
    /// For one tile, which reads weights from memory.
    pub few: &'static [Kernel],
    /// For tile after tile over the same weights.
    pub many: &'static [Kernel],
}

impl Kernels {
    /// Rows in a tile.
    pub fn height(&self) -> usize {
        self.many.len()
    }
}

/// Groups in the last block of `inputs` (1 to 8), and the number of whole blocks before it.
pub fn shape(inputs: usize) -> (usize, usize) {
    let groups = inputs.div_ceil(GROUP);
    let whole = groups / GROUPS;
    (whole, groups % GROUPS)
}

/// Products of some panels with some tiles; `out: [panel][row][16]`.
///
/// `block_bytes`: bytes of a packed block of so many groups.
pub fn product(
    kernels: &Kernels,
    block_bytes: fn(usize) -> usize,
    w: &Matrix,
    panels: Range<usize>,
    s: &Strips,
    tiles: Range<usize>,
    out: &mut [f32],
) {
    let (first_row, rows) = s.rows_of(&tiles);
    assert!(out.len() >= panels.len() * rows * PANEL, "room for the results");
    let (whole, rest) = shape(w.inputs());
    if whole + rest == 0 {
        out.fill(0.0);
        return;
    }
    let size = block_bytes(GROUPS);
    let stride = whole * size + if rest > 0 { block_bytes(rest) } else { 0 };
    let x_stride = s.rows * kernels.kind.words();
    let one = tiles.len() == 1;
    let mut block = 0;
    while block < whole + usize::from(rest > 0) {
        let (length, groups) = if block < whole {
            // A single tile has nothing to keep in the cache.
            (if one { whole } else { BLOCKS_AT_ONCE.min(whole - block) }, GROUPS)
        } else {
            (1, rest)
        };
        // Each tile asks for its share of the weights that come next.
        let lines = if one { 0 } else { (size / 64).div_ceil(tiles.len()) };
        for (t, tile) in tiles.clone().enumerate() {
            let (start, m) = s.tiles[tile];
            let x = s.codes(kernels.kind, block, tile);
            assert!(x.len() >= (length - 1) * x_stride + m * kernels.kind.words(), "whole strips");
            for (p, panel) in panels.clone().enumerate() {
                let bytes = &w.panel(panel)[block * size..];
                let c = &mut out[(p * rows + start - first_row) * PANEL..][..m * PANEL];
                let next = bytes.as_ptr().wrapping_add(if block + length < whole {
                    length * size
                } else {
                    panels.len() * stride - block * size
                });
                let next = next.wrapping_add(t * lines * length * 64);
                let kernel = if one { kernels.few[m - 1] } else { kernels.many[m - 1] };
                // SAFETY: the kernels are of a level that the machine has; the panel holds `length` blocks of these
                // groups from `block` on, the strip as many, and `c` has room for all rows.
                unsafe {
                    kernel(
                        length,
                        groups,
                        bytes.as_ptr(),
                        x.as_ptr(),
                        x_stride,
                        c.as_mut_ptr(),
                        next,
                        lines,
                        block == 0,
                    );
                }
            }
        }
        block += length;
    }
}
