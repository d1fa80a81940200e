//! Float weights with AVX-512: f32 activations, and bf16 ones with AVX-512 BF16.

use super::tile::{BF16, F16, F32, Kernel, LINE, SWAPPED, Tile, size};
use crate::matmul::opaque::opaque;
use crate::matmul::panel::PANEL;
use std::arch::x86_64::*;

/// Sixteen weights as a vector: of the first or the second of the two inputs behind `w`.
///
/// # Safety
/// AVX-512 F; `w` points at 16 weights of that input, with bf16 at those of both.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<const W: u8>(w: *const u8, second: bool) -> __m512 {
    // SAFETY: as promised.
    unsafe {
        let at = w.add(usize::from(second) * size::<W>());
        match W {
            F32 => _mm512_loadu_ps(at.cast()),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            _ if second == (W == BF16) => {
                let high = _mm512_set1_epi32(0xffff_0000u32 as i32);
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(w.cast()), high))
            }
            _ => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(w.cast()))),
        }
    }
}

/// Many rows: M rows by P panels, converted to f32 in registers, as [`Kernel`]; activations rounded to bf16
/// are interleaved, others are not.
///
/// # Safety
/// AVX-512 F; all pointers are valid for the sizes.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn many_rows<const M: usize, const P: usize, const W: u8>(tile: &Tile) {
    let Tile { length, mut w, w_stride, mut x, x_stride, c, c_stride, first, mut ahead, .. } = *tile;
    let mut s = [[_mm512_setzero_ps(); M]; P];
    // SAFETY: as promised; prefetches touch no memory.
    unsafe {
        if !first {
            for p in 0..P {
                for i in 0..M {
                    s[p][i] = _mm512_loadu_ps(c.add(p * c_stride + PANEL * i));
                }
            }
        }
        let mut left = length;
        while left > 0 {
            for second in [false, true] {
                if second && left == 1 {
                    break;
                }
                let v: [__m512; P] = std::array::from_fn(|p| load::<W>(w.add(p * w_stride), second));
                // Opaque, so that the compiler does not load the activations of two inputs before their use:
                // they do not fit into registers beside the sums.
                x = opaque(x);
                for i in 0..M {
                    let y = _mm512_set1_ps(*x.add(if W == SWAPPED { i } else { i * x_stride }));
                    for p in 0..P {
                        s[p][i] = _mm512_fmadd_ps(y, v[p], s[p][i]);
                    }
                }
                if W == F32 || !second {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_add(LINE);
                }
                x = x.add(if W == SWAPPED { M } else { 1 });
            }
            w = w.wrapping_add(2 * size::<W>());
            left -= left.min(2);
        }
        for p in 0..P {
            for i in 0..M {
                _mm512_storeu_ps(c.add(p * c_stride + PANEL * i), s[p][i]);
            }
        }
    }
}

const fn many_rows_by<const P: usize, const W: u8>() -> [Kernel; 12] {
    [
        many_rows::<1, P, W>,
        many_rows::<2, P, W>,
        many_rows::<3, P, W>,
        many_rows::<4, P, W>,
        many_rows::<5, P, W>,
        many_rows::<6, P, W>,
        many_rows::<7, P, W>,
        many_rows::<8, P, W>,
        many_rows::<9, P, W>,
        many_rows::<10, P, W>,
        many_rows::<11, P, W>,
        many_rows::<12, P, W>,
    ]
}

/// Tables for one panel and for two.
pub const fn many_rows_tables<const W: u8>() -> [&'static [Kernel]; 2] {
    const { [&many_rows_by::<1, W>(), &many_rows_by::<2, W>()] }
}

/// bf16 by bf16, two multiply-adds per output and instruction: M rows by P panels, as [`Kernel`]; `x` points
/// at words of two activations. `ALL` prefetches for all panels.
///
/// # Safety
/// AVX-512 F and BF16; see [`Kernel`].
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs<const M: usize, const P: usize, const ALL: bool>(tile: &Tile) {
    let Tile { length, mut w, w_stride, x, c, c_stride, first, mut ahead, .. } = *tile;
    let mut x: *const i32 = x.cast();
    let mut s = [[_mm512_setzero_ps(); M]; P];
    // SAFETY: as promised, with whole pairs of inputs; prefetches touch no memory. Any bits are vectors of
    // bf16.
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
            for p in 0..if ALL { P } else { 1 } {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(p * w_stride).cast());
            }
            ahead = ahead.wrapping_add(LINE);
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

const fn all_pairs<const P: usize>() -> [Kernel; 6] {
    [
        pairs::<1, P, false>,
        pairs::<2, P, false>,
        pairs::<3, P, false>,
        pairs::<4, P, false>,
        pairs::<5, P, false>,
        pairs::<6, P, false>,
    ]
}
/// As [`many_rows_tables`], the second over four panels: broadcasts of activations cost loads, as weights do,
/// and 6 x 4 needs fewer than 12 x 2.
pub const PAIRS: [&[Kernel]; 2] = [&all_pairs::<1>(), &all_pairs::<4>()];

/// Few rows of pairs, with one, two or four panels side by side.
pub const FEW_PAIRS: [[(usize, Kernel); 3]; 4] = [
    [(1, pairs::<1, 1, true>), (2, pairs::<1, 2, true>), (4, pairs::<1, 4, true>)],
    [(1, pairs::<2, 1, true>), (2, pairs::<2, 2, true>), (4, pairs::<2, 4, true>)],
    [(1, pairs::<3, 1, true>), (2, pairs::<3, 2, true>), (4, pairs::<3, 4, true>)],
    [(1, pairs::<4, 1, true>), (2, pairs::<4, 2, true>), (4, pairs::<4, 4, true>)],
];
