//! Float weights with AVX2.

use super::FEW_ROWS;
use super::tile::{BF16, F16, F32, Kernel, LINE, Tile, size};
use crate::matmul::panel::PANEL;
use std::arch::x86_64::*;

/// Sixteen weights as two vectors: of the first or the second of the two inputs behind `w`.
///
/// # Safety
/// AVX2 and F16C; `w` points at 16 weights of that input, with bf16 at those of both.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const W: u8>(w: *const u8, second: bool) -> (__m256, __m256) {
    // SAFETY: as promised.
    unsafe {
        let at = w.add(usize::from(second) * size::<W>());
        match W {
            F32 => (_mm256_loadu_ps(at.cast()), _mm256_loadu_ps(at.add(32).cast())),
            F16 => (
                _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast())),
            ),
            _ => {
                let (a, b) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast()));
                let (a, b) = if second == (W == BF16) {
                    let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
                    (_mm256_and_si256(a, high), _mm256_and_si256(b, high))
                } else {
                    (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b))
                };
                (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))
            }
        }
    }
}

/// Few rows: M rows by P panels, straight from the packed weights, as [`Kernel`].
///
/// # Safety
/// AVX2, FMA, F16C; all pointers are valid for the sizes.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matvec<const M: usize, const P: usize, const W: u8>(tile: &Tile) {
    let Tile { length, mut w, w_stride, mut x, x_stride, c, c_stride, first, mut ahead, .. } = *tile;
    let mut s = [[[_mm256_setzero_ps(); 2]; P]; M];
    // SAFETY: as promised; prefetches touch no memory.
    unsafe {
        if !first {
            for i in 0..M {
                for p in 0..P {
                    for h in 0..2 {
                        s[i][p][h] = _mm256_loadu_ps(c.add(p * c_stride + i * PANEL + 8 * h));
                    }
                }
            }
        }
        let mut left = length;
        while left > 0 {
            for second in [false, true] {
                if second && left == 1 {
                    break;
                }
                let prefetch = W == F32 || !second;
                for p in 0..P {
                    if prefetch {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(p * w_stride).cast());
                    }
                    let (a, b) = load::<W>(w.add(p * w_stride), second);
                    for i in 0..M {
                        let y = _mm256_broadcast_ss(&*x.add(i * x_stride));
                        s[i][p] = [_mm256_fmadd_ps(y, a, s[i][p][0]), _mm256_fmadd_ps(y, b, s[i][p][1])];
                    }
                }
                if prefetch {
                    ahead = ahead.wrapping_add(LINE);
                }
                x = x.add(if x_stride == 1 { M } else { 1 });
            }
            w = w.wrapping_add(2 * size::<W>());
            left -= left.min(2);
        }
        for i in 0..M {
            for p in 0..P {
                for h in 0..2 {
                    _mm256_storeu_ps(c.add(p * c_stride + i * PANEL + 8 * h), s[i][p][h]);
                }
            }
        }
    }
}

/// Many rows: M interleaved rows by one panel of f32; prefetches the packed bytes of as many inputs.
///
/// # Safety
/// AVX2 and FMA; all pointers are valid for the sizes.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const M: usize>(tile: &Tile) {
    let Tile { length, w, mut x, c, first, mut ahead, packed_bytes, .. } = *tile;
    let mut w: *const f32 = w.cast();
    let mut s = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: as promised; prefetches touch no memory.
    unsafe {
        if !first {
            for i in 0..M {
                for h in 0..2 {
                    s[i][h] = _mm256_loadu_ps(c.add(PANEL * i + 8 * h));
                }
            }
        }
        for _ in 0..length {
            let (a, b) = (_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8)));
            for i in 0..M {
                let y = _mm256_broadcast_ss(&*x.add(i));
                s[i] = [_mm256_fmadd_ps(y, a, s[i][0]), _mm256_fmadd_ps(y, b, s[i][1])];
            }
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_add(packed_bytes);
            w = w.add(PANEL);
            x = x.add(M);
        }
        for i in 0..M {
            for h in 0..2 {
                _mm256_storeu_ps(c.add(PANEL * i + 8 * h), s[i][h]);
            }
        }
    }
}

/// # Safety
/// AVX2 and F16C; `w` holds `length` inputs of a panel, `out` room for them.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn to_f32<const W: u8>(length: usize, w: *const u8, out: *mut f32) {
    for k in 0..length {
        // SAFETY: as promised.
        unsafe {
            let (a, b) = load::<W>(w.add(k / 2 * 2 * size::<W>()), k % 2 == 1);
            _mm256_storeu_ps(out.add(PANEL * k), a);
            _mm256_storeu_ps(out.add(PANEL * k + 8), b);
        }
    }
}

/// One, two or four panels side by side, by rows, limited by the number of registers.
pub const fn few<const W: u8>() -> [[(usize, Kernel); 3]; FEW_ROWS] {
    [
        [(1, matvec::<1, 1, W>), (2, matvec::<1, 2, W>), (4, matvec::<1, 4, W>)],
        [(1, matvec::<2, 1, W>), (2, matvec::<2, 2, W>), (2, matvec::<2, 2, W>)],
        [(1, matvec::<3, 1, W>), (2, matvec::<3, 2, W>), (2, matvec::<3, 2, W>)],
        [(1, matvec::<4, 1, W>), (1, matvec::<4, 1, W>), (1, matvec::<4, 1, W>)],
    ]
}
pub static CONVERTED: [Kernel; 6] = [tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>];
