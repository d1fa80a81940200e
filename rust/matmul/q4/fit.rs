//! Fits the codes, scales, lows and step of a block of 4-bit weights, for the 16 rows of a panel at once.

use super::{GROUP, GROUPS, PANEL, SCALE_BIAS, SUPERBLOCK};
use crate::simd::{ROUND, Vector, multiversion};
use half::f16;

/// The largest code.
const MAX_CODE: f32 = 15.0;
/// The largest scale of a group: with it, codes span 225 of the 255 steps of a byte.
const MAX_SCALE: f32 = 15.0;
/// The range of a byte.
const MIN_BYTE: f32 = -128.0;
const MAX_BYTE: f32 = 127.0;
/// Code ranges that are tried for a group: its span divided by 13.6 to 16 steps.
const RANGES: [f32; 7] = [13.6, 14.0, 14.4, 14.8, 15.2, 15.6, 16.0];
/// Number of steps that are tried for a block: the smallest that reaches all weights, and larger ones, each
/// by this fraction of it, until the best scales of all groups are nearly multiples of one.
const TRIED: usize = 8;
const LARGER: f32 = 0.03;
/// Offsets, in steps of the block, from the best position of a group's codes: the range of a byte or a small
/// scale may require them.
const SHIFTS: [f32; 3] = [-1.0, 0.0, 1.0];
/// Smaller weights are zero in f16 steps.
const TINY: f32 = 1e-30;

/// A block of each of 16 rows: `weight = step / 4096 * (scale * code + low)`.
pub struct Fitted {
    pub steps: [f16; PANEL],
    /// 1 to 15, by group.
    pub scales: [[u8; PANEL]; GROUPS],
    /// `-128 <= low` and `low + 15 * scale <= 127`.
    pub lows: [[i8; PANEL]; GROUPS],
    /// 0 to 15, by input.
    pub codes: [[u8; PANEL]; SUPERBLOCK],
}

#[inline(always)]
fn round<V: Vector>(x: V) -> V {
    x + V::splat(ROUND) - V::splat(ROUND)
}

#[inline(always)]
fn clamp<V: Vector>(x: V, low: V, high: V) -> V {
    x.max(low).min(high)
}

/// Spacing and center of the 16 evenly spaced numbers nearest to a group: for each tried range the codes are
/// rounded and a line through them is fitted by least squares, as in llama.cpp's `make_qkx2_quants`.
#[inline(always)]
fn line<V: Vector>(x: &[[f32; PANEL]]) -> (V, V) {
    let zero = V::splat(0.0);
    let (mut low, mut high) = (V::splat(f32::MAX), V::splat(f32::MIN));
    for v in x {
        let v = V::from_array(*v);
        low = low.min(v);
        high = high.max(v);
    }
    let span = high - low;
    let mut sum_x = zero;
    for v in x {
        sum_x = sum_x + (V::from_array(*v) - low);
    }
    let n = V::splat(x.len() as f32);
    // For equal weights, as good a line as any.
    let (mut best, mut distance, mut start) = (zero, span * V::splat(1.0 / MAX_CODE), zero);
    let inverse = V::splat(1.0) / span.max(V::splat(TINY));
    for range in RANGES {
        let inverse = inverse * V::splat(range);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (zero, zero, zero);
        for v in x {
            let v = V::from_array(*v) - low;
            let l = round(v * inverse).min(V::splat(MAX_CODE));
            sum_l = sum_l + l;
            sum_ll = l.mul_add(l, sum_ll);
            sum_xl = v.mul_add(l, sum_xl);
        }
        // Exact, as all are integers: zero where all codes are the same.
        let determinant = (n * sum_ll - sum_l * sum_l).max(V::splat(TINY));
        let slope = (n * sum_xl - sum_x * sum_l) / determinant;
        let begin = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        // The reduction of the squared error by the fit: larger is better.
        let gain = slope * sum_xl + begin * sum_x;
        let above = best - gain;
        distance = above.select_below(0.0, slope, distance);
        start = above.select_below(0.0, begin, start);
        best = above.select_below(0.0, gain, best);
    }
    (distance, low + start + distance * V::splat(MAX_CODE / 2.0))
}

/// Scales and lows of a group's codes, in steps of its block.
#[derive(Clone, Copy)]
struct Grid<V> {
    scale: V,
    inverse: V,
    low: V,
}

impl<V: Vector> Grid<V> {
    /// The integer scale below or above a spacing, and codes around a center, shifted by some steps.
    #[inline(always)]
    fn new(distance: V, above: bool, center: V, shift: f32) -> Grid<V> {
        let down = round(distance - V::splat(0.5));
        let scale = if above { down + V::splat(1.0) } else { down };
        let scale = clamp(scale, V::splat(1.0), V::splat(MAX_SCALE));
        let low = round(center - scale * V::splat(MAX_CODE / 2.0)) + V::splat(shift);
        let low = clamp(low, V::splat(MIN_BYTE), V::splat(MAX_BYTE) - V::splat(MAX_CODE) * scale);
        Grid { scale, inverse: V::splat(1.0) / scale, low }
    }

