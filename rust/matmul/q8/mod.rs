//! Products with 8-bit weights: groups of 32 inputs with a scale each.
//!
//! A group of a panel takes 544 bytes: codes `[input pair 16][output 16][2]` i8 of -127 to 127, then scales
//! `[output 16]` f16 times 4096. With 16-bit activations (one scale for each 256 inputs of a row) a result is,
//! over blocks of 256 inputs and their groups g in order,
//!
//! ```text
//! i = sum of code * x          exact, 32 * 127 * 32767 < 2^31
//! t = fma(i, scale[g], t)      from 0 in each block
//! c = fma(t, scale of x, c)    after each block
//! ```
//!
//! and with 8-bit activations (a scale for each group, as llama.cpp's Q8_0 has it)
//! `t = fma(i * scale[g], scale of x[g], t)`, `c = c + t`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::quantized::{self, Kernel, Kernels, SCALE_BIAS};
use super::strips::{GROUP, GROUPS, Kind, Strips};
use super::{Activations, Matrix, PANEL};
use crate::simd::{Level, multiversion};
use half::f16;
use std::ops::Range;

/// Bytes of the codes of a group.
const CODES: usize = GROUP * PANEL;
/// Bytes of a group.
const BYTES: usize = CODES + 2 * PANEL;

/// Bytes of `groups` groups.
pub fn block_bytes(groups: usize) -> usize {
    groups * BYTES
}

/// Bytes of a panel.
pub fn panel_bytes(inputs: usize) -> Option<usize> {
    inputs.div_ceil(GROUP).checked_mul(BYTES)
}

