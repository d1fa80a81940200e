//! Small dense products of f32: `c = a b`, or `c += a b`, with one fused multiply-add chain per output.
//!
//! Attention uses them: scores from queries and keys, outputs from probabilities and values. The chain runs
//! over k in order from zero or from `c`, so the result has the same bits on every level and does not depend
//! on how many rows or columns are computed together.

#[cfg(target_arch = "aarch64")]
mod neon;

use super::select;
use crate::simd::{Level, to_f32_at};
use crate::tensor::{Buffer, sized};

/// Strides of the operands: `a[i, k] = a[i * a_stride + k]`, `b[k, j] = b[k * b_stride + j]`, `c[i, j] = c[i
/// * c_stride + j]`.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub a_stride: usize,
    pub b_stride: usize,
    pub c_stride: usize,
}

impl Shape {
    /// Panics where the slices are shorter than the shape.
    fn check(&self, a: usize, b: usize, c: usize) {
        let Shape { rows, columns, depth, a_stride, b_stride, c_stride } = *self;
        assert!(c >= (rows - 1) * c_stride + columns, "c holds the result");
        if depth > 0 {
            assert!(a >= (rows - 1) * a_stride + depth, "a holds its rows");
            assert!(b >= (depth - 1) * b_stride + columns, "b holds its rows");
        }
    }
}

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

/// Products of an instruction set.
pub struct Dense {
    pub multiply: Multiply,
    /// With `b` in f16, for columns in sixteens; without it, `b` is converted first.
    pub multiply_half: Option<Multiply>,
}

/// `c = a b`, or `c += a b` where the last argument says so; `b` is given by its address. The CPU must have the
/// instruction set, and the pointers be valid for the shape.
type Multiply = unsafe fn(&Shape, *const f32, *const u8, *mut f32, bool);

#[cfg(target_arch = "x86_64")]
pub const AVX2: Dense =
    Dense { multiply: x86::multiply_avx2::<false>, multiply_half: Some(x86::multiply_avx2::<true>) };
#[cfg(target_arch = "x86_64")]
pub const AVX512: Dense =
    Dense { multiply: x86::multiply_avx512::<false>, multiply_half: Some(x86::multiply_avx512::<true>) };
#[cfg(target_arch = "aarch64")]
pub const NEON: Dense = Dense { multiply: neon::multiply, multiply_half: None };

