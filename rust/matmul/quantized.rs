//! Shared by the quantized types: panels of blocks of 256 inputs, and the loops around their kernels.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;

use super::activations::PackedActivations;
use super::layout::Layout;
use super::panel::{GROUP, GROUPS, PANEL};
use super::subproduct::Subproduct;
use crate::simd::{Level, prefetch_at};
use crate::tensor::{Buffer, sized};
use std::ops::Range;

/// Factor of stored f16 scales: it keeps those of small weights normal.
pub const SCALE_BIAS: f32 = 4096.0;

/// Blocks that all rows go through before the next: the weights of two panels stay in the L1 cache.
const BLOCKS_AT_ONCE: usize = 2;

/// Prefetch distance of kernels that prefetch while they read.
#[cfg(target_arch = "x86_64")]
pub const PREFETCH_BYTES: usize = 8 * 1024;

/// What a kernel computes: M rows by the 16 outputs of a panel, or of two panels, over some blocks.
///
/// A kernel may be called where the CPU has its instructions, M is its number of rows, and each field holds what
/// its line promises.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only kernels of x86 take pairs and prefetch")
)]
pub struct Tile {
    /// Number of blocks, at least one.
    pub blocks: usize,
    /// Groups of each block, at least one.
    pub groups: usize,
    /// The blocks of weights, packed one after the other.
    pub w: *const u8,
    /// Bytes from a panel to the second.
    pub w_stride: usize,
    /// The activations of M rows for these blocks.
    pub x: *const i32,
    /// Words of activations from a block to the next.
    pub x_stride: usize,
    /// Results `[M][16]`.
    pub c: *mut f32,
    /// Values from the results of a panel to those of the second.
    pub c_stride: usize,
    /// Whether the results start at zero instead of being added to.
    pub first: bool,
    /// After each block a kernel prefetches `lines` cache lines from `ahead` on, of each panel. Kernels that prefetch
    /// while they read take `ahead` as the address that they read from. Any address will do.
    pub ahead: *const u8,
    pub lines: usize,
}

/// Computes a tile.
pub type Kernel = unsafe fn(&Tile);

/// Kernels of an instruction set, indexed by the number of rows - 1.
pub struct Kernels {
    pub layout: Layout,
    /// For one tile, which reads weights from memory.
    pub few: &'static [Kernel],
    /// For several tiles over the same weights.
    pub many: &'static [Kernel],
    /// As `many`, for two panels; may be empty.
    pub pairs: &'static [Kernel],
    /// As `many` and `pairs`, for row-major activations.
    pub by_rows: Option<(&'static [Kernel], &'static [Kernel])>,
}

/// Maximum number of activations that are packed row-major: in the L2 cache, kernels read them as fast as
/// interleaved ones, and packing takes less time. Measured on Zen 5.
const MAX_BY_ROWS: usize = 192 * 1024;

impl Kernels {
    /// Maximum number of rows in a tile of `rows`.
    pub fn height(&self, rows: usize) -> usize {
        if rows > self.few.len() && !self.pairs.is_empty() { self.pairs.len() } else { self.many.len() }
    }

    /// Whether activations `[rows, inputs]` are packed row-major instead of interleaved.
    pub fn prefers_rows(&self, rows: usize, inputs: usize) -> bool {
        self.by_rows.is_some() && rows > self.few.len() && rows * inputs <= MAX_BY_ROWS
    }
}

/// The number of whole blocks of `inputs`, and of groups in a shorter last one (0 without one).
pub fn shape(inputs: usize) -> (usize, usize) {
    let groups = inputs.div_ceil(GROUP);
    let whole = groups / GROUPS;
    (whole, groups % GROUPS)
}

/// The blocks of a panel: number of groups and byte range of each; `block_bytes(groups)` is the size of a
/// block.
pub fn blocks(inputs: usize, block_bytes: fn(usize) -> usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (whole, rest) = shape(inputs);
    let last = (rest > 0).then_some((whole, rest));
    (0..whole).map(|block| (block, GROUPS)).chain(last).map(move |(block, groups)| {
        let start = block * block_bytes(GROUPS);
        (groups, start..start + block_bytes(groups))
    })
}

/// Packed blocks of a type.
pub struct Blocks {
    /// Bytes of a block of a number of groups.
    pub bytes: fn(usize) -> usize,
    /// The conversion to blocks that the kernels read, where they do not read packed ones.
    pub unpacking: Option<Unpacking>,
}

/// See [`Blocks`].
pub struct Unpacking {
    /// Bytes of an unpacked block.
    pub bytes: fn(usize) -> usize,
    pub unpack: fn(Level, usize, &[u8], &mut [u8]),
}

