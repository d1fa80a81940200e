//! Fits the scales and codes of groups, for the 16 rows of a panel at once.

use super::{GROUP, PANEL, SCALE_BIAS};
use crate::simd::{ROUND, multiversion};
use half::f16;

/// Number of scales that are tried.
const TRIED: usize = 32;

/// A group of each of 16 rows: `weight = code * scale / 4096`.
pub struct Fitted {
    pub scales: [f16; PANEL],
    /// Codes of i8 as bytes, by input.
    pub codes: [[u8; PANEL]; GROUP],
}

multiversion! {
    /// Scales and codes of -`max_code` to `max_code` with a small squared error.
    ///
    /// The largest magnitude is mapped to `max_code`, then to `step` less and so on; each time the codes are
    /// rounded and their best scale is found by least squares. For 32 weights the errors of such scales
    /// differ by some 16 % (standard deviation), so the best of 32 reduces the error by more than a fifth
    /// against the first.
    pub fn group / group_at (x: &[[f32; PANEL]; GROUP], max_code: f32, step: f32) -> Fitted {
        let zero = Lanes::splat(0.0);
        let rounding = Lanes::splat(ROUND);
        // Smaller weights are zero in f16 scales.
        let tiny = Lanes::splat(1e-30);
        let mut top = zero;
        for v in x {
            top = top.max(Lanes::from_array(*v).abs());
        }
        let unit = Lanes::splat(1.0) / top.max(tiny);
        let (mut best, mut scale) = (zero, zero);
        for i in 0..TRIED {
            let inverse = unit * Lanes::splat(max_code - step * i as f32);
            let (mut sum_xq, mut sum_qq) = (zero, zero);
            for v in x {
                let v = Lanes::from_array(*v);
                let q = v.mul_add(inverse, rounding) - rounding;
                sum_xq = v.mul_add(q, sum_xq);
                sum_qq = q.mul_add(q, sum_qq);
            }
            let fitted = sum_xq / sum_qq.max(tiny);
            // The reduction of the squared error by the fit: larger is better.
            let gain = fitted * sum_xq;
            let above = best - gain;
            scale = above.select_below(0.0, fitted, scale);
            best = above.select_below(0.0, gain, best);
        }
        let bits = (scale * Lanes::splat(SCALE_BIAS)).to_half();
        let stored = Lanes::from_half(bits) * Lanes::splat(1.0 / SCALE_BIAS);
        let mut inverse = stored.to_array();
        for inverse in &mut inverse {
            *inverse = if *inverse > 0.0 { 1.0 / *inverse } else { 0.0 };
        }
        let inverse = Lanes::from_array(inverse);
        let mut codes = [[0; PANEL]; GROUP];
        for (codes, v) in codes.iter_mut().zip(x) {
            let q = (Lanes::from_array(*v) * inverse).min(Lanes::splat(max_code)).max(Lanes::splat(-max_code));
            for (codes, word) in codes.chunks_exact_mut(4).zip((q + rounding).to_quads()) {
                codes.copy_from_slice(&word.to_le_bytes());
            }
        }
        let mut scales = [f16::ZERO; PANEL];
        for (scale, bits) in scales.iter_mut().zip(bits) {
            *scale = f16::from_bits(bits);
        }
        Fitted { scales, codes }
    }
}
