//! Sixteen f32 lanes: the vector of element-wise code on every instruction set.
//!
//! Code is generic over [`Vector`] and [`multiversion!`](super::multiversion) picks the type: [`Portable`] is
//! a plain array, the others (`x86`, `neon`) hold registers. All operations are IEEE operations lane by lane,
//! and a sum of the lanes has one order, so every type gives the same bits.

use super::level::multiversion;
use half::f16;
use std::ops::{Add, Div, Mul, Sub};

/// Number of partial sums of every reduction, on every machine.
pub const LANES: usize = 16;

/// Sixteen values; operations act lane by lane.
///
/// Types other than [`Portable`] are sound only where their instruction set has been detected:
/// `multiversion!` sees to that.
pub trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn from_array(values: [f32; LANES]) -> Self;

    fn to_array(self) -> [f32; LANES];

    fn splat(value: f32) -> Self;

    /// `self * b + c` in one rounding.
    fn mul_add(self, b: Self, c: Self) -> Self;

    /// The larger; `other` where either is NaN.
    fn max(self, other: Self) -> Self;

    /// The smaller; `other` where either is NaN.
    fn min(self, other: Self) -> Self;

    fn abs(self) -> Self;

    /// Magnitude of `self`, sign of `sign`.
    fn copysign(self, sign: Self) -> Self;

    /// `a` where `self < limit`, else `b`.
    fn select_below(self, limit: f32, a: Self, b: Self) -> Self;

    /// `self * 2^n`, rounded once, for `self` between 1/2 and 2, including subnormal results and infinity; n,
    /// from -252 to 254, is the integer in the low bits of `shifted`, left by adding 1.5 * 2^23.
    fn times_power_of_two(self, shifted: Self) -> Self;

    /// Sixteen f16 values, by their bits.
    #[inline(always)]
    fn from_half(bits: [u16; LANES]) -> Self {
        Self::from_array(bits.map(|b| f16::from_bits(b).to_f32()))
    }

    /// The nearest f16 values, ties to even, by their bits.
    #[inline(always)]
    fn to_half(self) -> [u16; LANES] {
        self.to_array().map(|v| f16::from_f32(v).to_bits())
    }

    /// Sum of the lanes: eight and eight, four and four, two and two, one and one.
    fn fold_sum(self) -> f32;

    /// The first sixteen values of `x`.
    #[inline(always)]
    fn load(x: &[f32]) -> Self {
        Self::from_array(x[..LANES].try_into().expect("sixteen values"))
    }

    /// Up to sixteen values; the rest is `fill`.
    #[inline(always)]
    fn load_or(x: &[f32], fill: f32) -> Self {
        if x.len() >= LANES {
            return Self::load(x);
        }
        let mut out = [fill; LANES];
        out[..x.len()].copy_from_slice(x);
        Self::from_array(out)
    }

    /// The larger magnitude, compared by bits, so that NaN is the largest; `self` is a magnitude.
    #[inline(always)]
    fn max_magnitude(self, other: Self) -> Self {
        let (a, b) = (self.to_array(), other.abs().to_array());
        Self::from_array(std::array::from_fn(|i| if a[i].to_bits() > b[i].to_bits() { a[i] } else { b[i] }))
    }

    /// The largest lane by bits; lanes are magnitudes.
    #[inline(always)]
    fn fold_magnitude(self) -> f32 {
        f32::from_bits(self.to_array().iter().fold(0, |top, v| v.to_bits().max(top)))
    }

    /// The integers in the low bits, left by adding 1.5 * 2^23, as i16, two in a word: of each four the first
    /// (in the low half) and the third, then the second and the fourth, the order in which a mask and a shift
    /// split the bytes of four weights.
    #[inline(always)]
    fn to_pairs(self) -> [i32; LANES / 2] {
        let x = self.to_array().map(|v| i32::from(v.to_bits() as i16));
        std::array::from_fn(|i| {
            let first = i / 2 * 4 + i % 2;
            (x[first] & 0xffff) | x[first + 2] << 16
        })
    }

    /// The low bytes of those integers, four in a word, the first in the lowest byte.
    #[inline(always)]
    fn to_quads(self) -> [i32; LANES / 4] {
        let x = self.to_array().map(|v| v.to_bits() as u8);
        std::array::from_fn(|i| i32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }

    /// The high bytes in the same order, plus one where the low byte, as a signed one, is negative.
    #[inline(always)]
    fn to_high_quads(self) -> [i32; LANES / 4] {
        let x = self.to_array().map(|v| (v.to_bits().wrapping_add(128) >> 8) as u8);
        std::array::from_fn(|i| i32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }

    /// Writes sixteen values.
    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[..LANES].copy_from_slice(&self.to_array());
    }

    /// Writes the first `out.len()` values, at most sixteen.
    #[inline(always)]
    fn store_part(self, out: &mut [f32]) {
        if out.len() >= LANES {
            return self.store(out);
        }
        let n = out.len();
        out.copy_from_slice(&self.to_array()[..n]);
    }

    /// The largest lane; any lane where one is NaN.
    #[inline(always)]
    fn fold_top(self) -> f32 {
        self.to_array().iter().fold(f32::NEG_INFINITY, |m, &x| if m > x { m } else { x })
    }

    /// The largest lane that is not NaN.
    #[inline(always)]
    fn fold_max(self) -> f32 {
        self.to_array().iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}

/// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer.
pub const ROUND: f32 = 12_582_912.0;

/// A plain array; the other types equal it to the bit.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Portable, f: impl Fn(f32, f32) -> f32) -> Portable {
        Portable(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    #[inline(always)]
    fn from_array(values: [f32; LANES]) -> Self {
        Portable(values)
    }

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        self.0
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Portable([value; LANES])
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Portable(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |x, y| if x < y { x } else { y })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Portable(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }

    #[inline(always)]
    fn select_below(self, limit: f32, a: Self, b: Self) -> Self {
        Portable(std::array::from_fn(|i| if self.0[i] < limit { a.0[i] } else { b.0[i] }))
    }

    #[inline(always)]
    fn times_power_of_two(self, shifted: Self) -> Self {
        let n = shifted.0.map(|x| (x.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32));
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        // Two factors, as 2^n itself may not be a normal number.
        self * Portable(n.map(|n| power(n >> 1))) * Portable(n.map(|n| power(n.wrapping_sub(n >> 1))))
    }

    #[inline(always)]
    fn fold_sum(self) -> f32 {
        let a = self.0;
        let mut b = [0.0f32; 8];
        for i in 0..8 {
            b[i] = a[i] + a[i + 8];
        }
        let c = [b[0] + b[4], b[1] + b[5], b[2] + b[6], b[3] + b[7]];
        (c[0] + c[2]) + (c[1] + c[3])
    }
}

/// The arithmetic operators of a vector type.
macro_rules! operators {
    ($type:ty, $($operator:ident $method:ident |$a:ident, $b:ident| $e:expr;)*) => {
        $(impl std::ops::$operator for $type {
            type Output = $type;
            #[inline(always)]
            fn $method(self, other: $type) -> $type {
                let ($a, $b) = (self, other);
                $e
            }
        })*
    };
}
pub(super) use operators;

operators! {
    Portable,
    Add add |a, b| a.zip(b, |x, y| x + y);
    Sub sub |a, b| a.zip(b, |x, y| x - y);
    Mul mul |a, b| a.zip(b, |x, y| x * y);
    Div div |a, b| a.zip(b, |x, y| x / y);
}

/// Folds `f` over `x`, sixteen values at a time; the last step is padded with `fill`.
#[inline(always)]
pub(crate) fn fold<V: Vector>(x: &[f32], fill: f32, start: V, f: impl Fn(V, V) -> V) -> V {
    let mut acc = start;
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        acc = f(acc, V::load(chunk));
    }
    if !chunks.remainder().is_empty() {
        acc = f(acc, V::load_or(chunks.remainder(), fill));
    }
    acc
}

