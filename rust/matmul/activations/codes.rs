//! Quantization of activations, block by block of a row.

use crate::matmul::layout::Layout;
use crate::matmul::panel::{GROUP, GROUPS, SUPERBLOCK};
use crate::simd::{LANES, Level, ROUND, Vector, multiversion};

/// Quantizes a block of one row to the codes of a layout.
pub fn quantize(level: Level, layout: Layout, x: &[f32; SUPERBLOCK], to: &mut [i32]) {
    let fits = "as many words as the layout has";
    match layout {
        Layout::F32 | Layout::F32Rows => {}
        Layout::Bf16Pairs => halves_at(level, x, to.try_into().expect(fits)),
        Layout::Bf16AsF32 => rounded_at(level, x, to.try_into().expect(fits)),
        Layout::I16Pairs => pairs_at(level, x, to.try_into().expect(fits)),
        Layout::I16Planes => planes_at(level, x, to.try_into().expect(fits)),
        Layout::I8GroupPairs => group_pairs_at(level, x, to.try_into().expect(fits)),
        Layout::I8GroupQuads => group_quads_at(level, x, to.try_into().expect(fits)),
        Layout::I8Quads => quads_at(level, x, to.try_into().expect(fits)),
    }
}

/// Scale of codes up to `max_code` and its inverse. NaN and infinities give a scale that is not finite, so
/// they show in the results; a maximum too small to divide by counts as zero.
#[inline(always)]
fn scale<V: Vector>(x: &[f32], max_code: f32) -> (f32, f32) {
    // Loops: iterator functions are not compiled for the instruction set.
    let mut top = V::splat(0.0);
    for x in x.chunks_exact(LANES) {
        top = top.max_magnitude(V::load(x));
    }
    let top = top.fold_magnitude();
    let inverse = if top > 1e-30 { max_code / top } else { 0.0 };
    (top * (1.0 / max_code), inverse)
}

/// Sixteen codes in the low bits of floats.
#[inline(always)]
fn codes<V: Vector>(x: &[f32], inverse: f32) -> V {
    V::load(x) * V::splat(inverse) + V::splat(ROUND)
}

/// The nearest bf16, ties to even, as the bits of an f32. NaN stays NaN; subnormal values become a zero of
/// their sign, as the CPU's bf16 products treat them.
#[inline(always)]
pub fn nearest_half(v: f32) -> u32 {
    const EXPONENT: u32 = 0x7f80_0000;
    let bits = v.to_bits();
    let near = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let near = if bits & !(1 << 31) > EXPONENT { bits | 1 << 22 } else { near };
    let near = if near & EXPONENT == 0 { near & 1 << 31 } else { near };
    near & 0xffff_0000
}

/// Codes of a group in quads, and their sum.
#[inline(always)]
fn quads_of_group<V: Vector>(x: &[f32], inverse: f32, out: &mut [i32]) -> i32 {
    let (a, b) = (codes::<V>(x, inverse), codes::<V>(&x[LANES..], inverse));
    out[..LANES / 4].copy_from_slice(&a.to_quads());
    out[LANES / 4..].copy_from_slice(&b.to_quads());
    sum(a, b)
}

/// Sum of a group's codes: exact, integers of at most 32 * 32767.
#[inline(always)]
fn sum<V: Vector>(a: V, b: V) -> i32 {
    ((a - V::splat(ROUND)) + (b - V::splat(ROUND))).fold_sum() as i32
}

/// The largest 16-bit code: its high byte, when the low one is signed, is 127.
pub const MAX_I16_CODE: f32 = 32639.0;

multiversion! {
    /// 16-bit codes of a block in pairs, each group followed by -128 times its sum, and a scale.
    fn pairs / pairs_at (x: &[f32; SUPERBLOCK], out: &mut [i32; Layout::I16Pairs.words()]) {
        let (scale, inverse) = scale::<Lanes>(x, MAX_I16_CODE);
        for (x, out) in x.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP / 2 + 1)) {
            let (a, b) = (codes::<Lanes>(x, inverse), codes::<Lanes>(&x[LANES..], inverse));
            out[..LANES / 2].copy_from_slice(&a.to_pairs());
            out[LANES / 2..LANES].copy_from_slice(&b.to_pairs());
            out[LANES] = -128 * sum(a, b);
        }
        out[Layout::I16Pairs.words() - 1] = scale.to_bits() as i32;
    }
}

