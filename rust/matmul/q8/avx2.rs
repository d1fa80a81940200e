//! 8-bit weights with AVX2: the bytes of a quad part to two pairs of words, for vpmaddwd and vpaddd on 8 outputs at a time.

use super::{A_GROUP, CODES, GROUP, QUADS, SCALES, block_bytes};
use crate::matmul::PANEL;
use crate::matmul::quantized::avx2::scales;
use crate::matmul::quantized::{AHEAD, Kernel, Kernels};
use crate::matmul::strips::Kind;
use std::arch::x86_64::*;

/// See [`super::scalar`]. `SPREAD` asks for the memory ahead, group by group.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA and F16C.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const M: usize, const NARROW: bool, const SPREAD: bool>(
    blocks: usize,
    groups: usize,
    mut w: *const u8,
    mut x: *const i32,
    x_stride: usize,
    c: *mut f32,
    mut ahead: *const u8,
    lines: usize,
    first: bool,
) {
    let words = if NARROW { GROUP / 2 + 2 } else { GROUP / 2 + 1 };
    let even = _mm256_set1_epi16(255);
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm256_setzero_ps(); 2]; M];
            let (mut wg, mut dg, mut xg) = (w, w.add(groups * CODES), x);
            // Spread evenly over the block, scales too.
            let mut coming = ahead.wrapping_add(AHEAD);
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
                        let sum = _mm256_cvtepi32_ps(s[i][h]);
                        t[i][h] = if NARROW {
                            let dx = _mm256_castsi256_ps(_mm256_set1_epi32(*xg.add((GROUP / 2 + 1) * M + i)));
                            _mm256_fmadd_ps(_mm256_mul_ps(sum, d), dx, t[i][h])
                        } else {
                            _mm256_fmadd_ps(sum, d, t[i][h])
                        };
                    }
                }
                if SPREAD {
                    for i in 0..A_GROUP.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T0>(coming.wrapping_add(64 * i).cast());
                    }
                    coming = coming.wrapping_add(A_GROUP);
                }
                wg = wg.add(CODES);
                dg = dg.add(SCALES);
                xg = xg.add(words * M);
            }
            for i in 0..M {
                let dx = if NARROW {
                    _mm256_setzero_ps()
                } else {
                    _mm256_castsi256_ps(_mm256_set1_epi32(*x.add((Kind::Pairs.words() - 1) * M + i)))
                };
                for h in 0..2 {
                    let at = c.add(i * PANEL + 8 * h);
                    let old = if first && block == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(at) };
                    let new =
                        if NARROW { _mm256_add_ps(old, t[i][h]) } else { _mm256_fmadd_ps(t[i][h], dx, old) };
                    _mm256_storeu_ps(at, new);
                }
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(if SPREAD { block_bytes(groups) } else { 64 * lines });
            w = w.add(block_bytes(groups));
            x = x.wrapping_add(x_stride);
        }
    }
}

const fn few<const NARROW: bool>() -> [Kernel; 4] {
    [tile::<1, NARROW, true>, tile::<2, NARROW, true>, tile::<3, NARROW, true>, tile::<4, NARROW, true>]
}
const fn many<const NARROW: bool>() -> [Kernel; 4] {
    [tile::<1, NARROW, false>, tile::<2, NARROW, false>, tile::<3, NARROW, false>, tile::<4, NARROW, false>]
}
pub static WIDE: Kernels =
    Kernels { kind: Kind::Pairs, few: &few::<false>(), many: &many::<false>(), pairs: &[], by_rows: None };
pub static NARROW: Kernels =
    Kernels { kind: Kind::GroupPairs, few: &few::<true>(), many: &many::<true>(), pairs: &[], by_rows: None };
