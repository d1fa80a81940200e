//! Products with 8-bit weights: groups of 32 inputs with a scale each, in blocks of 256.
//!
//! A block of 8 groups of a panel takes 4,352 bytes: codes `[group 8][input quad 8][output 16][4]` u8 of -127
//! to 127 plus 128, then scales `[group 8][output 16]` f16 times 4096; a shorter last block takes what its
//! groups need, rounded up to 64, so that no load of codes crosses a cache line. Biased bytes suit
//! multiplications of unsigned by signed bytes, and a mask and a shift split them into pairs of 16 bits;
//! these compute `sum (code + 128) * x - 128 * sum x`. With 16-bit activations (one scale for each 256 inputs
//! of a row) a result is, over blocks of 256 inputs and their groups g in order,
//!
//! ```text
//! i = sum of code * x          exact, 32 * 127 * 32639 < 2^31
//! t = fma(i, scale[g], t)      from 0 in each block
//! c = fma(t, scale of x, c)    after each block
//! ```
//!
//! and with 8-bit activations (a scale per group, as in llama.cpp's Q8_0) `t = fma(i * scale[g], scale of
//! x[g], t)`, `c = c + t`.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "x86_64")]
pub mod avxvnni;
pub(super) mod fit;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(target_arch = "x86_64")]
pub mod unpacked;

use super::layout::Layout;
use super::panel::{GROUP, GROUPS, PANEL};
use super::quantized::{Blocks, Kernel, Kernels, SCALE_BIAS, Tile, shape};
use half::f16;

/// The largest code.
const MAX_CODE: f32 = 127.0;
/// Distance between the scales that are tried, see [`fit::group`].
const STEP: f32 = 0.375;
/// The byte of code zero.
pub const ZERO: u8 = 128;
/// Bytes of the codes of a group.
const CODES: usize = GROUP * PANEL;
/// Quads of inputs in a group.
const QUADS: usize = GROUP / 4;
/// Bytes of the scales of a group.
const SCALES: usize = 2 * PANEL;

/// Bytes of a whole block per group.
#[cfg(target_arch = "x86_64")]
const GROUP_BYTES: usize = CODES + SCALES;

/// Bytes of a block of `groups` groups.
pub const fn block_bytes(groups: usize) -> usize {
    groups * CODES + (groups * SCALES).next_multiple_of(64)
}

pub static BLOCKS: Blocks = Blocks { bytes: block_bytes, unpacking: None };

/// Bytes of a panel.
pub fn panel_bytes(inputs: usize) -> Option<usize> {
    let (whole, rest) = shape(inputs);
    whole.checked_mul(block_bytes(GROUPS))?.checked_add(block_bytes(rest))
}

/// Packs 16 rows; false where a scale is out of f16's range.
pub fn pack(rows: &[f32], inputs: usize, out: &mut [u8]) -> bool {
    quantize(rows, inputs, MAX_CODE, STEP, out)
}

/// The same with codes of at most `max_code`; see [`fit::group`] for `step`.
pub fn quantize(rows: &[f32], inputs: usize, max_code: f32, step: f32, out: &mut [u8]) -> bool {
    let mut fits = true;
    let mut x = [[0.0f32; PANEL]; GROUP];
    for g in 0..inputs.div_ceil(GROUP) {
        let length = GROUP.min(inputs - g * GROUP);
        for (i, row) in rows.chunks_exact(inputs).enumerate() {
            for (x, &v) in x.iter_mut().zip(&row[g * GROUP..][..length]) {
                x[i] = v;
            }
        }
        x[length..].fill([0.0; PANEL]);
        let fitted = fit::group(&x, max_code, step);
        let (codes_at, scales_at) = offsets(inputs, g);
        for (quad, out) in
            fitted.codes.chunks_exact(4).zip(out[codes_at..][..CODES].chunks_exact_mut(4 * PANEL))
        {
            for (i, out) in out.chunks_exact_mut(4).enumerate() {
                for (out, codes) in out.iter_mut().zip(quad) {
                    *out = codes[i].wrapping_add(ZERO);
                }
            }
        }
        for (scale, out) in fitted.scales.iter().zip(out[scales_at..][..SCALES].chunks_exact_mut(2)) {
            fits &= scale.is_finite();
            out.copy_from_slice(&scale.to_le_bytes());
        }
    }
    fits
}