/// Computes a subproduct. `scratch` belongs to the thread.
pub fn product(
    level: Level,
    kernels: &Kernels,
    Blocks { bytes: block_bytes, unpacking }: &Blocks,
    part: Subproduct<'_>,
    scratch: &mut Buffer<f32>,
    out: &mut [f32],
) {
    let Subproduct { weight: w, panels, x, tiles, .. } = part;
    let packed = x.packed;
    let (first_row, rows) = packed.rows_of(&tiles);
    assert!(out.len() >= panels.len() * rows * PANEL, "room for the results");
    let (whole, rest) = shape(w.inputs());
    if whole + rest == 0 {
        out.fill(0.0);
        return;
    }
    let size = block_bytes(GROUPS);
    let x_stride = packed.rows * kernels.layout.words();
    if tiles.len() == 1 && !packed.by_rows && unpacking.is_none() {
        // Weights are read once: panel by panel, in memory order.
        let (tile, m) = (tiles.start, rows);
        for (c, panel) in out.chunks_exact_mut(m * PANEL).zip(panels) {
            let w = w.panel(panel);
            for (block, length, groups) in [(0, whole, GROUPS), (whole, 1, rest)] {
                if length * groups > 0 {
                    let w = w[block * size..].as_ptr();
                    let tile = Tile {
                        blocks: length,
                        groups,
                        w,
                        w_stride: 0,
                        x: tile_activations(kernels, packed, block, length, tile),
                        x_stride,
                        c: c.as_mut_ptr(),
                        c_stride: 0,
                        first: block == 0,
                        ahead: w,
                        lines: 0,
                    };
                    // SAFETY: the kernels are of a detected level; the panel holds `length` blocks of these
                    // groups from `block` on, the activations as many, and `c` has room for all rows.
                    unsafe { kernels.few[m - 1](&tile) };
                }
            }
        }
        return;
    }
    let (many, pairs) = match kernels.by_rows {
        Some(by_rows) if packed.by_rows => by_rows,
        _ => (kernels.many, kernels.pairs),
    };
    let stride = whole * size + if rest > 0 { block_bytes(rest) } else { 0 };
    let max_panels = if pairs.is_empty() { 1 } else { 2 };
    for p in (0..panels.len()).step_by(max_panels) {
        let side_by_side = max_panels.min(panels.len() - p);
        let both = w.some_panels(panels.start + p..panels.start + p + side_by_side);
        let mut block = 0;
        while block < whole + usize::from(rest > 0) {
            let (length, groups) =
                if block < whole { (BLOCKS_AT_ONCE.min(whole - block), GROUPS) } else { (1, rest) };
            let here = &both[block * size..];
            let (weights, w_stride) = match unpacking {
                Some(Unpacking { bytes: unpacked_bytes, unpack }) => {
                    let size_unpacked = unpacked_bytes(groups);
                    let scratch = bytes(scratch, side_by_side * length * size_unpacked);
                    for (i, scratch) in scratch.chunks_exact_mut(size_unpacked).enumerate() {
                        let from = &here[i / length * stride + i % length * size..];
                        unpack(level, groups, &from[..block_bytes(groups)], scratch);
                    }
                    (scratch.as_ptr(), length * size_unpacked)
                }
                None => (here.as_ptr(), stride),
            };
            // Each tile prefetches its share of the next weights: of these panels, or of those behind them.
            let lines = (size / 64).div_ceil(tiles.len());
            let next = here.as_ptr().wrapping_add(if block + length < whole {
                length * size
            } else {
                side_by_side * stride - block * size
            });
            for (t, tile) in tiles.clone().enumerate() {
                let (start, m) = packed.tiles[tile];
                let x = tile_activations(kernels, packed, block, length, tile);
                let (at, last) = (p * rows + start - first_row, (side_by_side - 1) * rows);
                let c = out[at * PANEL..][..(last + m) * PANEL].as_mut_ptr();
                let next = next.wrapping_add(t * lines * length * 64);
                // Kernels prefetch panels at the distance of those that they read.
                let lines = if unpacking.is_some() {
                    for i in 0..side_by_side {
                        prefetch_at(next.wrapping_add(i * stride), lines * length * 64);
                    }
                    0
                } else {
                    lines
                };
                let tile = Tile {
                    blocks: length,
                    groups,
                    w: weights,
                    w_stride,
                    x,
                    x_stride,
                    c,
                    c_stride: rows * PANEL,
                    first: block == 0,
                    ahead: next,
                    lines,
                };
                let kernel = if side_by_side == 2 { pairs[m - 1] } else { many[m - 1] };
                // SAFETY: as above, for one panel or two at the given distances.
                unsafe { kernel(&tile) };
            }
            block += length;
        }
    }
}

/// Some bytes of a buffer, from a cache line on.
pub fn bytes(scratch: &mut Buffer<f32>, length: usize) -> &mut [u8] {
    let scratch = sized(scratch, length.div_ceil(4));
    // SAFETY: any bytes are f32, and any f32 is bytes.
    let (_, bytes, _) = unsafe { scratch.align_to_mut::<u8>() };
    &mut bytes[..length]
}

/// Activations of a tile, `length` blocks from `block` on.
pub fn tile_activations(
    kernels: &Kernels,
    packed: &PackedActivations,
    block: usize,
    length: usize,
    tile: usize,
) -> *const i32 {
    let (x, words) = (packed.codes(kernels.layout, block, tile), kernels.layout.words());
    assert!(
        x.len() >= (length - 1) * packed.rows * words + packed.tiles[tile].1 * words,
        "whole blocks of activations"
    );
    x.as_ptr()
}