multiversion! {
    /// Sum in sixteen lanes.
    pub fn sum / sum_at(x: &[f32]) -> f32 {
        fold(x, 0.0, Lanes::splat(0.0), |a, v| a + v).fold_sum()
    }
}

multiversion! {
    /// Sum of squares in sixteen lanes.
    pub fn sum_of_squares / sum_of_squares_at(x: &[f32]) -> f32 {
        fold(x, 0.0, Lanes::splat(0.0), |a, v| v.mul_add(v, a)).fold_sum()
    }
}

/// Largest value; minus infinity for none. To be inlined into code compiled for an instruction set.
#[inline(always)]
pub fn lanes_max<V: Vector>(x: &[f32]) -> f32 {
    fold(x, f32::NEG_INFINITY, V::splat(f32::NEG_INFINITY), |a, v| v.max(a)).fold_max()
}

multiversion! {
    /// Largest value; minus infinity for none.
    pub fn maximum / maximum_at(x: &[f32]) -> f32 {
        lanes_max::<Lanes>(x)
    }
}

multiversion! {
    /// `out = out + scale * x`, each in one rounding.
    pub fn add_scaled / add_scaled_at(out: &mut [f32], scale: f32, x: &[f32]) {
        for (o, v) in out.iter_mut().zip(x) {
            *o = scale.mul_add(*v, *o);
        }
    }
}

