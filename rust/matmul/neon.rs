//! Shared by the NEON kernels: loads, f16, and dot products of bytes over a group of 32 inputs, which every
//! 64-bit ARM computes and newer ones compute faster (`FEAT_DotProd`, `FEAT_I8MM`).
//!
//! Instructions of the two extensions are in assembly, as stable Rust has no intrinsics for them. Kernels are
//! generic bodies over [`Dots`], inlined into functions that are compiled for the extension ([`entry!`]).

use super::layout::Layout;
use super::panel::GROUP;
use super::quantized::SCALE_BIAS;
use crate::simd::f16_to_f32;
use std::arch::aarch64::*;

/// Integers of 16 outputs for each of M rows.
pub type Sums<const M: usize> = [[int32x4_t; 4]; M];

/// Quads of inputs in a group.
const QUADS: usize = GROUP / 4;

/// `$step!(row)` for up to four rows of a tile: a row is a lane of an instruction, and loops are not always
/// unrolled in time.
macro_rules! each_row {
    ($step:ident) => {
        $step!(0);
        $step!(1);
        $step!(2);
        $step!(3);
    };
}

/// `$step!(quad)` for each quad of a group: its number is a constant of the instructions.
macro_rules! each_quad {
    ($step:ident) => {
        $step!(0);
        $step!(1);
        $step!(2);
        $step!(3);
        $step!(4);
        $step!(5);
        $step!(6);
        $step!(7);
    };
}

/// The same for two quads at a time.
macro_rules! each_two_quads {
    ($step:ident) => {
        $step!(0, 1);
        $step!(2, 3);
        $step!(4, 5);
        $step!(6, 7);
    };
}

// After the macros that it uses.
pub mod extensions;

/// M words, 1 to 4, as lanes; the remaining lanes repeat them.
///
/// # Safety
/// M words lie behind `x`.
#[inline(always)]
pub unsafe fn words<const M: usize>(x: *const i32) -> int32x4_t {
    const { assert!(M >= 1 && M <= 4) };
    // SAFETY: as promised.
    unsafe {
        if M == 4 {
            return vld1q_s32(x);
        }
        if M == 1 {
            return vld1q_dup_s32(x);
        }
        let two = vld1_s32(x);
        let two = vcombine_s32(two, two);
        if M == 2 { two } else { vld1q_lane_s32::<2>(x.add(2), two) }
    }
}

/// Four f16 as f32.
///
/// # Safety
/// Four f16 lie behind `at`.
#[inline(always)]
pub unsafe fn halves(at: *const u8) -> float32x4_t {
    // SAFETY: as promised.
    f16_to_f32(unsafe { vld1_u16(at.cast()) })
}

/// Scales of 16 outputs, stored as f16 with a bias.
///
/// # Safety
/// 16 f16 lie behind `at`.
#[inline(always)]
pub unsafe fn scales(at: *const u8) -> [float32x4_t; 4] {
    // SAFETY: as promised.
    unsafe {
        let mut out = [vdupq_n_f32(0.0); 4];
        for o in 0..4 {
            out[o] = vmulq_n_f32(halves(at.add(8 * o)), 1.0 / SCALE_BIAS);
        }
        out
    }
}

/// How the codes of a group of 32 inputs and 16 outputs are stored.
pub trait Codes {
    /// Signed codes of four successive inputs, `[output 16][4]`.
    ///
    /// # Safety
    /// A whole group lies behind `group`; `QUAD` is below 8.
    unsafe fn quad<const QUAD: usize>(group: *const u8) -> [int8x16_t; 4];
}

/// Bytes `[input quad 8][output 16][4]`: codes plus 128.
pub struct Biased;

impl Codes for Biased {
    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(group: *const u8) -> [int8x16_t; 4] {
        // SAFETY: as promised.
        unsafe {
            let (v, flip) = (vld1q_s8_x4(group.add(64 * QUAD).cast()), vdupq_n_s8(-128));
            [veorq_s8(v.0, flip), veorq_s8(v.1, flip), veorq_s8(v.2, flip), veorq_s8(v.3, flip)]
        }
    }
}

/// Dot products over a group of 32 inputs.
pub trait Dots {
    /// Layout of 16-bit activations.
    const I16_LAYOUT: Layout;

    /// With 8-bit activations: words of four inputs `[quad 8][M]`.
    ///
    /// # Safety
    /// The CPU has the instructions; a group of codes lies behind `w`, one of activations and one more word
    /// behind `x`.
    unsafe fn dot_i8<C: Codes, const M: usize>(w: *const u8, x: *const i32) -> Sums<M>;

    /// With 16-bit activations in [`Dots::I16_LAYOUT`] and [`Biased`] codes.
    ///
    /// # Safety
    /// As `dot_i8`.
    unsafe fn dot_i16<const M: usize>(w: *const u8, x: *const i32) -> Sums<M>;
}

