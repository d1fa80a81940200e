//! 4-bit weights with AVX-512 and VNNI, 16 outputs per register: nibbles unpacked in registers, or blocks
//! unpacked to bytes.

use super::{CODES, HALF, offsets};
use crate::matmul::layout::Layout;
use crate::matmul::opaque::opaque;
use crate::matmul::panel::{GROUP, GROUPS, PANEL, SUPERBLOCK};
use crate::matmul::quantized::avx512::{kernels, offset, prefetch, scales};
use crate::matmul::quantized::{PREFETCH_BYTES, Tile};
use std::arch::x86_64::*;

/// Bytes of a whole block per group.
const GROUP_BYTES: usize = offsets(GROUPS)[3] / GROUPS;

/// Stores the results of a block from its totals and steps; previous results are not read where `fresh`.
///
/// # Safety
/// See [`Kernel`](crate::matmul::quantized::Kernel); AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
unsafe fn store<const M: usize, const P: usize, const ROWS: bool>(
    sums: &[[__m512i; M]; P],
    d: *const u8,
    w_stride: usize,
    x: *const i32,
    c: *mut f32,
    c_stride: usize,
    fresh: bool,
) {
    let words = Layout::I8Quads.words();
    // SAFETY: as promised by the caller.
    unsafe {
        let d: [__m512; P] = std::array::from_fn(|p| scales(d.add(p * w_stride)));
        for i in 0..M {
            let scale = *x.add(offset::<M, ROWS>(words - 1, i, words));
            let scale = _mm512_castsi512_ps(_mm512_set1_epi32(scale));
            for p in 0..P {
                let at = c.add(p * c_stride + i * PANEL);
                let old = if fresh { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                let t = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p][i]), d[p]);
                _mm512_storeu_ps(at, _mm512_fmadd_ps(t, scale, old));
            }
        }
    }
}

