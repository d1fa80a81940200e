//! Dot products of bytes with `FEAT_DotProd` and `FEAT_I8MM`.

use super::{Biased, Codes, Dots, QUADS, Sums, words, zero};
use crate::matmul::layout::Layout;
use std::arch::aarch64::*;
use std::arch::asm;

/// `FEAT_DotProd`: four products per lane.
pub struct Dotprod;

/// # Safety
/// The CPU has dotprod.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn sdot<const LANE: i32>(mut s: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("sdot {s:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]", s = inout(vreg) s, w = in(vreg) w, x = in(vreg) x,
            lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    s
}

/// Adds the products of four inputs of 16 outputs. Unrolled by hand: closures are not compiled for the
/// extension.
///
/// # Safety
/// The CPU has dotprod.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn fours<const LANE: i32>(s: [int32x4_t; 4], w: [int8x16_t; 4], x: int8x16_t) -> [int32x4_t; 4] {
    // SAFETY: as promised.
    unsafe {
        [
            sdot::<LANE>(s[0], w[0], x),
            sdot::<LANE>(s[1], w[1], x),
            sdot::<LANE>(s[2], w[2], x),
            sdot::<LANE>(s[3], w[3], x),
        ]
    }
}

impl Dotprod {
    /// Sums of a plane of activations, `[quad 8][M]`.
    ///
    /// # Safety
    /// As [`Dots::dot_i8`].
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn plane<C: Codes, const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        let mut s = zero::<M>();
        // SAFETY: as promised.
        unsafe {
            macro_rules! step {
                ($q:literal) => {
                    let w = C::quad::<$q>(w);
                    let x = vreinterpretq_s8_s32(words::<M>(x.add($q * M)));
                    macro_rules! row {
                        ($i:literal) => {
                            if $i < M {
                                s[$i] = fours::<$i>(s[$i], w, x);
                            }
                        };
                    }
                    each_row!(row);
                };
            }
            each_quad!(step);
        }
        s
    }
}

/// `256 high + low`.
#[inline(always)]
unsafe fn join<const M: usize>(high: Sums<M>, mut low: Sums<M>) -> Sums<M> {
    for i in 0..M {
        for o in 0..4 {
            // SAFETY: NEON belongs to the architecture.
            low[i][o] = unsafe { vaddq_s32(low[i][o], vshlq_n_s32::<8>(high[i][o])) };
        }
    }
    low
}

impl Dots for Dotprod {
    const I16_LAYOUT: Layout = Layout::I16Planes;

    #[inline(always)]
    unsafe fn dot_i8<C: Codes, const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        // SAFETY: as promised.
        unsafe { Dotprod::plane::<C, M>(w, x) }
    }

    #[inline(always)]
    unsafe fn dot_i16<const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        // SAFETY: as promised.
        unsafe {
            let high = Dotprod::plane::<Biased, M>(w, x);
            join(high, Dotprod::plane::<Biased, M>(w, x.add(QUADS * M)))
        }
    }
}

/// `[output 4][4]` of two quads as `[output 2][8]`, twice.
#[inline(always)]
fn eights(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: NEON belongs to the architecture.
    unsafe {
        let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
        [vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))]
    }
}

/// `FEAT_I8MM`: two rows by two outputs over eight inputs per instruction.
pub struct I8mm;

impl I8mm {
    /// `s + x w`, `x: [row 2][input 8]`, `w: [output 2][input 8]`, `s: [row 2][output 2]`.
    ///
    /// # Safety
    /// The CPU has i8mm.
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    unsafe fn multiply(mut s: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: arithmetic on registers.
        unsafe {
            asm!("smmla {s:v}.4s, {x:v}.16b, {w:v}.16b", s = inout(vreg) s, x = in(vreg) x, w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags));
        }
        s
    }

    /// Sums of a plane of activations, `[quad 8][M]`.
    ///
    /// # Safety
    /// As [`Dots::dot_i8`].
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    unsafe fn plane<C: Codes, const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        let mut out = zero::<M>();
        // SAFETY: as promised; the second row of an odd last pair is the word behind, and its sums are
        // dropped.
        unsafe {
            macro_rules! half {
                ($half:literal) => {
                    // By pair of rows, up to four.
                    let mut s = zero::<4>();
                    macro_rules! step {
                        ($a:literal, $b:literal) => {
                            let (a, b) = (C::quad::<$a>(w), C::quad::<$b>(w));
                            let [w0, w1] = eights(a[2 * $half], b[2 * $half]);
                            let [w2, w3] = eights(a[2 * $half + 1], b[2 * $half + 1]);
                            macro_rules! rows {
                                ($r:literal) => {
                                    if 2 * $r < M {
                                        let a = vld1_s32(x.add($a * M + 2 * $r));
                                        let b = vld1_s32(x.add($b * M + 2 * $r));
                                        let x = vcombine_s32(vzip1_s32(a, b), vzip2_s32(a, b));
                                        let x = vreinterpretq_s8_s32(x);
                                        s[$r] = [
                                            I8mm::multiply(s[$r][0], x, w0),
                                            I8mm::multiply(s[$r][1], x, w1),
                                            I8mm::multiply(s[$r][2], x, w2),
                                            I8mm::multiply(s[$r][3], x, w3),
                                        ];
                                    }
                                };
                            }
                            each_row!(rows);
                        };
                    }
                    each_two_quads!(step);
                    macro_rules! rows {
                        ($r:literal) => {
                            for k in 0..2 {
                                let a = vreinterpretq_s64_s32(s[$r][2 * k]);
                                let b = vreinterpretq_s64_s32(s[$r][2 * k + 1]);
                                if 2 * $r < M {
                                    out[2 * $r][2 * $half + k] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
                                }
                                if 2 * $r + 1 < M {
                                    out[2 * $r + 1][2 * $half + k] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
                                }
                            }
                        };
                    }
                    each_row!(rows);
                };
            }
            half!(0);
            half!(1);
        }
        out
    }
}

impl Dots for I8mm {
    const I16_LAYOUT: Layout = Layout::I16Planes;

    /// A single row has no pair.
    #[inline(always)]
    unsafe fn dot_i8<C: Codes, const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        // SAFETY: as promised.
        unsafe {
            if M == 1 {
                return [Dotprod::dot_i8::<C, 1>(w, x)[0]; M];
            }
            I8mm::plane::<C, M>(w, x)
        }
    }

    #[inline(always)]
    unsafe fn dot_i16<const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        // SAFETY: as promised.
        unsafe {
            if M == 1 {
                return [Dotprod::dot_i16::<1>(w, x)[0]; M];
            }
            let high = I8mm::plane::<Biased, M>(w, x);
            join(high, I8mm::plane::<Biased, M>(w, x.add(QUADS * M)))
        }
    }
}