multiversion! {
    /// f16 values, by their bits, to f32; `out` has the length of `stored`.
    pub fn to_f32 / to_f32_at(stored: &[u16], out: &mut [f32]) {
        let (mut from, mut to) = (stored.chunks_exact(LANES), out.chunks_exact_mut(LANES));
        for (from, to) in (&mut from).zip(&mut to) {
            Lanes::from_half(from.try_into().expect("sixteen values")).store(to);
        }
        let rest = from.remainder();
        let mut last = [0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        Lanes::from_half(last).store_part(to.into_remainder());
    }
}

multiversion! {
    /// f32 values to the nearest f16, ties to even, by their bits; `out` has the length of `x`.
    pub fn to_f16 / to_f16_at(x: &[f32], out: &mut [u16]) {
        for (from, to) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
            to.copy_from_slice(&Lanes::load_or(from, 0.0).to_half()[..from.len()]);
        }
    }
}

/// Prefetches a slice, where the target has an instruction for it.
#[inline]
pub fn prefetch<T>(x: &[T]) {
    prefetch_at(x.as_ptr().cast(), size_of_val(x));
}

/// Prefetches some bytes from an address on, which may lie outside of any allocation.
#[inline]
pub fn prefetch_at(from: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch touches no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast::<i8>().wrapping_add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    #[test]
    fn every_level_converts_halves_as_the_portable_code_does() {
        let bits: Vec<u16> = (0..=u16::MAX).filter(|&b| !f16::from_bits(b).is_nan()).collect();
        let values: Vec<f32> = bits.iter().map(|&b| f16::from_bits(b).to_f32()).collect();
        // f16 values, the midpoints between two, and numbers beside them.
        let between = values.iter().flat_map(|&v| [v, v * 1.000_488_3, v * 1.000_244_1, v * 1.000_25]);
        let between: Vec<f32> = between.collect();
        for level in Level::present() {
            for length in [bits.len(), 33, 5, 0] {
                let mut out = vec![1.0; length];
                to_f32_at(level, &bits[..length], &mut out);
                assert!(out.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{level:?}");
            }
            let mut out = vec![0; between.len()];
            to_f16_at(level, &between, &mut out);
            for (v, got) in between.iter().zip(&out) {
                assert_eq!(*got, f16::from_f32(*v).to_bits(), "{level:?} {v}");
            }
        }
    }

    #[test]
    fn every_level_adds_and_compares_equally() {
        use crate::simd::testing::{every_level_equals_portable, numbers, with_extremes};
        for length in 0..70 {
            for x in [numbers(length, 1), with_extremes(length, 2)] {
                every_level_equals_portable(&(length, &x), &|level| {
                    let mut out = numbers(length, 3);
                    add_scaled_at(level, &mut out, 0.3, &x);
                    out.extend([sum_at(level, &x), sum_of_squares_at(level, &x), maximum_at(level, &x)]);
                    out
                });
            }
        }
    }
}
