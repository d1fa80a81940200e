//! Elementary functions on sixteen lanes. Polynomials and IEEE operations only, so results have the same bits
//! on every instruction set; errors are stated in units in the last place (ULP), measured over all binades by
//! the tests.

use super::lanes::{ROUND, Vector};

/// e^x, within 2 ULP (results below 2^-126 within one subnormal step). NaN stays NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial for e^r is that of Cephes' `expf`.
#[inline(always)]
pub fn exp<V: Vector>(x: V) -> V {
    // The bound comes first: the other operand is returned when one is NaN.
    let x = V::splat(-104.0).max(x);
    let x = V::splat(89.0).min(x);
    let shifted = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND));
    let n = shifted - V::splat(ROUND);
    let r = n.mul_add(V::splat(-0.693_359_4), x);
    let r = n.mul_add(V::splat(2.121_944_4e-4), r);
    let mut p = V::splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, V::splat(c));
    }
    let e = p.mul_add(r * r, r) + V::splat(1.0);
    e.times_power_of_two(shifted)
}

/// 1 / (1 + e^-x), within 4 ULP.
#[inline(always)]
pub fn sigmoid<V: Vector>(x: V) -> V {
    let one = V::splat(1.0);
    one / (one + exp(V::splat(0.0) - x))
}

/// Hyperbolic tangent, within 4 ULP: a polynomial (Cephes' `tanhf`) below 0.625, else by e^2x.
#[inline(always)]
pub fn tanh<V: Vector>(x: V) -> V {
    let a = x.abs();
    let s = x * x;
    let mut p = V::splat(-5.704_988_7e-3);
    for c in [2.063_908_8e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p.mul_add(s, V::splat(c));
    }
    let small = (p * s).mul_add(x, x);
    let e = exp(a + a);
    let large = V::splat(1.0) - V::splat(2.0) / (e + V::splat(1.0));
    a.select_below(0.625, small, large.copysign(x))
}

/// The error function, within 6 ULP: x times a rational function of x^2, clamped where the result rounds to
/// one.
#[inline(always)]
pub fn erf<V: Vector>(x: V) -> V {
    let x = V::splat(-3.92).max(x);
    let x = V::splat(3.92).min(x);
    let s = x * x;
    let mut p = V::splat(2.050_688_4e-6);
    for c in [2.848_814_8e-4, 3.764_414_2e-3, 5.274_515e-2, 1.903_749_7e-1, std::f32::consts::FRAC_2_SQRT_PI]
    {
        p = p.mul_add(s, V::splat(c));
    }
    let mut q = V::splat(3.809_777_6e-5);
    for c in [1.162_291_4e-3, 1.496_679_8e-2, 1.140_966_5e-1, 5.020_482e-1, 1.0] {
        q = q.mul_add(s, V::splat(c));
    }
    x * p / q
}

/// Natural logarithm of one value, exact to the last digits of double precision; by the series of 2 artanh((m
/// - 1) / (m + 1)). Zero gives minus infinity, negative values give NaN.
pub fn log(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_infinite() {
        return x;
    }
    let (mut x, mut exponent) = (x, 0i64);
    if x < f64::MIN_POSITIVE {
        x *= 2f64.powi(54);
        exponent = -54;
    }
    let bits = x.to_bits();
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    exponent += ((bits >> 52) as i64) - 1023;
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let mut p = 0.0;
    for k in (0..12).rev() {
        p = p * q + 1.0 / f64::from(2 * k + 1);
    }
    2.0 * s * p + exponent as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{LANES, Level, Portable, multiversion};

    /// Largest error in ULP of `f` against `exact` over a sweep of both signs, all binades.
    fn worst(f: fn(Portable) -> Portable, exact: fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let mut worst = 0.0f64;
        let mut x = from;
        while x < to {
            for v in [x, -x] {
                let got = f(Portable::splat(v)).to_array()[0];
                let want = exact(f64::from(v));
                let ulp = f64::from(f32::from_bits((want.abs() as f32).max(f32::MIN_POSITIVE).to_bits() + 1))
                    - f64::from((want.abs() as f32).max(f32::MIN_POSITIVE));
                worst = worst.max((f64::from(got) - want).abs() / ulp);
            }
            x *= 1.003;
        }
        worst
    }

    /// erf in double precision by its Taylor series (small) or continued fraction (large).
    fn erf64(x: f64) -> f64 {
        let a = x.abs();
        let r = if a < 3.0 {
            let (mut term, mut sum) = (a, a);
            for n in 1..200 {
                term *= -a * a / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let mut f = 0.0;
            for k in (1..200).rev() {
                f = f64::from(k) / 2.0 / (a + f);
            }
            1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * (a + f))
        };
        r.copysign(x)
    }

    #[test]
    fn functions_keep_their_error_bounds() {
        assert!(worst(exp, f64::exp, 1e-30, 87.0) <= 2.0);
        assert!(worst(tanh, f64::tanh, 1e-30, 100.0) <= 4.0);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 1e-30, 80.0) <= 4.0);
        assert!(worst(erf, erf64, 1e-30, 8.0) <= 6.0);
        for x in [1e-310, 1e-5, 0.5, 1.0, 1.5, 2.0, 1e10, 3e38] {
            let want: f64 = f64::ln(x);
            assert!((log(x) - want).abs() <= 4e-16 * want.abs().max(1.0), "{x}");
        }
    }

    multiversion! {
        fn exps / exps_at(x: &mut [f32]) {
            for part in x.chunks_exact_mut(LANES) {
                exp(Lanes::load(part)).store(part);
            }
        }
    }

    #[test]
    fn every_level_gives_the_same_exponentials() {
        // Over the whole range, including subnormal results, zero, infinity and NaN.
        let mut x: Vec<f32> = (0..16 * 20_000).map(|i| i as f32 * 0.000_66 - 110.0).collect();
        x[..6].copy_from_slice(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, f32::MAX, f32::MIN]);
        let mut want = x.clone();
        exps_at(Level::SCALAR, &mut want);
        assert!(want.iter().any(|v| v.is_subnormal()) && want.last() == Some(&f32::INFINITY));
        for level in Level::present() {
            let mut got = x.clone();
            exps_at(level, &mut got);
            for ((a, b), x) in want.iter().zip(&got).zip(&x) {
                assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{level:?} {x}: {a} {b}");
            }
        }
    }

    #[test]
    fn edges() {
        let at = |f: fn(Portable) -> Portable, x: f32| f(Portable::splat(x)).to_array()[3];
        assert_eq!(at(exp, f32::NEG_INFINITY), 0.0);
        assert_eq!(at(exp, f32::INFINITY), f32::INFINITY);
        assert_eq!(at(exp, 0.0), 1.0);
        assert!(at(exp, f32::NAN).is_nan() && at(tanh, f32::NAN).is_nan() && at(erf, f32::NAN).is_nan());
        assert_eq!(at(tanh, f32::INFINITY), 1.0);
        assert_eq!(at(erf, f32::NEG_INFINITY), -1.0);
        assert_eq!(at(sigmoid, f32::NEG_INFINITY), 0.0);
    }
}