/// Portable code; the other levels equal it to the bit.
///
/// # Safety
/// See [`Multiply`].
pub unsafe fn scalar(s: &Shape, a: *const f32, b: *const u8, c: *mut f32, accumulate: bool) {
    let b: *const f32 = b.cast();
    for i in 0..s.rows {
        for j in 0..s.columns {
            // SAFETY: inside the shape.
            unsafe {
                let c = c.add(i * s.c_stride + j);
                let start = if accumulate { *c } else { 0.0 };
                *c = (0..s.depth).fold(start, |sum, k| {
                    (*a.add(i * s.a_stride + k)).mul_add(*b.add(k * s.b_stride + j), sum)
                });
            }
        }
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Shape;
    use std::arch::x86_64::*;

    /// Bytes of an element of b.
    const fn size<const HALF: bool>() -> usize {
        if HALF { 2 } else { 4 }
    }

    /// R rows by 16 columns, or by `left` where it is less: with f16, always 16.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; the pointers are valid for the shape.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile_avx2<const R: usize, const HALF: bool>(
        s: &Shape,
        a: *const f32,
        b: *const u8,
        c: *mut f32,
        left: usize,
        accumulate: bool,
    ) {
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: full tiles read and write 16 columns; partial ones only those that the mask selects.
        unsafe {
            if left >= 16 {
                if accumulate {
                    for i in 0..R {
                        acc[i] = [
                            _mm256_loadu_ps(c.add(i * s.c_stride)),
                            _mm256_loadu_ps(c.add(i * s.c_stride + 8)),
                        ];
                    }
                }
                for k in 0..s.depth {
                    let p = b.add(k * s.b_stride * size::<HALF>());
                    let (b0, b1) = if HALF {
                        let half = |p: *const u8| _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
                        (half(p), half(p.add(16)))
                    } else {
                        (_mm256_loadu_ps(p.cast()), _mm256_loadu_ps(p.add(32).cast()))
                    };
                    for i in 0..R {
                        let x = _mm256_broadcast_ss(&*a.add(i * s.a_stride + k));
                        acc[i] = [_mm256_fmadd_ps(x, b0, acc[i][0]), _mm256_fmadd_ps(x, b1, acc[i][1])];
                    }
                }
                for i in 0..R {
                    _mm256_storeu_ps(c.add(i * s.c_stride), acc[i][0]);
                    _mm256_storeu_ps(c.add(i * s.c_stride + 8), acc[i][1]);
                }
            } else {
                let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let m0 = _mm256_cmpgt_epi32(_mm256_set1_epi32(left as i32), lane);
                let m1 = _mm256_cmpgt_epi32(_mm256_set1_epi32(left as i32 - 8), lane);
                if accumulate {
                    for i in 0..R {
                        let p = c.add(i * s.c_stride);
                        acc[i] = [_mm256_maskload_ps(p, m0), _mm256_maskload_ps(p.wrapping_add(8), m1)];
                    }
                }
                for k in 0..s.depth {
                    let p = b.cast::<f32>().add(k * s.b_stride);
                    let (b0, b1) = (_mm256_maskload_ps(p, m0), _mm256_maskload_ps(p.wrapping_add(8), m1));
                    for i in 0..R {
                        let x = _mm256_broadcast_ss(&*a.add(i * s.a_stride + k));
                        acc[i] = [_mm256_fmadd_ps(x, b0, acc[i][0]), _mm256_fmadd_ps(x, b1, acc[i][1])];
                    }
                }
                for i in 0..R {
                    let p = c.add(i * s.c_stride);
                    _mm256_maskstore_ps(p, m0, acc[i][0]);
                    _mm256_maskstore_ps(p.wrapping_add(8), m1, acc[i][1]);
                }
            }
        }
    }

    /// R rows by 32 columns, or by `left` where it is less: with f16, 16 or 32.
    ///
    /// # Safety
    /// AVX-512 F; the pointers are valid for the shape.
    #[target_feature(enable = "avx512f")]
    unsafe fn tile_avx512<const R: usize, const HALF: bool>(
        s: &Shape,
        a: *const f32,
        b: *const u8,
        c: *mut f32,
        left: usize,
        accumulate: bool,
    ) {
        let bits = if left >= 32 { u32::MAX } else { (1u32 << left) - 1 };
        let (m0, m1) = (bits as u16, (bits >> 16) as u16);
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        // SAFETY: only columns that the masks select are read and written.
        unsafe {
            if accumulate {
                for i in 0..R {
                    let p = c.add(i * s.c_stride);
                    acc[i] = [_mm512_maskz_loadu_ps(m0, p), _mm512_maskz_loadu_ps(m1, p.wrapping_add(16))];
                }
            }
            if left > 16 {
                for k in 0..s.depth {
                    let p = b.add(k * s.b_stride * size::<HALF>());
                    let (b0, b1) = if HALF {
                        let half = |p: *const u8| _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()));
                        (half(p), half(p.add(32)))
                    } else {
                        (_mm512_loadu_ps(p.cast()), _mm512_maskz_loadu_ps(m1, p.wrapping_add(64).cast()))
                    };
                    for i in 0..R {
                        let x = _mm512_set1_ps(*a.add(i * s.a_stride + k));
                        acc[i] = [_mm512_fmadd_ps(x, b0, acc[i][0]), _mm512_fmadd_ps(x, b1, acc[i][1])];
                    }
                }
            } else {
                for k in 0..s.depth {
                    let p = b.add(k * s.b_stride * size::<HALF>());
                    let b0 = if HALF {
                        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
                    } else {
                        _mm512_maskz_loadu_ps(m0, p.cast())
                    };
                    for i in 0..R {
                        let x = _mm512_set1_ps(*a.add(i * s.a_stride + k));
                        acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]);
                    }
                }
            }
            for i in 0..R {
                let p = c.add(i * s.c_stride);
                _mm512_mask_storeu_ps(p, m0, acc[i][0]);
                _mm512_mask_storeu_ps(p.wrapping_add(16), m1, acc[i][1]);
            }
        }
    }

    macro_rules! driver {
        ($name:ident, $feature:literal, $tile:ident, $width:literal, $height:literal, [$($r:literal)*]) => {
            /// # Safety
            /// The CPU has the instruction set; the pointers are valid for the shape.
            #[target_feature(enable = $feature)]
            pub unsafe fn $name<const HALF: bool>(
                s: &Shape,
                a: *const f32,
                b: *const u8,
                c: *mut f32,
                accumulate: bool,
            ) {
                let mut j = 0;
                while j < s.columns {
                    let mut i = 0;
                    while i < s.rows {
                        let r = (s.rows - i).min($height);
                        // SAFETY: tile (i, j) lies inside the shape.
                        unsafe {
                            let (a, b, c) =
                                (a.add(i * s.a_stride), b.add(j * size::<HALF>()), c.add(i * s.c_stride + j));
                            match r {
                                $($r => $tile::<$r, HALF>(s, a, b, c, s.columns - j, accumulate),)*
                                _ => unreachable!("a tile has at most its height in rows"),
                            }
                        }
                        i += r;
                    }
                    j += $width;
                }
            }
        };
    }
    driver!(multiply_avx2, "avx2,fma,f16c", tile_avx2, 16, 6, [1 2 3 4 5 6]);
    driver!(multiply_avx512, "avx512f", tile_avx512, 32, 8, [1 2 3 4 5 6 7 8]);
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
