//! Sixteen lanes in x86 registers: two of AVX2, or one of AVX-512.
//!
//! The methods are inlined into functions that are compiled for the instruction set; see [`Vector`] for where
//! they are sound.

use super::lanes::{LANES, ROUND, Vector, operators};
use std::arch::x86_64::*;

/// With AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(__m256, __m256);

/// With AVX-512 F and DQ.
#[derive(Clone, Copy)]
pub struct Avx512(__m512);

/// Sum of eight lanes, in the order of [`Vector::fold_sum`].
#[inline(always)]
fn fold_eight(b: __m256) -> f32 {
    // SAFETY: AVX, which both types have.
    unsafe {
        let c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps::<1>(b));
        let d = _mm_add_ps(c, _mm_movehl_ps(c, c));
        _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)))
    }
}

macro_rules! both {
    ($f:path, $a:ident $(, $b:ident)*) => {
        // SAFETY: the type is used where AVX2 and FMA have been detected.
        unsafe { Avx2($f($a.0, $($b.0),*), $f($a.1, $($b.1),*)) }
    };
}

impl Avx2 {
    #[inline(always)]
    fn and(self, bits: i32) -> Self {
        let mask = Self::splat(f32::from_bits(bits as u32));
        both!(_mm256_and_ps, self, mask)
    }

    /// The integers in the low bits, in order.
    #[inline(always)]
    fn to_i16(self) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let round = _mm256_set1_epi32(ROUND.to_bits() as i32);
            let whole = |x| _mm256_sub_epi32(_mm256_castps_si256(x), round);
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(whole(self.0), whole(self.1)))
        }
    }
}

/// The largest of eight lanes.
#[inline(always)]
fn top(x: __m256) -> f32 {
    // SAFETY: AVX, which all callers in this file have.
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// Sixteen i16 with the second and third of each four swapped.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn cross(x: __m256i) -> __m256i {
    // SAFETY: as promised.
    unsafe {
        let order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
        _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(order))
    }
}

/// The low bytes of sixteen words.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn low_bytes(a: __m256i, b: __m256i) -> [i32; LANES / 4] {
    let mut out = [0; LANES / 4];
    // SAFETY: as promised; four words are written.
    unsafe {
        let first = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
        let second = _mm_setr_epi8(-1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
        // Words 0 and 2 in the low half, 1 and 3 in the high one.
        let both = _mm256_or_si256(
            _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(first)),
            _mm256_shuffle_epi8(b, _mm256_broadcastsi128_si256(second)),
        );
        let ordered = _mm_unpacklo_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
        _mm_storeu_si128(out.as_mut_ptr().cast(), ordered);
    }
    out
}

/// The largest of eight magnitudes, compared by bits.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn largest(x: __m256i) -> f32 {
    // SAFETY: as promised.
    unsafe {
        let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
        let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x));
        f32::from_bits(_mm_cvtsi128_si32(x) as u32)
    }
}

impl Vector for Avx2 {
    #[inline(always)]
    fn from_array(values: [f32; LANES]) -> Self {
        // SAFETY: as above; sixteen values are read.
        unsafe { Avx2(_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: as above; sixteen values are written.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), self.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), self.1);
        }
        out
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        both!(_mm256_fmadd_ps, self, b, c)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        both!(_mm256_max_ps, self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        both!(_mm256_min_ps, self, other)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.and(i32::MAX)
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let (magnitude, sign) = (self.abs(), sign.and(i32::MIN));
        both!(_mm256_or_ps, magnitude, sign)
    }

    #[inline(always)]
    fn select_below(self, limit: f32, a: Self, b: Self) -> Self {
        let limit = Self::splat(limit);
        let below = both!(_mm256_cmp_ps::<_CMP_LT_OQ>, self, limit);
        both!(_mm256_blendv_ps, b, a, below)
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        #[inline(always)]
        fn powers(x: __m256) -> (__m256, __m256) {
            // SAFETY: as above.
            unsafe {
                let bias = _mm256_set1_epi32(127);
                let n = _mm256_sub_epi32(_mm256_castps_si256(x), _mm256_set1_epi32(ROUND.to_bits() as i32));
                let half = _mm256_srai_epi32::<1>(n);
                let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
                let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
                (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
            }
        }
        let (a, b) = (powers(shifted.0), powers(shifted.1));
        self * Avx2(a.0, b.0) * Avx2(a.1, b.1)
    }

    #[inline(always)]
    fn max_magnitude(self, other: Self) -> Self {
        let b = other.abs();
        // SAFETY: as above.
        let max = |a, b| unsafe {
            _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)))
        };
        Avx2(max(self.0, b.0), max(self.1, b.1))
    }

    #[inline(always)]
    fn to_pairs(self) -> [i32; LANES / 2] {
        let mut out = [0; LANES / 2];
        // SAFETY: as above; eight words are written.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), cross(self.to_i16())) };
        out
    }

    #[inline(always)]
    fn to_quads(self) -> [i32; LANES / 4] {
        // SAFETY: as above.
        unsafe { low_bytes(_mm256_castps_si256(self.0), _mm256_castps_si256(self.1)) }
    }

    #[inline(always)]
    fn to_high_quads(self) -> [i32; LANES / 4] {
        // SAFETY: as above.
        unsafe {
            let half = _mm256_set1_epi32(128);
            let high = |x| _mm256_srli_epi32::<8>(_mm256_add_epi32(_mm256_castps_si256(x), half));
            low_bytes(high(self.0), high(self.1))
        }
    }

    #[inline(always)]
    fn fold_magnitude(self) -> f32 {
        // SAFETY: as above.
        unsafe { largest(_mm256_max_epi32(_mm256_castps_si256(self.0), _mm256_castps_si256(self.1))) }
    }

    #[inline(always)]
    fn from_half(bits: [u16; LANES]) -> Self {
        let at = |i: usize| bits[i..].as_ptr().cast::<__m128i>();
        // SAFETY: F16C comes with AVX2 here; eight values each are read.
        unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(at(0))), _mm256_cvtph_ps(_mm_loadu_si128(at(8)))) }
    }

    #[inline(always)]
    fn to_half(self) -> [u16; LANES] {
        let mut out = [0; LANES];
        // SAFETY: as above; eight values each are written.
        unsafe {
            let half = |x| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm_storeu_si128(out.as_mut_ptr().cast(), half(self.0));
            _mm_storeu_si128(out[8..].as_mut_ptr().cast(), half(self.1));
        }
        out
    }

    #[inline(always)]
    fn fold_top(self) -> f32 {
        // SAFETY: as above.
        top(unsafe { _mm256_max_ps(self.0, self.1) })
    }

    #[inline(always)]
    fn fold_sum(self) -> f32 {
        // SAFETY: as above.
        fold_eight(unsafe { _mm256_add_ps(self.0, self.1) })
    }
}

