//! Products with 4-bit weights on an 8-bit grid: in a block of 256 inputs a weight is a step times an integer
//! of one byte, and a group of 32 uses only 16 of those integers, evenly spaced: `weight = d * (scale[g] *
//! code + low[g])`, with scales of 1 to 15 and `-128 <= low`, `low + 15 scale <= 127`. Products with few rows
//! read 4-bit codes and multiply their sums by the scales; products with many rows ([`unpacked`]) unpack
//! codes to bytes once and need no scales: the integers are the same.
//!
//! A block of 8 groups of a panel takes 2,272 bytes (4.4375 bits a weight):
//!
//! ```text
//! codes   [group 8][vector 4][output 16][4]   byte k of vector j: input 4 j + k low, input 16 + 4 j + k high
//! scales  [group 4][output 16] u8             of group g low, of group g + 4 high
//! lows    [pair of groups 4][output 16][2] i8
//! d       [output 16] f16, times 4096
//! ```
//!
//! and a shorter last block what its groups need. Activations are 8-bit with one scale for each 256 inputs of
//! a row; over blocks in order, a result is
//!
//! ```text
//! i = sum of scale * code * x + low * (sum of x in the group)    exact
//! c = fma(i * d, scale of x, c)
//! ```

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "x86_64")]
pub mod avxvnni;
pub mod fit;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub mod unpacked;

use super::layout::Layout;
use super::panel::{GROUP, GROUPS, PANEL, SUPERBLOCK};
use super::quantized::{Blocks, Kernel, Kernels, SCALE_BIAS, Tile, blocks, shape};
use half::f16;

/// Bytes of the codes of a group.
const CODES: usize = GROUP * PANEL / 2;

/// Groups that share bytes of scales with the other half.
const HALF: usize = GROUPS / 2;

/// Offsets of the parts of a block of `groups` groups: scales, lows, d, and the end.
const fn offsets(groups: usize) -> [usize; 4] {
    let scales = groups * CODES;
    let lows = scales + if groups < HALF { groups } else { HALF } * PANEL;
    let d = lows + groups.div_ceil(2) * 2 * PANEL;
    [scales, lows, d, d + 2 * PANEL]
}

/// Bytes of a block.
pub fn block_bytes(groups: usize) -> usize {
    if groups == 0 { 0 } else { offsets(groups)[3] }
}

/// Bytes of a panel.
pub fn panel_bytes(inputs: usize) -> Option<usize> {
    let (whole, rest) = shape(inputs);
    whole.checked_mul(block_bytes(GROUPS))?.checked_add(block_bytes(rest))
}

/// Packs 16 rows; false where a scale is out of f16's range.
pub fn pack(rows: &[f32], inputs: usize, out: &mut [u8]) -> bool {
    let mut fits = true;
    let mut x = [[0.0f32; PANEL]; SUPERBLOCK];
    for (block, (groups, range)) in blocks(inputs, block_bytes).enumerate() {
        let length = SUPERBLOCK.min(inputs - block * SUPERBLOCK);
        for (i, row) in rows.chunks_exact(inputs).enumerate() {
            for (k, &v) in row[block * SUPERBLOCK..][..length].iter().enumerate() {
                x[k][i] = v;
            }
        }
        x[length..].fill([0.0; PANEL]);
        fits &= pack_block(&x, groups, length, &mut out[range]);
    }
    fits
}

fn pack_block(x: &[[f32; PANEL]; SUPERBLOCK], groups: usize, length: usize, out: &mut [u8]) -> bool {
    let [scales_at, lows_at, d_at, _] = offsets(groups);
    let fitted = fit::block(x, length);
    out[scales_at..lows_at].fill(0);
    for g in 0..groups {
        let codes = &fitted.codes[g * GROUP..][..GROUP];
        for j in 0..4 {
            for k in 0..4 {
                for i in 0..PANEL {
                    let (low, high) = (codes[4 * j + k][i], codes[16 + 4 * j + k][i]);
                    out[g * CODES + j * 64 + 4 * i + k] = low | high << 4;
                }
            }
        }
        for i in 0..PANEL {
            out[scales_at + g % HALF * PANEL + i] |= fitted.scales[g][i] << (g / HALF * 4);
            out[lows_at + g / 2 * 2 * PANEL + 2 * i + g % 2] = fitted.lows[g][i].to_le_bytes()[0];
        }
    }
    for (d, out) in fitted.steps.iter().zip(out[d_at..].chunks_exact_mut(2)) {
        out.copy_from_slice(&d.to_le_bytes());
    }
    fitted.steps.iter().all(|d| d.is_finite())
}