/// Offsets of the codes and the scales of a group in a panel.
pub fn offsets(inputs: usize, group: usize) -> (usize, usize) {
    let (whole, rest) = shape(inputs);
    let (block, g) = (group / GROUPS, group % GROUPS);
    let groups = if block < whole { GROUPS } else { rest };
    let start = block * block_bytes(GROUPS);
    (start + g * CODES, start + groups * CODES + g * SCALES)
}

fn scale(scales: &[u8], output: usize) -> f32 {
    f16::from_le_bytes([scales[2 * output], scales[2 * output + 1]]).to_f32() * (1.0 / SCALE_BIAS)
}

fn code(codes: &[u8], input: usize, output: usize) -> i32 {
    i32::from(codes[input / 4 * 4 * PANEL + 4 * output + input % 4]) - 128
}

/// One row of a panel.
pub fn unpack(panel: &[u8], row: usize, out: &mut [f32]) {
    let inputs = out.len();
    for (g, out) in out.chunks_mut(GROUP).enumerate() {
        let (codes_at, scales_at) = offsets(inputs, g);
        let scale = scale(&panel[scales_at..], row);
        let codes = panel[codes_at..][..CODES].chunks_exact(4 * PANEL);
        for (codes, out) in codes.zip(out.chunks_mut(4)) {
            let codes = codes[4 * row..].first_chunk::<4>().expect("a quad");
            for (o, code) in out.iter_mut().zip(codes) {
                *o = (i32::from(*code) - i32::from(ZERO)) as f32 * scale;
            }
        }
    }
}

/// Portable code; the other levels equal it to the bit.
///
/// # Safety
/// See [`Kernel`].
unsafe fn scalar<const M: usize, const I8: bool>(tile: &Tile) {
    let Tile { blocks, groups, w, x, x_stride, c, first, .. } = *tile;
    let layout = if I8 { Layout::I8GroupPairs } else { Layout::I16Pairs };
    // SAFETY: the caller promises as many weights, activations and results.
    let (w, x, c) = unsafe {
        (
            std::slice::from_raw_parts(w, blocks * block_bytes(groups)),
            std::slice::from_raw_parts(x, (blocks - 1) * x_stride + M * layout.words()),
            std::slice::from_raw_parts_mut(c, M * PANEL),
        )
    };
    if first {
        c.fill(0.0);
    }
    // Words of a group.
    let words = if I8 { GROUP / 2 + 2 } else { GROUP / 2 + 1 };
    for (block, w) in w.chunks_exact(block_bytes(groups)).enumerate() {
        let x = &x[block * x_stride..];
        for row in 0..M {
            let mut t = [0.0f32; PANEL];
            for g in 0..groups {
                let (codes, scales) = (&w[g * CODES..], &w[groups * CODES + g * SCALES..]);
                for output in 0..PANEL {
                    let mut sum = 0i32;
                    for k in 0..GROUP {
                        // Of each four inputs the first and third form a pair, and the second and fourth.
                        let word = x[(g * words + k / 4 * 2 + k % 2) * M + row];
                        let value = if k % 4 < 2 { word as i16 } else { (word >> 16) as i16 };
                        sum += code(codes, k, output) * i32::from(value);
                    }
                    let d = scale(scales, output);
                    t[output] = if I8 {
                        let dx = f32::from_bits(x[(g * words + GROUP / 2 + 1) * M + row] as u32);
                        (sum as f32 * d).mul_add(dx, t[output])
                    } else {
                        (sum as f32).mul_add(d, t[output])
                    };
                }
            }
            let c = &mut c[row * PANEL..][..PANEL];
            let dx = f32::from_bits(x[(layout.words() - 1) * M + row] as u32);
            for (c, t) in c.iter_mut().zip(t) {
                *c = if I8 { *c + t } else { t.mul_add(dx, *c) };
            }
        }
    }
}

const fn scalars<const I8: bool>() -> [Kernel; 4] {
    [scalar::<1, I8>, scalar::<2, I8>, scalar::<3, I8>, scalar::<4, I8>]
}
pub static I16_ACTIVATIONS: Kernels = Kernels {
    layout: Layout::I16Pairs,
    few: &scalars::<false>(),
    many: &scalars::<false>(),
    pairs: &[],
    by_rows: None,
};
pub static I8_ACTIVATIONS: Kernels = Kernels {
    layout: Layout::I8GroupPairs,
    few: &scalars::<true>(),
    many: &scalars::<true>(),
    pairs: &[],
    by_rows: None,
};
