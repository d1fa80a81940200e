//! Finds scales and minimums of 4-bit groups, for the 16 rows of a panel at once.

use super::{GROUP, PANEL};
use crate::simd::{ROUND, Vector, multiversion};

/// Largest code.
const MOST: f32 = 15.0;
/// Ranges that are tried: the span of the values divided by 13.6 to 16 steps.
const STEPS: [f32; 13] = [13.6, 13.8, 14.0, 14.2, 14.4, 14.6, 14.8, 15.0, 15.2, 15.4, 15.6, 15.8, 16.0];

#[inline(always)]
fn round<V: Vector>(x: V) -> V {
    x + V::splat(ROUND) - V::splat(ROUND)
}

multiversion! {
    /// Scale and minimum (both at least 0) of a group that leave the smallest squared error of
    /// `scale * code - minimum`: for each tried range the codes are rounded and the line through them is
    /// fitted by least squares, as llama.cpp's `make_qkx2_quants` does.
    pub fn group / group_at (x: &[[f32; PANEL]]) -> ([f32; PANEL], [f32; PANEL]) {
        let zero = Lanes::splat(0.0);
        let (mut low, mut high, mut sum_x) = (zero, zero, zero);
        for v in x {
            let v = Lanes::from_array(*v);
            low = low.min(v);
            high = high.max(v);
            sum_x = sum_x + v;
        }
        let span = high - low;
        let n = Lanes::splat(x.len() as f32);
        // A group of zeros has no range: its codes, scale and minimum stay zero.
        let tiny = Lanes::splat(1e-30);
        let mut best = [0.0; PANEL];
        let (mut scale, mut minimum) = ((span * Lanes::splat(1.0 / MOST)).to_array(), (zero - low).to_array());
        for steps in STEPS {
            let inverse = Lanes::splat(steps) / span.max(tiny);
            let (mut sum_l, mut sum_ll, mut sum_xl) = (zero, zero, zero);
            for v in x {
                let v = Lanes::from_array(*v);
                let l = round((v - low) * inverse).min(Lanes::splat(MOST)).max(zero);
                sum_l = sum_l + l;
                sum_ll = l.mul_add(l, sum_ll);
                sum_xl = v.mul_add(l, sum_xl);
            }
            // Whole numbers, so exact: zero where all codes are the same, through which many lines go.
            let spread = n * sum_ll - sum_l * sum_l;
            let determinant = spread.max(tiny);
            let s = (n * sum_xl - sum_x * sum_l) / determinant;
            let m = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
            let alone = sum_xl / sum_ll.max(tiny);
            let (s, m, alone, spread) = (s.to_array(), m.to_array(), alone.to_array(), spread.to_array());
            let (sum_xl, sum_x) = (sum_xl.to_array(), sum_x.to_array());
            for i in 0..PANEL {
                // A line that would start above zero starts at zero.
                let starts_at_zero = m[i] > 0.0 || spread[i] == 0.0;
                let (s, m) = if starts_at_zero { (alone[i], 0.0) } else { (s[i], m[i]) };
                // What the fit takes from the sum of squares: the more, the smaller the error.
                let gain = s * sum_xl[i] + m * sum_x[i];
                if gain > best[i] && s > 0.0 {
                    best[i] = gain;
                    scale[i] = s;
                    minimum[i] = -m;
                }
            }
        }
        (scale, minimum)
    }
}

multiversion! {
    /// The nearest codes for given scales and minimums.
    pub fn codes / codes_at (x: &[[f32; PANEL]], scale: &[f32; PANEL], minimum: &[f32; PANEL]) -> [[u8; PANEL]; GROUP] {
        let mut inverse = [0.0f32; PANEL];
        for i in 0..PANEL {
            inverse[i] = if scale[i] > 0.0 { 1.0 / scale[i] } else { 0.0 };
        }
        let mut out = [[0; PANEL]; GROUP];
        for (out, v) in out.iter_mut().zip(x) {
            let l = round((Lanes::from_array(*v) + Lanes::from_array(*minimum)) * Lanes::from_array(inverse));
            let l = l.min(Lanes::splat(MOST)).max(Lanes::splat(0.0)).to_array();
            for i in 0..PANEL {
                out[i] = l[i] as u8;
            }
        }
        out
    }
}
