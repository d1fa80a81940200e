//! 8-bit weights with AVX-512 and VNNI: 16 outputs in a register, a row's activations as a broadcast operand.

use super::{BYTES, CODES, GROUP};
use crate::matmul::PANEL;
use crate::matmul::quantized::{AHEAD, Kernel, Kernels, SCALE_BIAS};
use crate::matmul::strips::{GROUPS, Kind};
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn scales(group: *const u8) -> __m512 {
    // SAFETY: the caller points at a whole group.
    let stored = unsafe { _mm256_loadu_si256(group.add(CODES).cast()) };
    _mm512_mul_ps(_mm512_cvtph_ps(stored), _mm512_set1_ps(1.0 / SCALE_BIAS))
}

/// `s[i] += w * x[i]` for the pairs of M rows. In assembly, because the compiler splits the intrinsic into a multiplication
/// and an addition where it unrolls the loop around it, which is a third slower.
///
/// # Safety
/// AVX-512 VNNI; M words lie behind `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn pair<const M: usize>(s: &mut [__m512i; M], w: __m512i, x: *const i32) {
    macro_rules! block {
        ($($i:tt)*) => {
            // SAFETY: reads M words behind `x`.
            unsafe {
                std::arch::asm!(
                    $(concat!("vpdpwssd {", $i, "}, {w}, dword ptr [{x}+4*", $i, "]{{1to16}}")),*,
                    $(inout(zmm_reg) s[$i],)*
                    w = in(zmm_reg) w,
                    x = in(reg) x,
                    options(readonly, nostack, preserves_flags)
                )
            }
        };
    }
    match M {
        1 => block!(0),
        2 => block!(0 1),
        3 => block!(0 1 2),
        4 => block!(0 1 2 3),
        5 => block!(0 1 2 3 4),
        6 => block!(0 1 2 3 4 5),
        7 => block!(0 1 2 3 4 5 6),
        _ => block!(0 1 2 3 4 5 6 7),
    }
}

/// 16-bit activations. See [`super::scalar`].
///
/// # Safety
/// See [`Kernel`]; AVX-512 F, BW, VL and VNNI.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
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
    // A chain advances once in four cycles: few rows have two.
    let chains = if M <= 2 { 2 } else { 1 };
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [_mm512_setzero_ps(); M];
            let mut xg = x;
            // Hidden, so that the compiler does not unroll the groups.
            let end = std::hint::black_box(w.add(groups * BYTES));
            while w != end {
                let mut s = [[_mm512_setzero_si512(); M]; 2];
                for p in 0..GROUP / 2 {
                    let v = _mm512_cvtepi8_epi16(_mm256_loadu_si256(w.add(32 * p).cast()));
                    pair::<M>(&mut s[p % chains], v, xg.add(p * M));
                }
                let d = scales(w);
                for i in 0..M {
                    let sum = if chains == 2 { _mm512_add_epi32(s[0][i], s[1][i]) } else { s[0][i] };
                    t[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, t[i]);
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
                let at = c.add(i * PANEL);
                let dx = _mm512_castsi512_ps(_mm512_set1_epi32(*x.add(GROUPS * GROUP / 2 * M + i)));
                let old = if first && block == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                _mm512_storeu_ps(at, _mm512_fmadd_ps(t[i], dx, old));
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(64 * lines);
            x = x.wrapping_add(x_stride);
        }
    }
}

/// Word order that joins two pairs: `[pair][output][2]` to `[output][4]`.
#[repr(align(64))]
struct Words([u16; 32]);
static FOURS: Words = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    Words(words)
};

/// 8-bit activations: `sum code * x = sum (code + 128) * x - 128 * sum x`, because vpdpbusd multiplies unsigned bytes with
/// signed ones.
///
/// # Safety
/// See [`Kernel`]; AVX-512 F, BW, VL and VNNI.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
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
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        let (fours, flip) = (_mm512_load_si512(FOURS.0.as_ptr().cast()), _mm512_set1_epi8(-128));
        for block in 0..blocks {
            let mut t = [_mm512_setzero_ps(); M];
            let mut xg = x;
            let end = std::hint::black_box(w.add(groups * BYTES));
            while w != end {
                let mut s: [__m512i; M] =
                    std::array::from_fn(|i| _mm512_set1_epi32(*xg.add(GROUP / 4 * M + i)));
                for q in 0..GROUP / 4 {
                    let codes = _mm512_permutexvar_epi16(fours, _mm512_loadu_si512(w.add(64 * q).cast()));
                    let u = _mm512_xor_si512(codes, flip);
                    for i in 0..M {
                        s[i] = _mm512_dpbusd_epi32(s[i], u, _mm512_set1_epi32(*xg.add(q * M + i)));
                    }
                }
                let d = scales(w);
                for i in 0..M {
                    let dx = _mm512_castsi512_ps(_mm512_set1_epi32(*xg.add((GROUP / 4 + 1) * M + i)));
                    t[i] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(s[i]), d), dx, t[i]);
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
                let at = c.add(i * PANEL);
                let old = if first && block == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                _mm512_storeu_ps(at, _mm512_add_ps(old, t[i]));
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(64 * lines);
            x = x.wrapping_add(x_stride);
        }
    }
}

static WIDE_FEW: [Kernel; 8] = [
    wide::<1, false>,
    wide::<2, false>,
    wide::<3, true>,
    wide::<4, true>,
    wide::<5, true>,
    wide::<6, true>,
    wide::<7, true>,
    wide::<8, true>,
];
static WIDE_MANY: [Kernel; 8] = [
    wide::<1, false>,
    wide::<2, false>,
    wide::<3, false>,
    wide::<4, false>,
    wide::<5, false>,
    wide::<6, false>,
    wide::<7, false>,
    wide::<8, false>,
];
static NARROW_FEW: [Kernel; 8] = [
    narrow::<1, false>,
    narrow::<2, false>,
    narrow::<3, true>,
    narrow::<4, true>,
    narrow::<5, true>,
    narrow::<6, true>,
    narrow::<7, true>,
    narrow::<8, true>,
];
static NARROW_MANY: [Kernel; 8] = [
    narrow::<1, false>,
    narrow::<2, false>,
    narrow::<3, false>,
    narrow::<4, false>,
    narrow::<5, false>,
    narrow::<6, false>,
    narrow::<7, false>,
    narrow::<8, false>,
];
pub static WIDE: Kernels = Kernels { kind: Kind::Pairs, few: &WIDE_FEW, many: &WIDE_MANY };
pub static NARROW: Kernels = Kernels { kind: Kind::GroupQuads, few: &NARROW_FEW, many: &NARROW_MANY };
