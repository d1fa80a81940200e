//! 8-bit weights with AVX-VNNI: vpdpwssd (16-bit activations) or vpdpbusd (8-bit ones) on 8 outputs at a time.

use super::{BYTES, CODES, GROUP};
use crate::matmul::PANEL;
use crate::matmul::quantized::{AHEAD, Kernel, Kernels, SCALE_BIAS};
use crate::matmul::strips::{GROUPS, Kind};
use std::arch::x86_64::*;

/// Scales of 8 outputs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn scales(stored: __m128i) -> __m256 {
    _mm256_mul_ps(_mm256_cvtph_ps(stored), _mm256_set1_ps(1.0 / SCALE_BIAS))
}

/// `s + w * x` for pairs of 16-bit integers. In assembly, because the compiler splits the intrinsic into a
/// multiplication and an addition where it unrolls the loop around it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn pair(mut s: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: arithmetic on registers.
    unsafe {
        std::arch::asm!(
            "{{vex}} vpdpwssd {s}, {w}, {x}",
            s = inout(ymm_reg) s,
            w = in(ymm_reg) w,
            x = in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    s
}

/// 16-bit activations. See [`super::scalar`]. `SPREAD` asks for the memory ahead, group by group.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA, F16C and AVX-VNNI.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn wide<const M: usize, const SPREAD: bool>(
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
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm256_setzero_ps(); 2]; M];
            let mut xg = x;
            // Hidden, so that the compiler does not unroll the groups.
            let end = std::hint::black_box(w.add(groups * BYTES));
            while w != end {
                let mut s = [[_mm256_setzero_si256(); 2]; M];
                for p in 0..GROUP / 2 {
                    let w0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(32 * p).cast()));
                    let w1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(32 * p + 16).cast()));
                    for i in 0..M {
                        let y = _mm256_set1_epi32(*xg.add(p * M + i));
                        s[i] = [pair(s[i][0], w0, y), pair(s[i][1], w1, y)];
                    }
                }
                for h in 0..2 {
                    let d = scales(_mm_loadu_si128(w.add(CODES + 16 * h).cast()));
                    for i in 0..M {
                        t[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[i][h]), d, t[i][h]);
                    }
                }
                if SPREAD {
                    for i in 0..BYTES.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(AHEAD + 64 * i).cast());
                    }
                }
                w = w.add(BYTES);
                xg = xg.add(GROUP / 2 * M);
            }
            for i in 0..M {
                let dx = _mm256_castsi256_ps(_mm256_set1_epi32(*x.add(GROUPS * GROUP / 2 * M + i)));
                for h in 0..2 {
                    let at = c.add(i * PANEL + 8 * h);
                    let old = if first && block == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(at) };
                    _mm256_storeu_ps(at, _mm256_fmadd_ps(t[i][h], dx, old));
                }
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(64 * lines);
            x = x.wrapping_add(x_stride);
        }
    }
}

/// 8-bit activations: `sum code * x = sum (code + 128) * x - 128 * sum x`, because vpdpbusd multiplies unsigned bytes with
/// signed ones. Two pairs join to fours within halves of registers, so one register holds outputs 0 to 3 and 8 to 11 and
/// the other 4 to 7 and 12 to 15; the scales follow, and the results are put back in order after each block.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA, F16C and AVX-VNNI.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn narrow<const M: usize, const SPREAD: bool>(
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
    let flip = _mm256_set1_epi8(-128);
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm256_setzero_ps(); 2]; M];
            let mut xg = x;
            let end = std::hint::black_box(w.add(groups * BYTES));
            while w != end {
                let mut s: [[__m256i; 2]; M] =
                    std::array::from_fn(|i| [_mm256_set1_epi32(*xg.add(GROUP / 4 * M + i)); 2]);
                for q in 0..GROUP / 4 {
                    let at = w.add(64 * q).cast::<__m256i>();
                    let a = _mm256_xor_si256(_mm256_loadu_si256(at), flip);
                    let b = _mm256_xor_si256(_mm256_loadu_si256(at.add(1)), flip);
                    let (u0, u1) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
                    for i in 0..M {
                        let y = _mm256_set1_epi32(*xg.add(q * M + i));
                        s[i][0] = _mm256_dpbusd_avx_epi32(s[i][0], u0, y);
                        s[i][1] = _mm256_dpbusd_avx_epi32(s[i][1], u1, y);
                    }
                }
                let stored =
                    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_loadu_si256(w.add(CODES).cast()));
                let d =
                    [scales(_mm256_castsi256_si128(stored)), scales(_mm256_extracti128_si256::<1>(stored))];
                for i in 0..M {
                    let dx = _mm256_castsi256_ps(_mm256_set1_epi32(*xg.add((GROUP / 4 + 1) * M + i)));
                    for h in 0..2 {
                        let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(s[i][h]), d[h]);
                        t[i][h] = _mm256_fmadd_ps(sum, dx, t[i][h]);
                    }
                }
                if SPREAD {
                    for i in 0..BYTES.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(AHEAD + 64 * i).cast());
                    }
                }
                w = w.add(BYTES);
                xg = xg.add((GROUP / 4 + 2) * M);
            }
            for i in 0..M {
                let ordered = [
                    _mm256_permute2f128_ps::<0x20>(t[i][0], t[i][1]),
                    _mm256_permute2f128_ps::<0x31>(t[i][0], t[i][1]),
                ];
                for h in 0..2 {
                    let at = c.add(i * PANEL + 8 * h);
                    let old = if first && block == 0 { _mm256_setzero_ps() } else { _mm256_loadu_ps(at) };
                    _mm256_storeu_ps(at, _mm256_add_ps(old, ordered[h]));
                }
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(64 * lines);
            x = x.wrapping_add(x_stride);
        }
    }
}

static WIDE_FEW: [Kernel; 6] =
    [wide::<1, false>, wide::<2, false>, wide::<3, true>, wide::<4, true>, wide::<5, true>, wide::<6, true>];
static WIDE_MANY: [Kernel; 6] = [
    wide::<1, false>,
    wide::<2, false>,
    wide::<3, false>,
    wide::<4, false>,
    wide::<5, false>,
    wide::<6, false>,
];
static NARROW_FEW: [Kernel; 4] =
    [narrow::<1, false>, narrow::<2, false>, narrow::<3, true>, narrow::<4, true>];
static NARROW_MANY: [Kernel; 4] =
    [narrow::<1, false>, narrow::<2, false>, narrow::<3, false>, narrow::<4, false>];
pub static WIDE: Kernels = Kernels { kind: Kind::Pairs, few: &WIDE_FEW, many: &WIDE_MANY, pairs: &[] };
pub static NARROW: Kernels =
    Kernels { kind: Kind::GroupQuads, few: &NARROW_FEW, many: &NARROW_MANY, pairs: &[] };
