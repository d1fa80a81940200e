//! Products with 4-bit weights: blocks of 256 inputs with a step, of which every group of 32 has a number as its scale and
//! eight times a number as its minimum: `weight = d * (scale[g] * code - 8 * min[g])`. The idea is that of llama.cpp's
//! Q4_K, with whole bytes and one step for both, so that a block's sum is one whole number.
//!
//! A block of 8 groups of a panel takes 2,336 bytes (4.5625 bits a weight):
//!
//! ```text
//! codes   [group 8][vector 4][output 16][4]   byte k of vector j: input 4 j + k low, input 16 + 4 j + k high
//! scales  [group 8][output 16] u8
//! minimums [pair of groups 4][output 16][2] u8
//! d       [output 16] f16, times 4096
//! ```
//!
//! and a shorter last block what its groups need. Activations are 8-bit with one scale for each 256 inputs of a row; a
//! result is, over blocks in order,
//!
//! ```text
//! i = sum of scale * code * x + min * (-8 * sum of x in the group)    exact
//! c = fma(i * d, scale of x, c)
//! ```

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
pub mod fit;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::quantized::{self, Kernel, Kernels, SCALE_BIAS, shape};
use super::strips::{BLOCK, GROUP, GROUPS, Kind, MINIMUM, Strips};
use super::{Matrix, PANEL};
use crate::simd::Level;
use half::f16;
use std::ops::Range;

/// Bytes of the codes of a group.
const CODES: usize = GROUP * PANEL / 2;

/// Where the parts of a block of `groups` groups begin: scales, minimums, d, and the end.
const fn offsets(groups: usize) -> [usize; 4] {
    let scales = groups * CODES;
    let minimums = scales + groups * PANEL;
    let d = minimums + groups.div_ceil(2) * 2 * PANEL;
    [scales, minimums, d, d + 2 * PANEL]
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

/// The blocks of a panel: number of groups and bytes of each.
fn blocks(inputs: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (whole, rest) = shape(inputs);
    let size = block_bytes(GROUPS);
    (0..whole)
        .map(move |b| (GROUPS, b * size..(b + 1) * size))
        .chain((rest > 0).then(|| (rest, whole * size..whole * size + block_bytes(rest))))
}

/// Packs 16 rows; false where a scale does not fit f16.
pub fn pack(rows: &[f32], inputs: usize, out: &mut [u8]) -> bool {
    let mut fits = true;
    let mut x = [[0.0f32; PANEL]; BLOCK];
    for (block, (groups, range)) in blocks(inputs).enumerate() {
        let length = BLOCK.min(inputs - block * BLOCK);
        for (i, row) in rows.chunks_exact(inputs).enumerate() {
            for (k, &v) in row[block * BLOCK..][..length].iter().enumerate() {
                x[k][i] = v;
            }
        }
        x[length..].fill([0.0; PANEL]);
        fits &= pack_block(&x, groups, length, &mut out[range]);
    }
    fits
}

fn pack_block(x: &[[f32; PANEL]; BLOCK], groups: usize, length: usize, out: &mut [u8]) -> bool {
    let [scales_at, minimums_at, d_at, _] = offsets(groups);
    // The best scale and minimum of each group, then the block's step, which has to reach both with 255.
    let mut fitted = [([0.0; PANEL], [0.0; PANEL]); GROUPS];
    let mut top = [0.0f32; PANEL];
    for (g, fitted) in fitted.iter_mut().enumerate().take(groups) {
        let n = GROUP.min(length - g * GROUP);
        *fitted = fit::group(&x[g * GROUP..g * GROUP + n]);
        for i in 0..PANEL {
            top[i] = top[i].max(fitted.0[i]).max(fitted.1[i] / f32::from(MINIMUM));
        }
    }
    let (mut fits, mut d) = (true, [0.0f32; PANEL]);
    for (i, top) in top.into_iter().enumerate() {
        let stored = f16::from_f32(top * (SCALE_BIAS / 255.0));
        fits &= stored.is_finite();
        out[d_at + 2 * i..][..2].copy_from_slice(&stored.to_le_bytes());
        d[i] = stored.to_f32() * (1.0 / SCALE_BIAS);
    }
    let whole = |value: f32, step: f32| {
        if step > 0.0 { (value / step).round_ties_even().clamp(0.0, 255.0) as u8 } else { 0 }
    };
    for (g, (scale, minimum)) in fitted.iter().enumerate().take(groups) {
        let (mut scales, mut minimums) = ([0.0; PANEL], [0.0; PANEL]);
        for i in 0..PANEL {
            let (s, m) = (whole(scale[i], d[i]), whole(minimum[i], f32::from(MINIMUM) * d[i]));
            out[scales_at + g * PANEL + i] = s;
            out[minimums_at + g / 2 * 2 * PANEL + 2 * i + g % 2] = m;
            (scales[i], minimums[i]) = (d[i] * f32::from(s), d[i] * f32::from(MINIMUM * i16::from(m)));
        }
        let codes = fit::codes(&x[g * GROUP..(g + 1) * GROUP], &scales, &minimums);
        for j in 0..4 {
            for k in 0..4 {
                for i in 0..PANEL {
                    let (low, high) = (codes[4 * j + k][i], codes[16 + 4 * j + k][i]);
                    out[g * CODES + j * 64 + 4 * i + k] = low | high << 4;
                }
            }
        }
    }
    fits
}

/// A block of a panel, read value by value.
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
        i32::from(self.bytes[self.offsets[0] + group * PANEL + output])
    }

    fn minimum(&self, group: usize, output: usize) -> i32 {
        i32::from(self.bytes[self.offsets[1] + group / 2 * 2 * PANEL + 2 * output + group % 2])
    }

    fn step(&self, output: usize) -> f32 {
        let at = self.offsets[2] + 2 * output;
        f16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).to_f32() * (1.0 / SCALE_BIAS)
    }
}

