//! Shared by the kernels with AVX2, including those with AVX-VNNI.

use super::SCALE_BIAS;
use std::arch::x86_64::*;

/// Maximum number of rows whose sums for 16 outputs fit into the registers.
pub const MAX_ROWS: usize = 6;

/// Defines a function `products` that adds products of M rows and 16 outputs to their sums. Each step
/// multiplies two vectors of weights, in ymm12 and ymm13, by a word of each row, in ymm14, with
/// `$step!(sum sum)`; ymm15 is free.
///
/// In assembly: the compiler spills the sums of six rows, which limits the speed.
macro_rules! products {
    ($features:literal, $step:ident) => {
        /// # Safety
        /// A word of M rows and 64 aligned bytes of weights for each of `steps` steps, at least one, lie
        /// behind `x` and `w`; the CPU has the instruction set.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn products<const M: usize>(
            steps: usize,
            w: *const u8,
            x: *const i32,
            sums: &mut [[__m256i; 2]; $crate::matmul::quantized::avx2::MAX_ROWS],
        ) {
            macro_rules! row {
                ($row:literal $a:literal $b:literal) => {
                    concat!(
                        ".if {m} > ",
                        $row,
                        "\nvpbroadcastd ymm14, [{x} + 4 * ",
                        $row,
                        "]\n",
                        $step!($a $b),
                        ".endif"
                    )
                };
            }
            let [s0, s1, s2, s3, s4, s5] = sums;
            // SAFETY: reads the promised memory and touches the sums only.
            unsafe {
                std::arch::asm!(
                    "2:",
                    "vmovdqa ymm12, [{w}]",
                    "vmovdqa ymm13, [{w} + 32]",
                    row!(0 "ymm0" "ymm1"),
                    row!(1 "ymm2" "ymm3"),
                    row!(2 "ymm4" "ymm5"),
                    row!(3 "ymm6" "ymm7"),
                    row!(4 "ymm8" "ymm9"),
                    row!(5 "ymm10" "ymm11"),
                    "add {w}, 64",
                    "add {x}, 4 * {m}",
                    "dec {n}",
                    "jnz 2b",
                    m = const M,
                    w = inout(reg) w => _,
                    x = inout(reg) x => _,
                    n = inout(reg) steps => _,
                    inout("ymm0") s0[0], inout("ymm1") s0[1], inout("ymm2") s1[0], inout("ymm3") s1[1],
                    inout("ymm4") s2[0], inout("ymm5") s2[1], inout("ymm6") s3[0], inout("ymm7") s3[1],
                    inout("ymm8") s4[0], inout("ymm9") s4[1], inout("ymm10") s5[0], inout("ymm11") s5[1],
                    out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    options(nostack, readonly)
                );
            }
        }
    };
}
pub(crate) use products;

/// Scales of 8 outputs without the factor.
///
/// # Safety
/// Eight f16 lie behind `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn scales(at: *const u8) -> __m256 {
    // SAFETY: as promised.
    let stored = unsafe { _mm_loadu_si128(at.cast()) };
    _mm256_mul_ps(_mm256_cvtph_ps(stored), _mm256_set1_ps(1.0 / SCALE_BIAS))
}
