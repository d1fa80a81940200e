//! 8-bit weights with AVX-VNNI: vpdpbusd on 8 outputs at a time, twice for 16-bit activations.

use super::{CODES, GROUP_BYTES, QUADS, SCALES, block_bytes};
use crate::matmul::layout::Layout;
use crate::matmul::panel::PANEL;
use crate::matmul::quantized::avx2::scales;
use crate::matmul::quantized::{Kernel, Kernels, PREFETCH_BYTES, Tile};
use std::arch::x86_64::*;

/// The codes of a quad, of 8 outputs and the next 8.
///
/// # Safety
/// AVX2; a whole group lies behind `group`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn codes(group: *const u8, quad: usize) -> [__m256i; 2] {
    // SAFETY: as promised.
    unsafe {
        let at = group.add(64 * quad).cast::<__m256i>();
        [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
    }
}

/// `s + u * y`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dot(s: [__m256i; 2], u: [__m256i; 2], y: __m256i) -> [__m256i; 2] {
    [_mm256_dpbusd_avx_epi32(s[0], u[0], y), _mm256_dpbusd_avx_epi32(s[1], u[1], y)]
}

/// 16-bit activations in planes: `256 * sum of high bytes + sum of low bytes`. See [`super::scalar`].
/// `PREFETCH` prefetches group by group.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA, F16C and AVX-VNNI.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn i16_activations<const M: usize, const PREFETCH: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, .. } = *tile;
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm256_setzero_ps(); 2]; M];
            let mut xg = x;
            // Distributed evenly over the block, scales included.
            let mut upcoming = ahead.wrapping_add(PREFETCH_BYTES);
            // Opaque, so that the compiler does not unroll the groups.
            let (mut wg, mut dg) = (w, w.add(groups * CODES));
            let end = std::hint::black_box(dg);
            while wg != end {
                let mut s = [[_mm256_setzero_si256(); 2]; M];
                for plane in 0..2 {
                    for q in 0..QUADS {
                        let u = codes(wg, q);
                        for i in 0..M {
                            let y = _mm256_set1_epi32(*xg.add((plane * QUADS + q) * M + i));
                            s[i] = dot(s[i], u, y);
                        }
                    }
                    if plane == 0 {
                        for i in 0..M {
                            let correction = _mm256_set1_epi32(*xg.add(2 * QUADS * M + i));
                            for h in 0..2 {
                                s[i][h] = _mm256_add_epi32(_mm256_slli_epi32::<8>(s[i][h]), correction);
                            }
                        }
                    }
                }
                for h in 0..2 {
                    let d = scales(dg.add(16 * h));
                    for i in 0..M {
                        t[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[i][h]), d, t[i][h]);
                    }
                }
                if PREFETCH {
                    for i in 0..GROUP_BYTES.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T0>(upcoming.wrapping_add(64 * i).cast());
                    }
                    upcoming = upcoming.wrapping_add(GROUP_BYTES);
                }
                wg = wg.add(CODES);
                dg = dg.add(SCALES);
                xg = xg.add((2 * QUADS + 1) * M);
            }
            for i in 0..M {
                let at = x.add((Layout::I16Planes.words() - 1) * M + i);
                let dx = _mm256_castsi256_ps(_mm256_set1_epi32(*at));
                for h in 0..2 {
                    let at = c.add(i * PANEL + 8 * h);
                    let old = if first && block == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(at) };
                    _mm256_storeu_ps(at, _mm256_fmadd_ps(t[i][h], dx, old));
                }
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(if PREFETCH { block_bytes(groups) } else { 64 * lines });
            w = w.add(block_bytes(groups));
            x = x.wrapping_add(x_stride);
        }
    }
}

/// 8-bit activations.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA, F16C and AVX-VNNI.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn i8_activations<const M: usize, const PREFETCH: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, .. } = *tile;
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm256_setzero_ps(); 2]; M];
            let mut xg = x;
            // Distributed evenly over the block, scales included.
            let mut upcoming = ahead.wrapping_add(PREFETCH_BYTES);
            let (mut wg, mut dg) = (w, w.add(groups * CODES));
            let end = std::hint::black_box(dg);
            while wg != end {
                let mut s: [[__m256i; 2]; M] =
                    std::array::from_fn(|i| [_mm256_set1_epi32(*xg.add(QUADS * M + i)); 2]);
                for q in 0..QUADS {
                    let u = codes(wg, q);
                    for i in 0..M {
                        s[i] = dot(s[i], u, _mm256_set1_epi32(*xg.add(q * M + i)));
                    }
                }
                let d = [0, 1].map(|h| scales(dg.add(16 * h)));
                for i in 0..M {
                    let dx = _mm256_castsi256_ps(_mm256_set1_epi32(*xg.add((QUADS + 1) * M + i)));
                    for h in 0..2 {
                        let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(s[i][h]), d[h]);
                        t[i][h] = _mm256_fmadd_ps(sum, dx, t[i][h]);
                    }
                }
                if PREFETCH {
                    for i in 0..GROUP_BYTES.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T0>(upcoming.wrapping_add(64 * i).cast());
                    }
                    upcoming = upcoming.wrapping_add(GROUP_BYTES);
                }
                wg = wg.add(CODES);
                dg = dg.add(SCALES);
                xg = xg.add((QUADS + 2) * M);
            }
            for i in 0..M {
                for h in 0..2 {
                    let at = c.add(i * PANEL + 8 * h);
                    let old = if first && block == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(at) };
                    _mm256_storeu_ps(at, _mm256_add_ps(old, t[i][h]));
                }
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(if PREFETCH { block_bytes(groups) } else { 64 * lines });
            w = w.add(block_bytes(groups));
            x = x.wrapping_add(x_stride);
        }
    }
}

static I16_FEW: [Kernel; 6] = [
    i16_activations::<1, true>,
    i16_activations::<2, true>,
    i16_activations::<3, true>,
    i16_activations::<4, true>,
    i16_activations::<5, true>,
    i16_activations::<6, true>,
];
static I16_MANY: [Kernel; 6] = [
    i16_activations::<1, false>,
    i16_activations::<2, false>,
    i16_activations::<3, false>,
    i16_activations::<4, false>,
    i16_activations::<5, false>,
    i16_activations::<6, false>,
];
static I8_FEW: [Kernel; 4] = [
    i8_activations::<1, true>,
    i8_activations::<2, true>,
    i8_activations::<3, true>,
    i8_activations::<4, true>,
];
static I8_MANY: [Kernel; 4] = [
    i8_activations::<1, false>,
    i8_activations::<2, false>,
    i8_activations::<3, false>,
    i8_activations::<4, false>,
];
pub static I16_ACTIVATIONS: Kernels =
    Kernels { layout: Layout::I16Planes, few: &I16_FEW, many: &I16_MANY, pairs: &[], by_rows: None };
pub static I8_ACTIVATIONS: Kernels =
    Kernels { layout: Layout::I8GroupQuads, few: &I8_FEW, many: &I8_MANY, pairs: &[], by_rows: None };