operators! {
    Avx2,
    Add add |a, b| both!(_mm256_add_ps, a, b);
    Sub sub |a, b| both!(_mm256_sub_ps, a, b);
    Mul mul |a, b| both!(_mm256_mul_ps, a, b);
    Div div |a, b| both!(_mm256_div_ps, a, b);
}

macro_rules! one {
    ($f:path, $a:ident $(, $b:ident)*) => {
        // SAFETY: the type is used where AVX-512 F and DQ have been detected.
        unsafe { Avx512($f($a.0, $($b.0),*)) }
    };
}

impl Vector for Avx512 {
    #[inline(always)]
    fn from_array(values: [f32; LANES]) -> Self {
        // SAFETY: as above; sixteen values are read.
        unsafe { Avx512(_mm512_loadu_ps(values.as_ptr())) }
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: as above; sixteen values are written.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
        out
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: as above.
        unsafe { Avx512(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        one!(_mm512_fmadd_ps, self, b, c)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        one!(_mm512_max_ps, self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        one!(_mm512_min_ps, self, other)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        one!(_mm512_abs_ps, self)
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        let mask = Self::splat(-0.0);
        let (magnitude, sign) = (self.abs(), one!(_mm512_and_ps, sign, mask));
        one!(_mm512_or_ps, magnitude, sign)
    }

    #[inline(always)]
    fn max_magnitude(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let (a, b) = (_mm512_castps_si512(self.0), _mm512_castps_si512(other.abs().0));
            Avx512(_mm512_castsi512_ps(_mm512_max_epi32(a, b)))
        }
    }

    #[inline(always)]
    fn to_pairs(self) -> [i32; LANES / 2] {
        let mut out = [0; LANES / 2];
        // SAFETY: as above; eight words are written.
        unsafe {
            let x = _mm512_cvtepi32_epi16(_mm512_castps_si512(self.0));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), cross(x));
        }
        out
    }

    #[inline(always)]
    fn to_quads(self) -> [i32; LANES / 4] {
        let mut out = [0; LANES / 4];
        // SAFETY: as above; four words are written.
        unsafe {
            let x = _mm512_cvtepi32_epi8(_mm512_castps_si512(self.0));
            _mm_storeu_si128(out.as_mut_ptr().cast(), x);
        }
        out
    }

    #[inline(always)]
    fn to_high_quads(self) -> [i32; LANES / 4] {
        let mut out = [0; LANES / 4];
        // SAFETY: as above; four words are written.
        unsafe {
            let x = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(128));
            let x = _mm512_cvtepi32_epi8(_mm512_srli_epi32::<8>(x));
            _mm_storeu_si128(out.as_mut_ptr().cast(), x);
        }
        out
    }

    #[inline(always)]
    fn fold_magnitude(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let x = _mm512_castps_si512(self.0);
            largest(_mm256_max_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x)))
        }
    }

    #[inline(always)]
    fn from_half(bits: [u16; LANES]) -> Self {
        // SAFETY: as above; sixteen values are read.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn to_half(self) -> [u16; LANES] {
        let mut out = [0; LANES];
        // SAFETY: as above; sixteen values are written.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), half);
        }
        out
    }

    #[inline(always)]
    fn select_below(self, limit: f32, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, _mm512_set1_ps(limit));
            Avx512(_mm512_mask_blend_ps(below, b.0, a.0))
        }
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        let n = shifted - Self::splat(ROUND);
        // SAFETY: as above.
        Avx512(unsafe { _mm512_scalef_ps(self.0, n.0) })
    }

    #[inline(always)]
    fn fold_top(self) -> f32 {
        // SAFETY: as above.
        top(unsafe { _mm256_max_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0)) })
    }

    #[inline(always)]
    fn fold_sum(self) -> f32 {
        // SAFETY: as above.
        fold_eight(unsafe {
            _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0))
        })
    }
}

operators! {
    Avx512,
    Add add |a, b| one!(_mm512_add_ps, a, b);
    Sub sub |a, b| one!(_mm512_sub_ps, a, b);
    Mul mul |a, b| one!(_mm512_mul_ps, a, b);
    Div div |a, b| one!(_mm512_div_ps, a, b);
}
