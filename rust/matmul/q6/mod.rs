//! Products with 6-bit weights, which the embedding tables of 4-bit models have: groups of 32 inputs with a
//! scale each, in blocks of 256.
//!
//! Codes (-31 to 31) and scales are as in [`q8`], with 6 of the 8 bits of each code. A block of 8 groups of a
//! panel takes 3,328 bytes, where code j of the 512 of a group is code j of `q8`, plus 32:
//!
//! ```text
//! codes   [group 8]   low   [256] u8   4 bits of code j in byte j low, of code j + 256 high
//!                     high  [128] u8   2 bits each of the codes j, j + 128, j + 256, j + 384 in byte j,
//!                                      lowest first
//! scales  [group 8][output 16] f16 times 4096
//! ```
//!
//! and a shorter last block what its groups need, rounded up to 64. A product unpacks blocks to those of `q8`
//! in scratch that stays in the L1 cache and runs the kernels of `q8`: its results equal those of `q8` with
//! the same codes, to the bit.

use super::panel::{GROUP, GROUPS, PANEL};
use super::q8;
use super::quantized::{Blocks, Kernels, Tile, Unpacking, blocks, bytes, shape, tile_activations};
use super::subproduct::Subproduct;
use crate::simd::{Level, multiversion, prefetch_at};
use crate::tensor::Buffer;

/// The largest code.
const MAX_CODE: f32 = 31.0;
/// Distance between the scales that are tried, see [`q8::fit::group`].
const STEP: f32 = 0.1875;
/// Bias of a code.
const OFFSET: u8 = 32;
/// Codes of a group, a half and a quarter of them.
const CODES: usize = GROUP * PANEL;
const HALF: usize = CODES / 2;
const QUARTER: usize = CODES / 4;
/// Bytes of the codes of a group.
const PACKED: usize = HALF + QUARTER;
/// Bytes of the scales of a group.
const SCALES: usize = 2 * PANEL;

/// Prefetch distance.
const PREFETCH_BYTES: usize = 12 * 1024;

pub static BLOCKS: Blocks = Blocks {
    bytes: block_bytes,
    unpacking: Some(Unpacking {
        bytes: q8::block_bytes,
        unpack: |level, groups, block, out| unpack_block_at(level, groups, block, false, out),
    }),
};

/// Bytes of a block.
const fn block_bytes(groups: usize) -> usize {
    groups * PACKED + (groups * SCALES).next_multiple_of(64)
}

/// Bytes of a panel.
pub fn panel_bytes(inputs: usize) -> Option<usize> {
    let (whole, rest) = shape(inputs);
    whole.checked_mul(block_bytes(GROUPS))?.checked_add(block_bytes(rest))
}

/// Packs 16 rows; false where a scale is out of f16's range.
pub fn pack(rows: &[f32], inputs: usize, out: &mut [u8]) -> bool {
    let mut unpacked = vec![0; q8::panel_bytes(inputs).unwrap_or_default()];
    let fits = q8::quantize(rows, inputs, MAX_CODE, STEP, &mut unpacked);
    let mut first = 0;
    for (groups, range) in blocks(inputs, block_bytes) {
        let (codes, scales) = out[range].split_at_mut(groups * PACKED);
        for (g, (codes, scales)) in
            codes.chunks_exact_mut(PACKED).zip(scales.chunks_exact_mut(SCALES)).enumerate()
        {
            let (codes_at, scales_at) = q8::offsets(inputs, first + g);
            let code = |j: usize| unpacked[codes_at + j].wrapping_sub(q8::ZERO).wrapping_add(OFFSET);
            for j in 0..HALF {
                codes[j] = (code(j) & 15) | code(j + HALF) << 4;
            }
            for j in 0..QUARTER {
                let high = [0, 1, 2, 3].map(|part| code(j + part * QUARTER) >> 4 << (2 * part));
                codes[HALF + j] = high[0] | high[1] | high[2] | high[3];
            }
            scales.copy_from_slice(&unpacked[scales_at..][..SCALES]);
        }
        first += groups;
    }
    fits
}