/// Access to single values of a block.
struct Block<'a> {
    bytes: &'a [u8],
    offsets: [usize; 4],
}

impl Block<'_> {
    fn new(bytes: &[u8], groups: usize) -> Block<'_> {
        Block { bytes, offsets: offsets(groups) }
    }

    fn code(&self, input: usize, output: usize) -> i32 {
        let (group, k) = (input / GROUP, input % GROUP);
        let byte = self.bytes[group * CODES + k % 16 / 4 * 64 + 4 * output + k % 4];
        i32::from(if k < 16 { byte & 15 } else { byte >> 4 })
    }

    fn scale(&self, group: usize, output: usize) -> i32 {
        let both = self.bytes[self.offsets[0] + group % HALF * PANEL + output];
        i32::from(if group < HALF { both & 15 } else { both >> 4 })
    }

    fn low(&self, group: usize, output: usize) -> i32 {
        i32::from(self.bytes[self.offsets[1] + group / 2 * 2 * PANEL + 2 * output + group % 2] as i8)
    }

    fn step(&self, output: usize) -> f32 {
        let at = self.offsets[2] + 2 * output;
        f16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32() * (1.0 / SCALE_BIAS)
    }
}

/// One row of a panel.
pub fn unpack(panel: &[u8], inputs: usize, row: usize, out: &mut [f32]) {
    for ((groups, range), out) in blocks(inputs, block_bytes).zip(out.chunks_mut(SUPERBLOCK)) {
        let block = Block::new(&panel[range], groups);
        let d = block.step(row);
        for (k, o) in out.iter_mut().enumerate() {
            let (scale, low) = (block.scale(k / GROUP, row), block.low(k / GROUP, row));
            *o = d * (scale * block.code(k, row) + low) as f32;
        }
    }
}

pub static BLOCKS: Blocks = Blocks { bytes: block_bytes, unpacking: None };

/// Portable code; the other levels equal it to the bit.
///
/// # Safety
/// See [`Kernel`].
unsafe fn scalar<const M: usize>(tile: &Tile) {
    let Tile { blocks, groups, w, x, x_stride, c, first, .. } = *tile;
    let size = block_bytes(groups);
    // SAFETY: the caller promises as many weights, activations and results.
    let (w, x, c) = unsafe {
        (
            std::slice::from_raw_parts(w, blocks * size),
            std::slice::from_raw_parts(x, (blocks - 1) * x_stride + M * Layout::I8Quads.words()),
            std::slice::from_raw_parts_mut(c, M * PANEL),
        )
    };
    if first {
        c.fill(0.0);
    }
    for (b, bytes) in w.chunks_exact(size).enumerate() {
        let block = Block::new(bytes, groups);
        let x = &x[b * x_stride..];
        for row in 0..M {
            let scale = f32::from_bits(x[(Layout::I8Quads.words() - 1) * M + row] as u32);
            for output in 0..PANEL {
                let mut i = 0i32;
                for g in 0..groups {
                    let mut sum = 0;
                    for k in g * GROUP..(g + 1) * GROUP {
                        let value = x[k / 4 * M + row].to_le_bytes()[k % 4] as i8;
                        sum += block.code(k, output) * i32::from(value);
                    }
                    i += sum * block.scale(g, output);
                    let sums = x[(SUPERBLOCK / 4 + g / 2) * M + row];
                    let sum = if g % 2 == 0 { sums as i16 } else { (sums >> 16) as i16 };
                    i += block.low(g, output) * i32::from(sum);
                }
                let c = &mut c[row * PANEL + output];
                *c = (i as f32 * block.step(output)).mul_add(scale, *c);
            }
        }
    }
}

static SCALARS: [Kernel; 4] = [scalar::<1>, scalar::<2>, scalar::<3>, scalar::<4>];
pub static KERNELS: Kernels =
    Kernels { layout: Layout::I8Quads, few: &SCALARS, many: &SCALARS, pairs: &[], by_rows: None };
