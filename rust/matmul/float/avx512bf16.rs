//! bf16 weights and activations with AVX-512 BF16: two multiply-adds for each output and instruction.

use super::PANEL;
use super::x86::{AHEAD, Kernel};
use std::arch::x86_64::*;

/// M rows by P panels, as [`Kernel`]; `x` points at words of two activations. `SPREAD` asks for the memory ahead.
///
/// # Safety
/// AVX-512 F and BF16; see [`Kernel`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const M: usize, const P: usize, const SPREAD: bool>(
    length: usize,
    mut w: *const u8,
    w_stride: usize,
    x: *const f32,
    c: *mut f32,
    c_stride: usize,
    first: bool,
) {
    let mut x: *const i32 = x.cast();
    let mut s = [[_mm512_setzero_ps(); M]; P];
    // SAFETY: as promised, with whole pairs of inputs; prefetches touch no memory. Vectors of bf16 are any bits.
    unsafe {
        if !first {
            for p in 0..P {
                for i in 0..M {
                    s[p][i] = _mm512_loadu_ps(c.add(p * c_stride + PANEL * i));
                }
            }
        }
        let end = w.add(length.div_ceil(2) * 4 * PANEL);
        while w != end {
            let v: [__m512bh; P] =
                std::array::from_fn(|p| std::mem::transmute(_mm512_loadu_si512(w.add(p * w_stride).cast())));
            for i in 0..M {
                let y: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(i)));
                for p in 0..P {
                    s[p][i] = _mm512_dpbf16_ps(s[p][i], v[p], y);
                }
            }
            if SPREAD {
                for p in 0..P {
                    _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(p * w_stride + AHEAD).cast());
                }
            }
            w = w.add(4 * PANEL);
            x = x.add(M);
        }
        for p in 0..P {
            for i in 0..M {
                _mm512_storeu_ps(c.add(p * c_stride + PANEL * i), s[p][i]);
            }
        }
    }
}

/// By rows, P panels.
pub const fn tiles<const P: usize, const SPREAD: bool>() -> [Kernel; 12] {
    [
        tile::<1, P, SPREAD>,
        tile::<2, P, SPREAD>,
        tile::<3, P, SPREAD>,
        tile::<4, P, SPREAD>,
        tile::<5, P, SPREAD>,
        tile::<6, P, SPREAD>,
        tile::<7, P, SPREAD>,
        tile::<8, P, SPREAD>,
        tile::<9, P, SPREAD>,
        tile::<10, P, SPREAD>,
        tile::<11, P, SPREAD>,
        tile::<12, P, SPREAD>,
    ]
}

/// A few rows, with one, two or four panels side by side.
pub const FEW: [[(usize, Kernel); 3]; 4] = [
    [(1, tile::<1, 1, true>), (2, tile::<1, 2, true>), (4, tile::<1, 4, true>)],
    [(1, tile::<2, 1, true>), (2, tile::<2, 2, true>), (4, tile::<2, 4, true>)],
    [(1, tile::<3, 1, true>), (2, tile::<3, 2, true>), (4, tile::<3, 4, true>)],
    [(1, tile::<4, 1, true>), (2, tile::<4, 2, true>), (4, tile::<4, 4, true>)],
];
