//! Small dense products with NEON.

use super::Shape;
use std::arch::aarch64::*;

/// R rows by V vectors of four columns.
///
/// # Safety
/// The pointers are valid for the shape.
unsafe fn tile<const R: usize, const V: usize>(
    s: &Shape,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    accumulate: bool,
) {
    // SAFETY: as promised.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); V]; R];
        if accumulate {
            for i in 0..R {
                for v in 0..V {
                    acc[i][v] = vld1q_f32(c.add(i * s.c_stride + 4 * v));
                }
            }
        }
        let mut k = 0;
        while k + 4 <= s.depth {
            let x: [float32x4_t; R] = std::array::from_fn(|i| vld1q_f32(a.add(i * s.a_stride + k)));
            macro_rules! step {
                ($lane:literal) => {
                    for v in 0..V {
                        let y = vld1q_f32(b.add((k + $lane) * s.b_stride + 4 * v));
                        for i in 0..R {
                            acc[i][v] = vfmaq_laneq_f32::<$lane>(acc[i][v], y, x[i]);
                        }
                    }
                };
            }
            step!(0);
            step!(1);
            step!(2);
            step!(3);
            k += 4;
        }
        while k < s.depth {
            for v in 0..V {
                let y = vld1q_f32(b.add(k * s.b_stride + 4 * v));
                for i in 0..R {
                    acc[i][v] = vfmaq_n_f32(acc[i][v], y, *a.add(i * s.a_stride + k));
                }
            }
            k += 1;
        }
        for i in 0..R {
            for v in 0..V {
                vst1q_f32(c.add(i * s.c_stride + 4 * v), acc[i][v]);
            }
        }
    }
}

/// Rows in a tile.
const HEIGHT: usize = 4;

type Tile = unsafe fn(&Shape, *const f32, *const f32, *mut f32, bool);
static TILES: [[Tile; HEIGHT]; 2] = [
    [tile::<1, 1>, tile::<2, 1>, tile::<3, 1>, tile::<4, 1>],
    [tile::<1, 4>, tile::<2, 4>, tile::<3, 4>, tile::<4, 4>],
];

/// See [`super::multiply`].
///
/// # Safety
/// The pointers are valid for the shape.
pub unsafe fn multiply(s: &Shape, a: *const f32, b: *const u8, c: *mut f32, accumulate: bool) {
    let b: *const f32 = b.cast();
    let mut j = 0;
    while j < s.columns {
        let left = s.columns - j;
        for i in (0..s.rows).step_by(HEIGHT) {
            let rows = HEIGHT.min(s.rows - i);
            // SAFETY: tile (i, j) lies inside the shape.
            unsafe {
                let (a, b, c) = (a.add(i * s.a_stride), b.add(j), c.add(i * s.c_stride + j));
                if left >= 4 {
                    TILES[usize::from(left >= 16)][rows - 1](s, a, b, c, accumulate);
                    continue;
                }
                for i in 0..rows {
                    for j in 0..left {
                        let c = c.add(i * s.c_stride + j);
                        let start = if accumulate { *c } else { 0.0 };
                        *c = (0..s.depth).fold(start, |sum, k| {
                            (*a.add(i * s.a_stride + k)).mul_add(*b.add(k * s.b_stride + j), sum)
                        });
                    }
                }
            }
        }
        j += match left {
            16.. => 16,
            4.. => 4,
            _ => left,
        };
    }
}