/// Packs 16 rows, each code the nearest to its weight; false where a scale does not fit f16.
pub fn pack(rows: &[f32], inputs: usize, out: &mut [u8]) -> bool {
    let mut fits = true;
    for (i, row) in rows.chunks_exact(inputs).enumerate() {
        for (group, out) in row.chunks(GROUP).zip(out.chunks_exact_mut(BYTES)) {
            let mut values = [0.0; GROUP];
            values[..group.len()].copy_from_slice(group);
            let scale = f16::from_f32(largest(&values) * (SCALE_BIAS / 127.0));
            fits &= scale.is_finite();
            let scale_f32 = scale.to_f32() * (1.0 / SCALE_BIAS);
            let inverse = if scale_f32 > 0.0 { 1.0 / scale_f32 } else { 0.0 };
            let mut codes = [0; GROUP];
            nearest(&values, inverse, &mut codes);
            for (pair, codes) in codes.chunks_exact(2).enumerate() {
                out[pair * 2 * PANEL + 2 * i..][..2].copy_from_slice(codes);
            }
            out[CODES + 2 * i..][..2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    fits
}

multiversion! {
    /// The largest magnitude of a group.
    fn largest / largest_at (x: &[f32; GROUP]) -> f32 {
        let mut top = 0.0f32;
        for v in x {
            let v = v.abs();
            top = if v > top { v } else { top };
        }
        top
    }
}

multiversion! {
    /// The codes of a group, as bytes.
    fn nearest / nearest_at (x: &[f32; GROUP], inverse: f32, codes: &mut [u8; GROUP]) {
        for (code, v) in codes.iter_mut().zip(x) {
            let v = (v * inverse).round_ties_even();
            let v = if v > 127.0 { 127.0 } else { v };
            let v = if v < -127.0 { -127.0 } else { v };
            *code = v as i32 as u8;
        }
    }
}

fn scale(group: &[u8], output: usize) -> f32 {
    let at = CODES + 2 * output;
    f16::from_le_bytes([group[at], group[at + 1]]).to_f32() * (1.0 / SCALE_BIAS)
}

fn code(group: &[u8], input: usize, output: usize) -> i8 {
    group[input / 2 * 2 * PANEL + 2 * output + input % 2] as i8
}

/// One row of a panel.
pub fn unpack(panel: &[u8], row: usize, out: &mut [f32]) {
    for (group, out) in panel.chunks_exact(BYTES).zip(out.chunks_mut(GROUP)) {
        let scale = scale(group, row);
        for (k, o) in out.iter_mut().enumerate() {
            *o = f32::from(code(group, k, row)) * scale;
        }
    }
}

/// Kernels of a level for 16-bit or 8-bit activations.
pub fn kernels(level: Level, activations: Activations) -> &'static Kernels {
    match (level, activations) {
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Activations::Int16) => &avx512::WIDE,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Activations::Int8) => &avx512::NARROW,
        #[cfg(target_arch = "x86_64")]
        (Level::AvxVnni, Activations::Int16) => &avxvnni::WIDE,
        #[cfg(target_arch = "x86_64")]
        (Level::AvxVnni, Activations::Int8) => &avxvnni::NARROW,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Activations::Int16) => &avx2::WIDE,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Activations::Int8) => &avx2::NARROW,
        #[cfg(target_arch = "aarch64")]
        (Level::I8mm, Activations::Int16) => &neon::I8MM_WIDE,
        #[cfg(target_arch = "aarch64")]
        (Level::I8mm, Activations::Int8) => &neon::I8MM_NARROW,
        #[cfg(target_arch = "aarch64")]
        (Level::Dotprod, Activations::Int16) => &neon::DOTPROD_WIDE,
        #[cfg(target_arch = "aarch64")]
        (Level::Dotprod, Activations::Int8) => &neon::DOTPROD_NARROW,
        #[cfg(target_arch = "aarch64")]
        (Level::Neon, Activations::Int16) => &neon::WIDE,
        #[cfg(target_arch = "aarch64")]
        (Level::Neon, Activations::Int8) => &neon::NARROW,
        (_, Activations::Int16) => &WIDE,
        (_, Activations::Int8) => &NARROW,
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
unsafe fn scalar<const M: usize, const NARROW: bool>(
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
    let kind = if NARROW { Kind::GroupPairs } else { Kind::Pairs };
    // SAFETY: the caller promises as many weights, strips and results.
    let (w, x, c) = unsafe {
        (
            std::slice::from_raw_parts(w, blocks * groups * BYTES),
            std::slice::from_raw_parts(x, (blocks - 1) * x_stride + M * kind.words()),
            std::slice::from_raw_parts_mut(c, M * PANEL),
        )
    };
    if first {
        c.fill(0.0);
    }
    // Words of a group, and where the scale of the block is.
    let words = if NARROW { GROUP / 2 + 1 } else { GROUP / 2 };
    for block in 0..blocks {
        let x = &x[block * x_stride..];
        for row in 0..M {
            let mut t = [0.0f32; PANEL];
            for g in 0..groups {
                let group = &w[(block * groups + g) * BYTES..][..BYTES];
                for output in 0..PANEL {
                    let mut sum = 0i32;
                    for k in 0..GROUP {
                        let word = x[(g * words + k / 2) * M + row];
                        let value = if k % 2 == 0 { word as i16 } else { (word >> 16) as i16 };
                        sum += i32::from(code(group, k, output)) * i32::from(value);
                    }
                    let d = scale(group, output);
                    t[output] = if NARROW {
                        let dx = f32::from_bits(x[(g * words + GROUP / 2) * M + row] as u32);
                        (sum as f32 * d).mul_add(dx, t[output])
                    } else {
                        (sum as f32).mul_add(d, t[output])
                    };
                }
            }
            let c = &mut c[row * PANEL..][..PANEL];
            let dx = f32::from_bits(x[GROUPS * GROUP / 2 * M + row] as u32);
            for (c, t) in c.iter_mut().zip(t) {
                *c = if NARROW { *c + t } else { t.mul_add(dx, *c) };
            }
        }
    }
}

const fn scalars<const NARROW: bool>() -> [Kernel; 4] {
    [scalar::<1, NARROW>, scalar::<2, NARROW>, scalar::<3, NARROW>, scalar::<4, NARROW>]
}
static WIDE: Kernels =
    Kernels { kind: Kind::Pairs, few: &scalars::<false>(), many: &scalars::<false>(), pairs: &[] };
static NARROW: Kernels =
    Kernels { kind: Kind::GroupPairs, few: &scalars::<true>(), many: &scalars::<true>(), pairs: &[] };
