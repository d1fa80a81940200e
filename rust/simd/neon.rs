//! Sixteen lanes in four NEON registers, which every 64-bit ARM has.

use super::lanes::{LANES, ROUND, Vector, operators};
use std::arch::aarch64::*;
use std::arch::asm;

/// With Advanced SIMD.
#[derive(Clone, Copy)]
pub struct Neon([float32x4_t; 4]);

macro_rules! each {
    ($f:path, $a:ident $(, $b:ident)*) => {
        // SAFETY: Advanced SIMD belongs to the architecture.
        unsafe {
            Neon([
                $f($a.0[0], $($b.0[0]),*),
                $f($a.0[1], $($b.0[1]),*),
                $f($a.0[2], $($b.0[2]),*),
                $f($a.0[3], $($b.0[3]),*),
            ])
        }
    };
}

/// `a * b + c`, in this order.
#[inline(always)]
unsafe fn fused(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vfmaq_f32(c, a, b) }
}

/// Not the dedicated instructions: they return NaN where either operand is one.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

#[inline(always)]
unsafe fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

#[inline(always)]
unsafe fn with_sign(magnitude: float32x4_t, sign: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vbslq_f32(vdupq_n_u32(1 << 31), sign, magnitude) }
}

#[inline(always)]
unsafe fn select(x: float32x4_t, limit: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vbslq_f32(vcltq_f32(x, limit), a, b) }
}

/// The integer n of [`Vector::times_power_of_two`].
#[inline(always)]
unsafe fn exponent(x: float32x4_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe { vsubq_s32(vreinterpretq_s32_f32(x), vdupq_n_s32(ROUND.to_bits() as i32)) }
}

#[inline(always)]
unsafe fn power(n: int32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127)))) }
}

#[inline(always)]
unsafe fn low_power(x: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { power(vshrq_n_s32::<1>(exponent(x))) }
}

#[inline(always)]
unsafe fn high_power(x: float32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe {
        let n = exponent(x);
        power(vsubq_s32(n, vshrq_n_s32::<1>(n)))
    }
}

/// Four f16 to f32. In assembly, as older compilers have no intrinsic for it; the instruction belongs to the
/// architecture.
#[inline(always)]
pub fn f16_to_f32(stored: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("fcvtl {wide:v}.4s, {stored:v}.4h", wide = lateout(vreg) wide, stored = in(vreg) stored,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Four f32 to the nearest f16, ties to even.
#[inline(always)]
fn f32_to_f16(wide: float32x4_t) -> uint16x4_t {
    let stored: uint16x4_t;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("fcvtn {stored:v}.4h, {wide:v}.4s", stored = lateout(vreg) stored, wide = in(vreg) wide,
            options(pure, nomem, nostack, preserves_flags));
    }
    stored
}

impl Vector for Neon {
    #[inline(always)]
    fn from_array(values: [f32; LANES]) -> Self {
        let x = values.as_ptr();
        // SAFETY: as above; sixteen values are read.
        unsafe { Neon([vld1q_f32(x), vld1q_f32(x.add(4)), vld1q_f32(x.add(8)), vld1q_f32(x.add(12))]) }
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: as above; sixteen values are written.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), self.0[0]);
            vst1q_f32(out.as_mut_ptr().add(4), self.0[1]);
            vst1q_f32(out.as_mut_ptr().add(8), self.0[2]);
            vst1q_f32(out.as_mut_ptr().add(12), self.0[3]);
        }
        out
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { Neon([vdupq_n_f32(value); 4]) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        each!(fused, self, b, c)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        each!(larger, self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        each!(smaller, self, other)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        each!(vabsq_f32, self)
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        each!(with_sign, self, sign)
    }

    #[inline(always)]
    fn select_below(self, limit: f32, a: Self, b: Self) -> Self {
        let limit = Self::splat(limit);
        each!(select, self, limit, a, b)
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        self * each!(low_power, shifted) * each!(high_power, shifted)
    }

    #[inline(always)]
    fn from_half(bits: [u16; LANES]) -> Self {
        let x = bits.as_ptr();
        // SAFETY: as above; sixteen values are read.
        unsafe {
            Neon([
                f16_to_f32(vld1_u16(x)),
                f16_to_f32(vld1_u16(x.add(4))),
                f16_to_f32(vld1_u16(x.add(8))),
                f16_to_f32(vld1_u16(x.add(12))),
            ])
        }
    }

    #[inline(always)]
    fn to_half(self) -> [u16; LANES] {
        let mut out = [0; LANES];
        // SAFETY: as above; sixteen values are written.
        unsafe {
            vst1_u16(out.as_mut_ptr(), f32_to_f16(self.0[0]));
            vst1_u16(out.as_mut_ptr().add(4), f32_to_f16(self.0[1]));
            vst1_u16(out.as_mut_ptr().add(8), f32_to_f16(self.0[2]));
            vst1_u16(out.as_mut_ptr().add(12), f32_to_f16(self.0[3]));
        }
        out
    }

    #[inline(always)]
    fn fold_sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: as above.
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}

operators! {
    Neon,
    Add add |a, b| each!(vaddq_f32, a, b);
    Sub sub |a, b| each!(vsubq_f32, a, b);
    Mul mul |a, b| each!(vmulq_f32, a, b);
    Div div |a, b| each!(vdivq_f32, a, b);
}
