//! 8-bit weights with AVX2: the bytes of a quad split into two pairs of words, for vpmaddwd and vpaddd on 8
//! outputs at a time.

use super::unpacked::{UNPACKED_SCALES, WORDS};
use super::{CODES, GROUP, GROUP_BYTES, QUADS, SCALES, block_bytes};
use crate::matmul::layout::Layout;
use crate::matmul::panel::PANEL;
use crate::matmul::quantized::avx2::{MAX_ROWS, products, scales};
use crate::matmul::quantized::{Kernel, Kernels, PREFETCH_BYTES, Tile};
use std::arch::x86_64::*;

/// A block's results with the sums of one more group: times its scales, and times the scale of the
/// activations where each group has its own.
///
/// # Safety
/// `dx` holds that scale where it is read; AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add<const I8: bool>(sums: __m256i, scales: __m256, dx: *const i32, t: __m256) -> __m256 {
    let sums = _mm256_cvtepi32_ps(sums);
    if I8 {
        // SAFETY: as promised.
        let dx = _mm256_castsi256_ps(_mm256_set1_epi32(unsafe { *dx }));
        _mm256_fmadd_ps(_mm256_mul_ps(sums, scales), dx, t)
    } else {
        _mm256_fmadd_ps(sums, scales, t)
    }
}

/// Adds a block's results to those of the previous blocks.
///
/// # Safety
/// See [`Kernel`]; AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store_block<const M: usize, const I8: bool>(
    t: &[[__m256; 2]; M],
    x: *const i32,
    c: *mut f32,
    fresh: bool,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        for i in 0..M {
            let dx = if I8 {
                _mm256_setzero_ps()
            } else {
                _mm256_castsi256_ps(_mm256_set1_epi32(*x.add((Layout::I16Pairs.words() - 1) * M + i)))
            };
            for h in 0..2 {
                let at = c.add(i * PANEL + 8 * h);
                let old = if fresh { _mm256_setzero_ps() } else { _mm256_loadu_ps(at) };
                let new = if I8 { _mm256_add_ps(old, t[i][h]) } else { _mm256_fmadd_ps(t[i][h], dx, old) };
                _mm256_storeu_ps(at, new);
            }
        }
    }
}

/// See [`super::scalar`]. `PREFETCH` prefetches group by group.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const M: usize, const I8: bool, const PREFETCH: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, .. } = *tile;
    let words = if I8 { GROUP / 2 + 2 } else { GROUP / 2 + 1 };
    let even = _mm256_set1_epi16(255);
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm256_setzero_ps(); 2]; M];
            let (mut wg, mut dg, mut xg) = (w, w.add(groups * CODES), x);
            // Distributed evenly over the block, scales included.
            let mut coming = ahead.wrapping_add(PREFETCH_BYTES);
            for _ in 0..groups {
                let mut s: [[__m256i; 2]; M] =
                    std::array::from_fn(|i| [_mm256_set1_epi32(*xg.add(GROUP / 2 * M + i)); 2]);
                for q in 0..QUADS {
                    let at = wg.add(64 * q).cast::<__m256i>();
                    let u = [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))];
                    let pairs = [
                        [_mm256_and_si256(u[0], even), _mm256_and_si256(u[1], even)],
                        [_mm256_srli_epi16::<8>(u[0]), _mm256_srli_epi16::<8>(u[1])],
                    ];
                    for (p, pair) in pairs.into_iter().enumerate() {
                        for i in 0..M {
                            let y = _mm256_set1_epi32(*xg.add((2 * q + p) * M + i));
                            s[i][0] = _mm256_add_epi32(s[i][0], _mm256_madd_epi16(pair[0], y));
                            s[i][1] = _mm256_add_epi32(s[i][1], _mm256_madd_epi16(pair[1], y));
                        }
                    }
                }
                for h in 0..2 {
                    let d = scales(dg.add(16 * h));
                    for i in 0..M {
                        t[i][h] = add::<I8>(s[i][h], d, xg.add((GROUP / 2 + 1) * M + i), t[i][h]);
                    }
                }
                if PREFETCH {
                    for i in 0..GROUP_BYTES.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T0>(coming.wrapping_add(64 * i).cast());
                    }
                    coming = coming.wrapping_add(GROUP_BYTES);
                }
                wg = wg.add(CODES);
                dg = dg.add(SCALES);
                xg = xg.add(words * M);
            }
            store_block::<M, I8>(&t, x, c, first && block == 0);
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(if PREFETCH { block_bytes(groups) } else { 64 * lines });
            w = w.add(block_bytes(groups));
            x = x.wrapping_add(x_stride);
        }
    }
}

