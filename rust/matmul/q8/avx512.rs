//! 8-bit weights with AVX-512 and VNNI: 16 outputs per register, a row's activations as a broadcast operand.

use super::{CODES, GROUP_BYTES, QUADS, SCALES, block_bytes};
use crate::matmul::layout::Layout;
use crate::matmul::opaque::opaque;
use crate::matmul::panel::PANEL;
use crate::matmul::quantized::avx512::{kernels, offset, prefetch, scales};
use crate::matmul::quantized::{PREFETCH_BYTES, Tile};
use std::arch::x86_64::*;

/// Prefetches a cache line of weights. Measured on Zen 5: when memory-bound, one or two rows are 5 to 7 %
/// faster with weights bypassing the outer caches, eight rows 4 % slower.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch_line<const M: usize>(line: *const u8) {
    if M <= 2 {
        _mm_prefetch::<_MM_HINT_NTA>(line.cast());
    } else {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
}

/// 16-bit activations in planes, M rows by P panels: `256 * sum of high bytes + sum of low bytes`. See
/// [`super::scalar`]. `PREFETCH` prefetches group by group.
///
/// # Safety
/// See [`Kernel`](crate::matmul::quantized::Kernel); AVX-512 F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn i16_activations<const M: usize, const P: usize, const PREFETCH: bool, const ROWS: bool>(
    tile: &Tile,
) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, w_stride, c_stride } =
        *tile;
    let offset = |word, i| offset::<M, ROWS>(word, i, Layout::I16Planes.words());
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm512_setzero_ps(); M]; P];
            let mut xg = x;
            // Distributed evenly over the block, scales included.
            let mut upcoming = ahead.wrapping_add(PREFETCH_BYTES);
            // Opaque, so that the compiler does not unroll the groups.
            let (mut wg, mut dg) = (w, w.add(groups * CODES));
            let end = std::hint::black_box(dg);
            while wg != end {
                let mut s = [[_mm512_setzero_si512(); M]; P];
                if P == 1 {
                    // Both planes while the weights are in a register, in chains of their own: each byte is
                    // read once.
                    let mut low = [_mm512_setzero_si512(); M];
                    for q in 0..QUADS {
                        let u = _mm512_loadu_si512(wg.add(64 * q).cast());
                        for i in 0..M {
                            let (high, x) = (*xg.add(offset(q, i)), *xg.add(offset(QUADS + q, i)));
                            s[0][i] = _mm512_dpbusd_epi32(s[0][i], u, _mm512_set1_epi32(high));
                            low[i] = _mm512_dpbusd_epi32(low[i], u, _mm512_set1_epi32(x));
                        }
                    }
                    for i in 0..M {
                        let correction = _mm512_set1_epi32(*xg.add(offset(2 * QUADS, i)));
                        let high = _mm512_add_epi32(_mm512_slli_epi32::<8>(s[0][i]), correction);
                        s[0][i] = _mm512_add_epi32(high, low[i]);
                    }
                } else {
                    for plane in 0..2 {
                        // Opaque, so that the compiler reloads the weights for the second plane: they do not
                        // fit into registers beside the sums.
                        let wg = opaque(wg);
                        for q in 0..QUADS {
                            let u: [__m512i; P] = std::array::from_fn(|p| {
                                _mm512_loadu_si512(wg.add(p * w_stride + 64 * q).cast())
                            });
                            for i in 0..M {
                                let y = _mm512_set1_epi32(*xg.add(offset(plane * QUADS + q, i)));
                                for p in 0..P {
                                    s[p][i] = _mm512_dpbusd_epi32(s[p][i], u[p], y);
                                }
                            }
                        }
                        if plane == 0 {
                            for i in 0..M {
                                let correction = _mm512_set1_epi32(*xg.add(offset(2 * QUADS, i)));
                                for p in 0..P {
                                    s[p][i] = _mm512_add_epi32(_mm512_slli_epi32::<8>(s[p][i]), correction);
                                }
                            }
                        }
                    }
                }
                for p in 0..P {
                    let d = scales(dg.add(p * w_stride));
                    for i in 0..M {
                        t[p][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[p][i]), d, t[p][i]);
                    }
                }
                if PREFETCH {
                    for i in 0..GROUP_BYTES.div_ceil(64) {
                        prefetch_line::<M>(upcoming.wrapping_add(64 * i));
                    }
                    upcoming = upcoming.wrapping_add(GROUP_BYTES);
                }
                wg = wg.add(CODES);
                dg = dg.add(SCALES);
                xg = xg.add((2 * QUADS + 1) * if ROWS { 1 } else { M });
            }
            for i in 0..M {
                let at = x.add(offset(Layout::I16Planes.words() - 1, i));
                let dx = _mm512_castsi512_ps(_mm512_set1_epi32(*at));
                for p in 0..P {
                    let at = c.add(p * c_stride + i * PANEL);
                    let old = if first && block == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                    _mm512_storeu_ps(at, _mm512_fmadd_ps(t[p][i], dx, old));
                }
            }
            prefetch::<P>(ahead, lines, w_stride);
            ahead = ahead.wrapping_add(if PREFETCH { block_bytes(groups) } else { 64 * lines });
            w = w.add(block_bytes(groups));
            x = x.wrapping_add(x_stride);
        }
    }
}

