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

/// The kernels of a type, from one function generic over rows, panels and whether it prefetches while it
/// reads.
macro_rules! kernels {
    ($features:literal, $tile:ident, $name:ident, $layout:expr) => {
        pub static $name: $crate::matmul::quantized::Kernels = {
            use $crate::matmul::quantized::{Kernel, Kernels, PairKernel};

            /// # Safety
            /// See [`Kernel`].
            #[target_feature(enable = $features)]
            unsafe fn one<const M: usize, const PREFETCH: bool, const ROWS: bool>(
                blocks: usize,
                groups: usize,
                w: *const u8,
                x: *const i32,
                x_stride: usize,
                c: *mut f32,
                ahead: *const u8,
                lines: usize,
                first: bool,
            ) {
                // SAFETY: as promised by the caller.
                unsafe {
                    $tile::<M, 1, PREFETCH, ROWS>(
                        blocks, groups, w, x, x_stride, c, ahead, lines, first, 0, 0,
                    );
                }
            }

            /// # Safety
            /// See [`PairKernel`].
            #[target_feature(enable = $features)]
            unsafe fn two<const M: usize, const ROWS: bool>(
                blocks: usize,
                groups: usize,
                w: *const u8,
                x: *const i32,
                x_stride: usize,
                c: *mut f32,
                ahead: *const u8,
                lines: usize,
                first: bool,
                w_stride: usize,
                c_stride: usize,
            ) {
                // SAFETY: as promised by the caller.
                unsafe {
                    $tile::<M, 2, false, ROWS>(
                        blocks, groups, w, x, x_stride, c, ahead, lines, first, w_stride, c_stride,
                    );
                }
            }

            const fn ones<const PREFETCH: bool, const ROWS: bool>() -> [Kernel; 8] {
                [
                    one::<1, PREFETCH, ROWS>,
                    one::<2, PREFETCH, ROWS>,
                    one::<3, PREFETCH, ROWS>,
                    one::<4, PREFETCH, ROWS>,
                    one::<5, PREFETCH, ROWS>,
                    one::<6, PREFETCH, ROWS>,
                    one::<7, PREFETCH, ROWS>,
                    one::<8, PREFETCH, ROWS>,
                ]
            }
            // Twelve sums, twelve totals and their operands fit into 32 registers.
            const fn twos<const ROWS: bool>() -> [PairKernel; 6] {
                [
                    two::<1, ROWS>,
                    two::<2, ROWS>,
                    two::<3, ROWS>,
                    two::<4, ROWS>,
                    two::<5, ROWS>,
                    two::<6, ROWS>,
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
