//! 8-bit weights with AVX-512 and VNNI: 16 outputs in a register, a row's activations as a broadcast operand.

use super::{BYTES, CODES, GROUP};
use crate::matmul::PANEL;
use crate::matmul::quantized::avx512::{ask, kernels};
use crate::matmul::quantized::{AHEAD, SCALE_BIAS};
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

/// `s += w * x` for the pairs of one row and two panels, in assembly for the same reason.
///
/// # Safety
/// AVX-512 VNNI; a word lies behind `x`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn pair_of_two(s: [&mut __m512i; 2], w: [__m512i; 2], x: *const i32) {
    let [s0, s1] = s;
    // Named, because a register without a type gets a wrong name.
    let _b: __m512i;
    // SAFETY: reads one word behind `x`.
    unsafe {
        std::arch::asm!(
            "vpbroadcastd {b}, dword ptr [{x}]",
            "vpdpwssd {s0}, {w0}, {b}",
            "vpdpwssd {s1}, {w1}, {b}",
            s0 = inout(zmm_reg) *s0,
            s1 = inout(zmm_reg) *s1,
            w0 = in(zmm_reg) w[0],
            w1 = in(zmm_reg) w[1],
            b = out(zmm_reg) _b,
            x = in(reg) x,
            options(readonly, nostack, preserves_flags)
        )
    }
}

/// 16-bit activations, M rows by P panels. See [`super::scalar`].
///
/// # Safety
/// See [`Kernel`]; AVX-512 F, BW, VL and VNNI.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn wide<const M: usize, const P: usize, const SPREAD: bool>(
    blocks: usize,
    groups: usize,
    mut w: *const u8,
    mut x: *const i32,
    x_stride: usize,
    c: *mut f32,
    mut ahead: *const u8,
    lines: usize,
    first: bool,
    w_stride: usize,
    c_stride: usize,
) {
    // A chain advances once in four cycles: few rows have two.
    let chains = if M * P <= 2 { 2 } else { 1 };
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut t = [[_mm512_setzero_ps(); M]; P];
            let mut xg = x;
            // Hidden, so that the compiler does not unroll the groups.
            let end = std::hint::black_box(w.add(groups * BYTES));
            while w != end {
                let mut s = [[[_mm512_setzero_si512(); M]; P]; 2];
                for q in 0..GROUP / 2 {
                    let at = |p: usize| {
                        _mm512_cvtepi8_epi16(_mm256_loadu_si256(w.add(p * w_stride + 32 * q).cast()))
                    };
                    let s = &mut s[q % chains];
                    if P == 2 {
                        let v = [at(0), at(1)];
                        let (a, b) = s.split_at_mut(1);
                        for (i, (a, b)) in a[0].iter_mut().zip(&mut b[0]).enumerate() {
                            pair_of_two([a, b], v, xg.add(q * M + i));
                        }
                    } else {
                        pair::<M>(&mut s[0], at(0), xg.add(q * M));
                    }
                }
                for p in 0..P {
                    let d = scales(w.add(p * w_stride));
                    for i in 0..M {
                        let sum =
                            if chains == 2 { _mm512_add_epi32(s[0][p][i], s[1][p][i]) } else { s[0][p][i] };
                        t[p][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), d, t[p][i]);
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
                let dx = _mm512_castsi512_ps(_mm512_set1_epi32(*x.add(GROUPS * GROUP / 2 * M + i)));
                for p in 0..P {
                    let at = c.add(p * c_stride + i * PANEL);
                    let old = if first && block == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                    _mm512_storeu_ps(at, _mm512_fmadd_ps(t[p][i], dx, old));
                }
            }
            ask::<P>(ahead, lines, w_stride);
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
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c")]
unsafe fn narrow<const M: usize, const P: usize, const SPREAD: bool>(
    blocks: usize,
    groups: usize,
    mut w: *const u8,
    mut x: *const i32,
    x_stride: usize,
    c: *mut f32,
    mut ahead: *const u8,
    lines: usize,
    first: bool,
    w_stride: usize,
    c_stride: usize,
) {
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        let (fours, flip) = (_mm512_load_si512(FOURS.0.as_ptr().cast()), _mm512_set1_epi8(-128));
        for block in 0..blocks {
            let mut t = [[_mm512_setzero_ps(); M]; P];
            let mut xg = x;
            let end = std::hint::black_box(w.add(groups * BYTES));
            while w != end {
                let mut s: [[__m512i; M]; P] =
                    [std::array::from_fn(|i| _mm512_set1_epi32(*xg.add(GROUP / 4 * M + i))); P];
                for q in 0..GROUP / 4 {
                    let u: [__m512i; P] = std::array::from_fn(|p| {
                        let codes = _mm512_loadu_si512(w.add(p * w_stride + 64 * q).cast());
                        _mm512_xor_si512(_mm512_permutexvar_epi16(fours, codes), flip)
                    });
                    for i in 0..M {
                        let y = _mm512_set1_epi32(*xg.add(q * M + i));
                        for p in 0..P {
                            s[p][i] = _mm512_dpbusd_epi32(s[p][i], u[p], y);
                        }
                    }
                }
                let d: [__m512; P] = std::array::from_fn(|p| scales(w.add(p * w_stride)));
                for i in 0..M {
                    let dx = _mm512_castsi512_ps(_mm512_set1_epi32(*xg.add((GROUP / 4 + 1) * M + i)));
                    for p in 0..P {
                        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(s[p][i]), d[p]);
                        t[p][i] = _mm512_fmadd_ps(scaled, dx, t[p][i]);
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
            for p in 0..P {
                for i in 0..M {
                    let at = c.add(p * c_stride + i * PANEL);
                    let old = if first && block == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(at) };
                    _mm512_storeu_ps(at, _mm512_add_ps(old, t[p][i]));
                }
            }
            ask::<P>(ahead, lines, w_stride);
            ahead = ahead.wrapping_add(64 * lines);
            x = x.wrapping_add(x_stride);
        }
    }
}

kernels! { "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c", wide, WIDE, Kind::Pairs }
kernels! { "avx512f,avx512bw,avx512vl,avx512vnni,fma,f16c", narrow, NARROW, Kind::GroupQuads }