/// 8-bit activations, M rows by P panels.
///
/// # Safety
/// See [`Kernel`](crate::matmul::quantized::Kernel); AVX-512 F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn i8_activations<const M: usize, const P: usize, const PREFETCH: bool, const ROWS: bool>(
    tile: &Tile,
) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, w_stride, c_stride } =
        *tile;
    let offset = |word, i| offset::<M, ROWS>(word, i, Layout::I8GroupQuads.words());
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm512_setzero_ps(); M]; P];
            let mut xg = x;
            // Distributed evenly over the block, scales included.
            let mut upcoming = ahead.wrapping_add(PREFETCH_BYTES);
            let (mut wg, mut dg) = (w, w.add(groups * CODES));
            let end = std::hint::black_box(dg);
            while wg != end {
                let mut s: [[__m512i; M]; P] =
                    [std::array::from_fn(|i| _mm512_set1_epi32(*xg.add(offset(QUADS, i)))); P];
                for q in 0..QUADS {
                    let u: [__m512i; P] =
                        std::array::from_fn(|p| _mm512_loadu_si512(wg.add(p * w_stride + 64 * q).cast()));
                    for i in 0..M {
                        let y = _mm512_set1_epi32(*xg.add(offset(q, i)));
                        for p in 0..P {
                            s[p][i] = _mm512_dpbusd_epi32(s[p][i], u[p], y);
                        }
                    }
                }
                let d: [__m512; P] = std::array::from_fn(|p| scales(dg.add(p * w_stride)));
                for i in 0..M {
                    let dx = _mm512_castsi512_ps(_mm512_set1_epi32(*xg.add(offset(QUADS + 1, i))));
                    for p in 0..P {
                        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(s[p][i]), d[p]);
                        t[p][i] = _mm512_fmadd_ps(scaled, dx, t[p][i]);
                    }
                }
                if PREFETCH {
                    for i in 0..GROUP_BYTES.div_ceil(64) {
                        prefetch_line::<M>(upcoming.wrapping_add(64 * i));
                    }
                    upcoming = upcoming.wrapping_add(GROUP_BYTES);
                }
                wg = wg.add(CODES);
                dg = dg.add(SCALES);
                xg = xg.add((QUADS + 2) * if ROWS { 1 } else { M });
            }
            for p in 0..P {
                for i in 0..M {
                    let at = c.add(p * c_stride + i * PANEL);
                    let old = if first && block == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                    _mm512_storeu_ps(at, _mm512_add_ps(old, t[p][i]));
                }
            }
            prefetch::<P>(ahead, lines, w_stride);
            ahead = ahead.wrapping_add(if PREFETCH { block_bytes(groups) } else { 64 * lines });
            w = w.add(block_bytes(groups));
            x = x.wrapping_add(x_stride);
        }
    }
}

kernels! { i16_activations, I16_ACTIVATIONS, Layout::I16Planes }
kernels! { i8_activations, I8_ACTIVATIONS, Layout::I8GroupQuads }
