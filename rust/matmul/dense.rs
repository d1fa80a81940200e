//! Small dense products of f32: `c = a b`, or `c += a b`, with one fused multiply-add chain per output.
//!
//! Attention uses them: scores from queries and keys, outputs from probabilities and values. The chain runs
//! over k in order from zero or from `c`, so the result has the same bits on every level and does not depend
//! on how many rows or columns are computed together.

pub mod kernels;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::select;
use crate::simd::{Level, to_f32_at};
use crate::tensor::{Buffer, sized};
pub use kernels::Shape;

/// `c = a b`, or `c += a b` where `accumulate`.
pub fn multiply(level: Level, shape: &Shape, a: &[f32], b: &[f32], c: &mut [f32], accumulate: bool) {
    if shape.rows == 0 || shape.columns == 0 {
        return;
    }
    shape.check(a.len(), b.len(), c.len());
    // SAFETY: a `Level` exists only for a detected instruction set, and the slices hold the shape (checked
    // above).
    unsafe {
        (select::of(level).dense.multiply)(shape, a.as_ptr(), b.as_ptr().cast(), c.as_mut_ptr(), accumulate);
    }
}

/// Maximum number of rows for which f16 operands are converted while they are read; more rows would repeat
/// the conversion.
const FEW_ROWS: usize = 16;

/// [`multiply`] with `b` in f16, by its bits; many rows convert it into `scratch` first.
pub fn multiply_half(
    level: Level,
    shape: &Shape,
    a: &[f32],
    b: &[u16],
    c: &mut [f32],
    accumulate: bool,
    scratch: &mut Buffer<f32>,
) {
    if shape.rows == 0 || shape.columns == 0 {
        return;
    }
    shape.check(a.len(), b.len(), c.len());
    match select::of(level).dense.multiply_half {
        // SAFETY: as in `multiply`, and columns come in sixteens.
        Some(multiply_half) if shape.rows <= FEW_ROWS && shape.columns.is_multiple_of(16) => unsafe {
            multiply_half(shape, a.as_ptr(), b.as_ptr().cast(), c.as_mut_ptr(), accumulate);
        },
        _ => {
            let wide = sized(scratch, b.len());
            to_f32_at(level, b, wide);
            multiply(level, shape, a, wide, c, accumulate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_equals_scalar_code() {
        let value = |i: usize| ((i * 7919) % 257) as f32 / 64.0 - 2.0;
        for rows in [0, 1, 5, 6, 7, 8, 9, 17] {
            for columns in [1, 7, 8, 15, 16, 17, 31, 32, 33, 80] {
                for depth in [0, 1, 3, 64] {
                    let shape = Shape {
                        rows,
                        columns,
                        depth,
                        a_stride: depth + 2,
                        b_stride: columns + 3,
                        c_stride: columns + 1,
                    };
                    let a: Vec<f32> = (0..rows.max(1) * shape.a_stride).map(value).collect();
                    let b: Vec<f32> = (0..depth.max(1) * shape.b_stride).map(|i| value(i + 11)).collect();
                    let c: Vec<f32> = (0..rows.max(1) * shape.c_stride).map(|i| value(i + 5)).collect();
                    for accumulate in [false, true] {
                        let mut want = c.clone();
                        multiply(Level::SCALAR, &shape, &a, &b, &mut want, accumulate);
                        for level in Level::present() {
                            let mut got = c.clone();
                            multiply(level, &shape, &a, &b, &mut got, accumulate);
                            let same = |want: &[f32], got: &[f32]| {
                                want.iter().zip(got).all(|(x, y)| x.to_bits() == y.to_bits())
                            };
                            assert!(same(&want, &got), "{level:?} {shape:?} {accumulate}");
                            // These numbers are exact in f16.
                            let half: Vec<u16> =
                                b.iter().map(|&v| half::f16::from_f32(v).to_bits()).collect();
                            let mut got = c.clone();
                            multiply_half(
                                level,
                                &shape,
                                &a,
                                &half,
                                &mut got,
                                accumulate,
                                &mut Buffer::default(),
                            );
                            assert!(same(&want, &got), "f16 {level:?} {shape:?} {accumulate}");
                        }
                    }
                }
            }
        }
    }
}