/// Adds products of pairs of words to the sums.
macro_rules! step {
    ($a:literal $b:literal) => {
        concat!(
            "vpmaddwd ymm15, ymm12, ymm14\nvpmaddwd ymm14, ymm13, ymm14\nvpaddd ",
            $a,
            ", ",
            $a,
            ", ymm15\nvpaddd ",
            $b,
            ", ",
            $b,
            ", ymm14\n"
        )
    };
}
products!("avx2", step);

/// The same for weights unpacked to words ([`unpacked`](super::unpacked)), which are in the caches.
///
/// # Safety
/// As above.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpacked_tile<const M: usize, const I8: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, first, .. } = *tile;
    let words = if I8 { GROUP / 2 + 2 } else { GROUP / 2 + 1 };
    // SAFETY: as promised by the caller.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm256_setzero_ps(); 2]; M];
            let (mut d, mut xg) = (w.add(groups * WORDS).cast::<f32>(), x);
            for _ in 0..groups {
                let mut s = [[_mm256_setzero_si256(); 2]; MAX_ROWS];
                for i in 0..M {
                    s[i] = [_mm256_set1_epi32(*xg.add(GROUP / 2 * M + i)); 2];
                }
                products::<M>(2 * QUADS, w, xg, &mut s);
                for h in 0..2 {
                    let d = _mm256_load_ps(d.add(8 * h));
                    for i in 0..M {
                        t[i][h] = add::<I8>(s[i][h], d, xg.add((GROUP / 2 + 1) * M + i), t[i][h]);
                    }
                }
                w = w.add(WORDS);
                d = d.add(PANEL);
                xg = xg.add(words * M);
            }
            store_block::<M, I8>(&t, x, c, first && block == 0);
            w = w.add(groups * UNPACKED_SCALES);
            x = x.wrapping_add(x_stride);
        }
    }
}

const fn unpacked_tiles<const I8: bool>() -> [Kernel; MAX_ROWS] {
    [
        unpacked_tile::<1, I8>,
        unpacked_tile::<2, I8>,
        unpacked_tile::<3, I8>,
        unpacked_tile::<4, I8>,
        unpacked_tile::<5, I8>,
        unpacked_tile::<6, I8>,
    ]
}
static I16_MANY: [Kernel; MAX_ROWS] = unpacked_tiles::<false>();
static I8_MANY: [Kernel; MAX_ROWS] = unpacked_tiles::<true>();
pub static I16_UNPACKED: Kernels =
    Kernels { layout: Layout::I16Pairs, few: &I16_MANY, many: &I16_MANY, pairs: &[], by_rows: None };
pub static I8_UNPACKED: Kernels =
    Kernels { layout: Layout::I8GroupPairs, few: &I8_MANY, many: &I8_MANY, pairs: &[], by_rows: None };

const fn few<const I8: bool>() -> [Kernel; 4] {
    [tile::<1, I8, true>, tile::<2, I8, true>, tile::<3, I8, true>, tile::<4, I8, true>]
}
const fn many<const I8: bool>() -> [Kernel; 4] {
    [tile::<1, I8, false>, tile::<2, I8, false>, tile::<3, I8, false>, tile::<4, I8, false>]
}
pub static I16_ACTIVATIONS: Kernels = Kernels {
    layout: Layout::I16Pairs,
    few: &few::<false>(),
    many: &many::<false>(),
    pairs: &[],
    by_rows: None,
};
pub static I8_ACTIVATIONS: Kernels = Kernels {
    layout: Layout::I8GroupPairs,
    few: &few::<true>(),
    many: &many::<true>(),
    pairs: &[],
    by_rows: None,
};
