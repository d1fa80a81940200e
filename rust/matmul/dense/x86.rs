//! Small dense products with AVX2 and AVX-512.

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
                    acc[i] =
                        [_mm256_loadu_ps(c.add(i * s.c_stride)), _mm256_loadu_ps(c.add(i * s.c_stride + 8))];
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