multiversion! {
    /// The same codes in planes of high and low bytes.
    fn planes / planes_at (x: &[f32; SUPERBLOCK], out: &mut [i32; Layout::I16Planes.words()]) {
        let (scale, inverse) = scale::<Lanes>(x, MAX_I16_CODE);
        for (x, out) in x.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP / 2 + 1)) {
            let (a, b) = (codes::<Lanes>(x, inverse), codes::<Lanes>(&x[LANES..], inverse));
            out[..LANES / 4].copy_from_slice(&a.to_high_quads());
            out[LANES / 4..LANES / 2].copy_from_slice(&b.to_high_quads());
            out[LANES / 2..3 * LANES / 4].copy_from_slice(&a.to_quads());
            out[3 * LANES / 4..LANES].copy_from_slice(&b.to_quads());
            out[LANES] = -128 * sum(a, b);
        }
        out[Layout::I16Planes.words() - 1] = scale.to_bits() as i32;
    }
}

multiversion! {
    /// 8-bit codes of a block in quads, the sums of its groups (at most 32 * 127) in pairs, -128 times their
    /// total, and a scale.
    fn quads / quads_at (x: &[f32; SUPERBLOCK], out: &mut [i32; Layout::I8Quads.words()]) {
        let (scale, inverse) = scale::<Lanes>(x, 127.0);
        let mut sums = [0; GROUPS];
        for g in 0..GROUPS {
            let quads = &mut out[g * GROUP / 4..(g + 1) * GROUP / 4];
            sums[g] = quads_of_group::<Lanes>(&x[g * GROUP..], inverse, quads);
        }
        let mut all = 0;
        for sum in sums {
            all += sum;
        }
        out[Layout::I8Quads.words() - 2] = -128 * all;
        for (out, s) in out[SUPERBLOCK / 4..].iter_mut().zip(sums.chunks_exact(2)) {
            *out = (s[0] & 0xffff) | s[1] << 16;
        }
        out[Layout::I8Quads.words() - 1] = scale.to_bits() as i32;
    }
}

multiversion! {
    /// 8-bit codes of a block as i16 in pairs, -128 times their sum and a scale, group by group.
    fn group_pairs / group_pairs_at (x: &[f32; SUPERBLOCK], out: &mut [i32; Layout::I8GroupPairs.words()]) {
        for (x, out) in x.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP / 2 + 2)) {
            let (scale, inverse) = scale::<Lanes>(x, 127.0);
            let (a, b) = (codes::<Lanes>(x, inverse), codes::<Lanes>(&x[LANES..], inverse));
            out[..LANES / 2].copy_from_slice(&a.to_pairs());
            out[LANES / 2..LANES].copy_from_slice(&b.to_pairs());
            out[LANES] = -128 * sum(a, b);
            out[LANES + 1] = scale.to_bits() as i32;
        }
    }
}

multiversion! {
    /// 8-bit codes of a block in quads, -128 times their sum and a scale, group by group.
    fn group_quads / group_quads_at (x: &[f32; SUPERBLOCK], out: &mut [i32; Layout::I8GroupQuads.words()]) {
        for (x, out) in x.chunks_exact(GROUP).zip(out.chunks_exact_mut(GROUP / 4 + 2)) {
            let (scale, inverse) = scale::<Lanes>(x, 127.0);
            let sum = quads_of_group::<Lanes>(x, inverse, &mut out[..GROUP / 4]);
            out[GROUP / 4] = -128 * sum;
            out[GROUP / 4 + 1] = scale.to_bits() as i32;
        }
    }
}

multiversion! {
    /// bf16 values of a block in pairs.
    fn halves / halves_at (x: &[f32; SUPERBLOCK], out: &mut [i32; Layout::Bf16Pairs.words()]) {
        for (x, out) in x.chunks_exact(2).zip(out) {
            *out = (nearest_half(x[0]) >> 16 | nearest_half(x[1])) as i32;
        }
    }
}

multiversion! {
    /// The bf16 values of a block as f32, the second of each pair first.
    fn rounded / rounded_at (x: &[f32; SUPERBLOCK], out: &mut [i32; Layout::Bf16AsF32.words()]) {
        for (x, out) in x.chunks_exact(2).zip(out.chunks_exact_mut(2)) {
            out[0] = nearest_half(x[1]) as i32;
            out[1] = nearest_half(x[0]) as i32;
        }
    }
}