/// One row of a panel.
pub fn unpack(panel: &[u8], inputs: usize, row: usize, out: &mut [f32]) {
    for ((groups, range), out) in blocks(inputs).zip(out.chunks_mut(BLOCK)) {
        let block = Block::new(&panel[range], groups);
        let d = block.step(row);
        for (k, o) in out.iter_mut().enumerate() {
            let (s, m) = (block.scale(k / GROUP, row), block.minimum(k / GROUP, row));
            *o = d * (s * block.code(k, row) - i32::from(MINIMUM) * m) as f32;
        }
    }
}

/// Kernels of a level.
pub fn kernels(level: Level) -> &'static Kernels {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &avx512::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => &avxvnni::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &avx2::KERNELS,
        #[cfg(target_arch = "aarch64")]
        Level::I8mm => &neon::I8MM,
        #[cfg(target_arch = "aarch64")]
        Level::Dotprod => &neon::DOTPROD,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => &neon::KERNELS,
        _ => &SCALAR,
    }
}

/// See [`quantized::product`].
pub fn product(
    kernels: &Kernels,
    w: &Matrix,
    panels: Range<usize>,
    s: &Strips,
    tiles: Range<usize>,
    out: &mut [f32],
) {
    quantized::product(kernels, block_bytes, w, panels, s, tiles, out);
}

/// Portable code, and what the others must equal to the bit.
///
/// # Safety
/// See [`Kernel`].
unsafe fn scalar<const M: usize>(
    blocks: usize,
    groups: usize,
    w: *const u8,
    x: *const i32,
    x_stride: usize,
    c: *mut f32,
    _: *const u8,
    _: usize,
    first: bool,
) {
    let size = block_bytes(groups);
    // SAFETY: the caller promises as many weights, strips and results.
    let (w, x, c) = unsafe {
        (
            std::slice::from_raw_parts(w, blocks * size),
            std::slice::from_raw_parts(x, (blocks - 1) * x_stride + M * Kind::Quads.words()),
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
            let scale = f32::from_bits(x[(BLOCK / 4 + GROUPS / 2) * M + row] as u32);
            for output in 0..PANEL {
                let mut i = 0i32;
                for g in 0..groups {
                    let mut sum = 0;
                    for k in g * GROUP..(g + 1) * GROUP {
                        let value = x[k / 4 * M + row].to_le_bytes()[k % 4] as i8;
                        sum += block.code(k, output) * i32::from(value);
                    }
                    i += sum * block.scale(g, output);
                    let sums = x[(BLOCK / 4 + g / 2) * M + row];
                    let sum = if g % 2 == 0 { sums as i16 } else { (sums >> 16) as i16 };
                    i += block.minimum(g, output) * i32::from(sum);
                }
                let c = &mut c[row * PANEL + output];
                *c = (i as f32 * block.step(output)).mul_add(scale, *c);
            }
        }
    }
}

static SCALARS: [Kernel; 4] = [scalar::<1>, scalar::<2>, scalar::<3>, scalar::<4>];
static SCALAR: Kernels =
    Kernels { kind: Kind::Quads, few: &SCALARS, many: &SCALARS, pairs: &[], by_rows: None };