#[inline(always)]
fn zero<const M: usize>() -> Sums<M> {
    // SAFETY: NEON belongs to the architecture.
    unsafe { [[vdupq_n_s32(0); 4]; M] }
}

/// The multiplications of plain NEON.
pub struct Plain;

impl Dots for Plain {
    const I16_LAYOUT: Layout = Layout::I16Pairs;

    /// Sums of two quads' products fit 16 bits (2 * 128 * 127); they are then added in pairs.
    #[inline(always)]
    unsafe fn dot_i8<C: Codes, const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        let mut out = zero();
        // SAFETY: as promised.
        unsafe {
            for half in 0..2 {
                let mut s = zero::<M>();
                macro_rules! step {
                    ($a:literal, $b:literal) => {
                        let (a, b) = (C::quad::<$a>(w), C::quad::<$b>(w));
                        let (xa, xb) = (words::<M>(x.add($a * M)), words::<M>(x.add($b * M)));
                        macro_rules! row {
                            ($i:literal) => {
                                if $i < M {
                                    let ya = vreinterpretq_s8_s32(vdupq_laneq_s32::<$i>(xa));
                                    let yb = vreinterpretq_s8_s32(vdupq_laneq_s32::<$i>(xb));
                                    for k in 0..2 {
                                        let (a, b) = (a[2 * half + k], b[2 * half + k]);
                                        let low = vmull_s8(vget_low_s8(a), vget_low_s8(ya));
                                        let low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(yb));
                                        let high = vmlal_high_s8(vmull_high_s8(a, ya), b, yb);
                                        s[$i][2 * k] = vpadalq_s16(s[$i][2 * k], low);
                                        s[$i][2 * k + 1] = vpadalq_s16(s[$i][2 * k + 1], high);
                                    }
                                }
                            };
                        }
                        each_row!(row);
                    };
                }
                each_two_quads!(step);
                for i in 0..M {
                    for k in 0..2 {
                        out[i][2 * half + k] = vpaddq_s32(s[i][2 * k], s[i][2 * k + 1]);
                    }
                }
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn dot_i16<const M: usize>(w: *const u8, x: *const i32) -> Sums<M> {
        let mut s = zero();
        // SAFETY: as promised.
        unsafe {
            for q in 0..QUADS {
                // The codes of one input in each register.
                let (v, flip) = (vld4q_s8(w.add(64 * q).cast()), vdupq_n_s8(-128));
                for (p, [a, b]) in [[v.0, v.2], [v.1, v.3]].into_iter().enumerate() {
                    let (a, b) = (veorq_s8(a, flip), veorq_s8(b, flip));
                    let w = [
                        [vmovl_s8(vget_low_s8(a)), vmovl_high_s8(a)],
                        [vmovl_s8(vget_low_s8(b)), vmovl_high_s8(b)],
                    ];
                    let x = vreinterpretq_s16_s32(words::<M>(x.add((2 * q + p) * M)));
                    macro_rules! row {
                        ($i:literal) => {
                            if $i < M {
                                s[$i] = pair::<{ 2 * $i }, { 2 * $i + 1 }>(s[$i], w, x);
                            }
                        };
                    }
                    each_row!(row);
                }
            }
        }
        s
    }
}

/// Adds the products of two inputs of 16 outputs, `w: [input][output 16]`, and the activations in lanes A and
/// B.
///
/// # Safety
/// None to keep: NEON belongs to the architecture.
#[inline(always)]
unsafe fn pair<const A: i32, const B: i32>(
    mut s: [int32x4_t; 4],
    w: [[int16x8_t; 2]; 2],
    x: int16x8_t,
) -> [int32x4_t; 4] {
    // SAFETY: NEON belongs to the architecture.
    unsafe {
        for h in 0..2 {
            let [low, high] = [s[2 * h], s[2 * h + 1]];
            let low = vmlal_laneq_s16::<A>(low, vget_low_s16(w[0][h]), x);
            let high = vmlal_high_laneq_s16::<A>(high, w[0][h], x);
            s[2 * h] = vmlal_laneq_s16::<B>(low, vget_low_s16(w[1][h]), x);
            s[2 * h + 1] = vmlal_high_laneq_s16::<B>(high, w[1][h], x);
        }
    }
    s
}

/// A [`Kernel`](super::quantized::Kernel) compiled for an extension: a generic body for M rows in its own
/// function.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident<M $(, $flag:ident)?>, $features:literal, $body:ident<$dots:ty>) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`Kernel`]; the CPU has the features.
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize $(, const $flag: bool)?>(tile: &Tile) {
            // SAFETY: as promised by the caller.
            unsafe { $body::<$dots, M $(, $flag)?>(tile) }
        }
    };
}
pub(super) use entry;