    /// The nearest code of a weight.
    #[inline(always)]
    fn code(&self, weight: V) -> V {
        clamp(round((weight - self.low) * self.inverse), V::splat(0.0), V::splat(MAX_CODE))
    }

    /// Squared error of a group, in squared steps; `inverse` of the step.
    #[inline(always)]
    fn error(&self, x: &[[f32; PANEL]], inverse: V) -> V {
        let mut sum = V::splat(0.0);
        for v in x {
            let v = V::from_array(*v) * inverse;
            let off = v - self.scale.mul_add(self.code(v), self.low);
            sum = off.mul_add(off, sum);
        }
        sum
    }
}

multiversion! {
    /// Codes, scales, lows and steps with a small squared error for the first `length` inputs of a block; the
    /// others are zero.
    ///
    /// First the best spacing of each group's codes is found, then the step of the block that suits them, the
    /// scales and lows of each group, and last, by least squares, the step again.
    pub fn block / block_at (x: &[[f32; PANEL]; SUPERBLOCK], length: usize) -> Fitted {
        let (zero, tiny) = (Lanes::splat(0.0), Lanes::splat(TINY));
        let mut lines = [(zero, zero); GROUPS];
        let mut min_step = zero;
        for (x, line_of) in x[..length].chunks(GROUP).zip(&mut lines) {
            *line_of = line::<Lanes>(x);
            for v in x {
                let v = Lanes::from_array(*v);
                min_step = min_step.max(v * Lanes::splat(1.0 / MAX_BYTE)).max(v * Lanes::splat(1.0 / MIN_BYTE));
            }
            min_step = min_step.max(line_of.0 * Lanes::splat(1.0 / MAX_SCALE));
        }
        let (mut error, mut step) = (Lanes::splat(f32::INFINITY), min_step);
        for i in 0..TRIED {
            let tried = min_step * Lanes::splat(1.0 + LARGER * i as f32);
            let inverse = Lanes::splat(1.0) / tried.max(tiny);
            let mut sum = zero;
            for (x, (distance, center)) in x[..length].chunks(GROUP).zip(lines) {
                let (distance, center) = (distance * inverse, center * inverse);
                let below = Grid::new(distance, false, center, 0.0).error(x, inverse);
                sum = sum + below.min(Grid::new(distance, true, center, 0.0).error(x, inverse));
            }
            let sum = sum * tried * tried;
            let better = sum - error;
            step = better.select_below(0.0, tried, step);
            error = better.select_below(0.0, sum, error);
        }
        let inverse = Lanes::splat(1.0) / step.max(tiny);
        let (mut sum_xb, mut sum_bb) = (zero, zero);
        let mut grids = [Grid::new(zero, false, zero, 0.0); GROUPS];
        for ((x, (distance, center)), grid) in x[..length].chunks(GROUP).zip(lines).zip(&mut grids) {
            let (distance, center) = (distance * inverse, center * inverse);
            let mut error = Lanes::splat(f32::INFINITY);
            for above in [false, true] {
                for shift in SHIFTS {
                    let tried = Grid::new(distance, above, center, shift);
                    let sum = tried.error(x, inverse);
                    let better = sum - error;
                    grid.scale = better.select_below(0.0, tried.scale, grid.scale);
                    grid.inverse = better.select_below(0.0, tried.inverse, grid.inverse);
                    grid.low = better.select_below(0.0, tried.low, grid.low);
                    error = better.select_below(0.0, sum, error);
                }
            }
            for v in x {
                let v = Lanes::from_array(*v);
                let byte = grid.scale.mul_add(grid.code(v * inverse), grid.low);
                sum_xb = v.mul_add(byte, sum_xb);
                sum_bb = byte.mul_add(byte, sum_bb);
            }
        }
        let bits = (sum_xb / sum_bb.max(tiny) * Lanes::splat(SCALE_BIAS)).to_half();
        let inverse = Lanes::splat(SCALE_BIAS) / Lanes::from_half(bits).max(tiny);
        let mut fitted = Fitted {
            steps: [f16::ZERO; PANEL],
            scales: [[0; PANEL]; GROUPS],
            lows: [[0; PANEL]; GROUPS],
            codes: [[0; PANEL]; SUPERBLOCK],
        };
        for (step, bits) in fitted.steps.iter_mut().zip(bits) {
            *step = f16::from_bits(bits);
        }
        for (g, grid) in grids.iter().enumerate() {
            let (scale, low) = (grid.scale.to_array(), grid.low.to_array());
            for i in 0..PANEL {
                (fitted.scales[g][i], fitted.lows[g][i]) = (scale[i] as u8, low[i] as i8);
            }
            let codes = &mut fitted.codes[g * GROUP..(g + 1) * GROUP];
            for (codes, v) in codes.iter_mut().zip(&x[g * GROUP..]) {
                let code = grid.code(Lanes::from_array(*v) * inverse).to_array();
                for i in 0..PANEL {
                    codes[i] = code[i] as u8;
                }
            }
        }
        fitted
    }
}