multiversion! {
    /// Unpacks a block of `groups` groups to one of `q8`; with `prefetch`, prefetches the next weights.
    fn unpack_block / unpack_block_at (groups: usize, block: &[u8], prefetch: bool, out: &mut [u8]) {
        let (codes, scales) = block.split_at(groups * PACKED);
        // From a bias of 32 to that of q8.
        let shift = q8::ZERO.wrapping_sub(OFFSET);
        for (g, (packed, scales)) in codes.chunks_exact(PACKED).zip(scales.chunks_exact(SCALES)).enumerate() {
            // Distributed evenly over the block, scales included.
            let upcoming = block.as_ptr().wrapping_add(PREFETCH_BYTES + g * (PACKED + SCALES));
            if prefetch {
                prefetch_at(upcoming, PACKED + SCALES);
            }
            let (codes_at, scales_at) = q8::offsets(groups * GROUP, g);
            out[scales_at..][..SCALES].copy_from_slice(scales);
            let (low, high) = packed.split_first_chunk::<HALF>().expect("half a byte each");
            let high = high.first_chunk::<QUARTER>().expect("a quarter of a byte each");
            let codes = out[codes_at..].first_chunk_mut::<CODES>().expect("a group");
            for j in 0..QUARTER {
                let (a, b, h) = (low[j], low[j + QUARTER], high[j]);
                codes[j] = ((a & 15) | (h & 3) << 4).wrapping_add(shift);
                codes[j + QUARTER] = ((b & 15) | (h & 12) << 2).wrapping_add(shift);
                codes[j + HALF] = (a >> 4 | (h & 48)).wrapping_add(shift);
                codes[j + HALF + QUARTER] = (b >> 4 | (h & 192) >> 2).wrapping_add(shift);
            }
        }
    }
}

/// One row of a panel.
pub fn unpack(panel: &[u8], row: usize, out: &mut [f32]) {
    let mut unpacked = vec![0; q8::block_bytes(GROUPS)];
    for ((groups, range), out) in blocks(out.len(), block_bytes).zip(out.chunks_mut(GROUPS * GROUP)) {
        unpack_block(groups, &panel[range], false, &mut unpacked);
        q8::unpack(&unpacked, row, out);
    }
}

/// Products of some panels with few rows, one interleaved tile: `out: [panel][row][16]`. `scratch`
/// belongs to the thread.
pub fn product(
    level: Level,
    kernels: &Kernels,
    part: Subproduct<'_>,
    scratch: &mut Buffer<f32>,
    out: &mut [f32],
) {
    let Subproduct { weight: w, panels, x, .. } = part;
    let packed = x.packed;
    let (rows, words) = (packed.rows, kernels.layout.words());
    assert!(packed.tiles.len() == 1 && !packed.by_rows, "one tile, interleaved");
    let unpacked = bytes(scratch, q8::block_bytes(GROUPS));
    // More rows leave time to prefetch while they are computed.
    let few = rows <= 4;
    let kernel = if few { kernels.many[rows - 1] } else { kernels.few[rows - 1] };
    for (c, panel) in out.chunks_exact_mut(rows * PANEL).zip(panels) {
        c.fill(0.0);
        let panel = w.panel(panel);
        for (block, (groups, range)) in blocks(w.inputs(), block_bytes).enumerate() {
            let ahead = panel[range.clone()].as_ptr().wrapping_add(PREFETCH_BYTES / 2);
            unpack_block_at(level, groups, &panel[range], few, unpacked);
            let tile = Tile {
                blocks: 1,
                groups,
                w: unpacked.as_ptr(),
                w_stride: 0,
                x: tile_activations(kernels, packed, block, 1, 0),
                x_stride: rows * words,
                c: c.as_mut_ptr(),
                c_stride: 0,
                first: block == 0,
                ahead,
                lines: 0,
            };
            // SAFETY: the kernels are of a detected level; the scratch holds a block of these groups, the
            // activations as many, and `c` has room for all rows.
            unsafe { kernel(&tile) };
        }
    }
}
