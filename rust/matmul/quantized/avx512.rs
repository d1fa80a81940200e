//! Shared by the kernels with AVX-512.

use super::SCALE_BIAS;
use std::arch::x86_64::*;

/// Scales of 16 outputs without the factor.
///
/// # Safety
/// Sixteen f16 lie behind `at`.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
pub unsafe fn scales(at: *const u8) -> __m512 {
    // SAFETY: as promised.
    let stored = unsafe { _mm256_loadu_si256(at.cast()) };
    _mm512_mul_ps(_mm512_cvtph_ps(stored), _mm512_set1_ps(1.0 / SCALE_BIAS))
}

/// Prefetches the next weights of P panels.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn prefetch<const P: usize>(ahead: *const u8, lines: usize, w_stride: usize) {
    for i in 0..lines {
        for p in 0..P {
            _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(p * w_stride + 64 * i).cast());
        }
    }
}

/// Offset of a word of a row: of M interleaved rows, or of row-major rows of `words` words.
#[inline(always)]
pub const fn offset<const M: usize, const ROWS: bool>(word: usize, row: usize, words: usize) -> usize {
    if ROWS { row * words + word } else { word * M + row }
}

/// The kernels of a type, from one function generic over rows, panels, whether it prefetches while it reads, and
/// whether activations are row-major.
macro_rules! kernels {
    ($tile:ident, $name:ident, $layout:expr) => {
        pub static $name: $crate::matmul::quantized::Kernels = {
            use $crate::matmul::quantized::{Kernel, Kernels};

            const fn ones<const PREFETCH: bool, const ROWS: bool>() -> [Kernel; 8] {
                [
                    $tile::<1, 1, PREFETCH, ROWS>,
                    $tile::<2, 1, PREFETCH, ROWS>,
                    $tile::<3, 1, PREFETCH, ROWS>,
                    $tile::<4, 1, PREFETCH, ROWS>,
                    $tile::<5, 1, PREFETCH, ROWS>,
                    $tile::<6, 1, PREFETCH, ROWS>,
                    $tile::<7, 1, PREFETCH, ROWS>,
                    $tile::<8, 1, PREFETCH, ROWS>,
                ]
            }
            // Twelve sums, twelve totals and their operands fit into 32 registers.
            const fn twos<const ROWS: bool>() -> [Kernel; 6] {
                [
                    $tile::<1, 2, false, ROWS>,
                    $tile::<2, 2, false, ROWS>,
                    $tile::<3, 2, false, ROWS>,
                    $tile::<4, 2, false, ROWS>,
                    $tile::<5, 2, false, ROWS>,
                    $tile::<6, 2, false, ROWS>,
                ]
            }
            Kernels {
                layout: $layout,
                few: &ones::<true, false>(),
                many: &ones::<false, false>(),
                pairs: &twos::<false>(),
                by_rows: Some((&ones::<false, true>(), &twos::<true>())),
            }
        };
    };
}
pub(crate) use kernels;