/// M rows by P panels. See [`super::scalar`]. `PREFETCH` prefetches group by group.
///
/// # Safety
/// See [`Kernel`](crate::matmul::quantized::Kernel); AVX-512 F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn tile<const M: usize, const P: usize, const PREFETCH: bool, const ROWS: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, w_stride, c_stride } =
        *tile;
    let low = _mm512_set1_epi8(15);
    let [scales_at, lows_at, d_at, size] = offsets(groups);
    let offset = |word, i| offset::<M, ROWS>(word, i, Layout::I8Quads.words());
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut sums = [[_mm512_setzero_si512(); M]; P];
            // Opaque, so that the compiler does not unroll the groups.
            let (mut wg, mut xg, mut g) = (w, x, 0);
            let end = opaque(w.add(scales_at));
            // Distributed evenly over the block, scales and lows included.
            let mut upcoming = w.wrapping_add(PREFETCH_BYTES);
            while wg != end {
                let mut s = [[_mm512_setzero_si512(); M]; P];
                for j in 0..4 {
                    let v: [__m512i; P] =
                        std::array::from_fn(|p| _mm512_loadu_si512(wg.add(p * w_stride + j * 64).cast()));
                    for i in 0..M {
                        let y = _mm512_set1_epi32(*xg.add(offset(j, i)));
                        for p in 0..P {
                            s[p][i] = _mm512_dpbusd_epi32(s[p][i], _mm512_and_si512(v[p], low), y);
                        }
                    }
                    let b = v.map(|v| _mm512_and_si512(_mm512_srli_epi16::<4>(v), low));
                    for i in 0..M {
                        let y = _mm512_set1_epi32(*xg.add(offset(j + 4, i)));
                        for p in 0..P {
                            s[p][i] = _mm512_dpbusd_epi32(s[p][i], b[p], y);
                        }
                    }
                }
                // The low halves for the first four groups, the high ones for the others.
                let shift = _mm_cvtsi32_si128((g / HALF * 4) as i32);
                for p in 0..P {
                    let at = w.add(p * w_stride + scales_at + g % HALF * PANEL);
                    let both = _mm_srl_epi16(_mm_loadu_si128(at.cast()), shift);
                    let scale = _mm512_cvtepu8_epi32(_mm_and_si128(both, _mm512_castsi512_si128(low)));
                    for i in 0..M {
                        sums[p][i] = _mm512_add_epi32(sums[p][i], _mm512_mullo_epi32(s[p][i], scale));
                    }
                }
                if PREFETCH {
                    for i in 0..5 {
                        _mm_prefetch::<_MM_HINT_T1>(upcoming.wrapping_add(64 * i).cast());
                    }
                    upcoming = upcoming.wrapping_add(GROUP_BYTES);
                }
                wg = wg.add(CODES);
                xg = xg.add(GROUP / 4 * if ROWS { 1 } else { M });
                g += 1;
            }
            // Zero for groups that a short block lacks: their sums are zero as well.
            let mut lows = [[_mm512_setzero_si512(); GROUPS / 2]; P];
            for p in 0..P {
                for q in 0..GROUPS / 2 {
                    if q < groups.div_ceil(2) {
                        let at = w.add(p * w_stride + lows_at + 2 * PANEL * q);
                        lows[p][q] = _mm512_cvtepi8_epi16(_mm256_loadu_si256(at.cast()));
                    }
                }
            }
            // Row by row: one load of a row serves all panels.
            for i in 0..M {
                for q in 0..GROUPS / 2 {
                    let y = _mm512_set1_epi32(*x.add(offset(SUPERBLOCK / 4 + q, i)));
                    for p in 0..P {
                        sums[p][i] = _mm512_dpwssd_epi32(sums[p][i], lows[p][q], y);
                    }
                }
            }
            store::<M, P, ROWS>(&sums, w.add(d_at), w_stride, x, c, c_stride, first && block == 0);
            prefetch::<P>(ahead, lines, w_stride);
            ahead = ahead.wrapping_add(64 * lines);
            w = w.add(size);
            x = x.wrapping_add(x_stride);
        }
    }
}

/// The same for weights unpacked to bytes ([`unpacked`](super::unpacked)), which are in the caches.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn unpacked_tile<const M: usize, const P: usize, const PREFETCH: bool, const ROWS: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, first, w_stride, c_stride, .. } = *tile;
    let words = Layout::I8Quads.words();
    let offset = |word, i| offset::<M, ROWS>(word, i, words);
    // SAFETY: as promised by the caller.
    unsafe {
        for block in 0..blocks {
            let mut sums = [[_mm512_setzero_si512(); M]; P];
            for i in 0..M {
                let correction = _mm512_set1_epi32(*x.add(offset(words - 2, i)));
                for p in 0..P {
                    sums[p][i] = correction;
                }
            }
            let mut xg = x;
            // Opaque, so that the compiler does not unroll the groups.
            let end = opaque(w.add(groups * GROUP * PANEL));
            while w != end {
                for q in 0..GROUP / 4 {
                    let u: [__m512i; P] =
                        std::array::from_fn(|p| _mm512_loadu_si512(w.add(p * w_stride + 64 * q).cast()));
                    for i in 0..M {
                        let y = _mm512_set1_epi32(*xg.add(offset(q, i)));
                        for p in 0..P {
                            sums[p][i] = _mm512_dpbusd_epi32(sums[p][i], u[p], y);
                        }
                    }
                }
                w = w.add(GROUP * PANEL);
                xg = xg.add(GROUP / 4 * if ROWS { 1 } else { M });
            }
            store::<M, P, ROWS>(&sums, w, w_stride, x, c, c_stride, first && block == 0);
            w = w.add(64);
            x = x.wrapping_add(x_stride);
        }
    }
}

kernels! { tile, KERNELS, Layout::I8Quads }
kernels! { unpacked_tile, UNPACKED, Layout::I8Quads }
