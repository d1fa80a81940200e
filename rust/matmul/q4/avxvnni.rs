//! 4-bit weights with AVX-VNNI, vpdpbusd on 8 outputs at a time: nibbles unpacked in registers, or blocks
//! unpacked to bytes.

use super::avx2::{Scales, store};
use super::{CODES, offsets};
use crate::matmul::layout::Layout;
use crate::matmul::panel::{GROUP, GROUPS, PANEL, SUPERBLOCK};
use crate::matmul::quantized::avx2::{MAX_ROWS, products, scales};
use crate::matmul::quantized::{Kernel, Kernels, PREFETCH_BYTES, Tile};
use std::arch::x86_64::*;

/// Bytes of a whole block per group.
const GROUP_BYTES: usize = offsets(GROUPS)[3] / GROUPS;

/// See [`super::scalar`]. `PREFETCH` prefetches group by group.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA, F16C and AVX-VNNI.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn tile<const M: usize, const PREFETCH: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, .. } = *tile;
    let low = _mm256_set1_epi8(15);
    let [scales_at, lows_at, d_at, size] = offsets(groups);
    // SAFETY: as promised by the caller; prefetches touch no memory.
    unsafe {
        for block in 0..blocks {
            let mut sums = [[_mm256_setzero_si256(); 2]; M];
            let block_scales = Scales::new(w.add(scales_at));
            // Opaque, so that the compiler does not unroll the groups.
            let (mut wg, mut sg, mut xg) = (w, block_scales.0.as_ptr(), x);
            let end = std::hint::black_box(w.add(scales_at));
            // Distributed evenly over the block, scales and lows included.
            let mut upcoming = w.wrapping_add(PREFETCH_BYTES);
            while wg != end {
                let mut s = [[_mm256_setzero_si256(); 2]; M];
                for q in 0..GROUP / 4 {
                    let at = wg.add(q % 4 * 64).cast::<__m256i>();
                    let (mut a, mut b) = (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)));
                    if q >= 4 {
                        (a, b) = (_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b));
                    }
                    (a, b) = (_mm256_and_si256(a, low), _mm256_and_si256(b, low));
                    for i in 0..M {
                        let y = _mm256_set1_epi32(*xg.add(q * M + i));
                        s[i][0] = _mm256_dpbusd_avx_epi32(s[i][0], a, y);
                        s[i][1] = _mm256_dpbusd_avx_epi32(s[i][1], b, y);
                    }
                }
                for h in 0..2 {
                    let scale = _mm256_cvtepu8_epi32(_mm_loadl_epi64(sg.add(8 * h).cast()));
                    for i in 0..M {
                        sums[i][h] = _mm256_add_epi32(sums[i][h], _mm256_mullo_epi32(s[i][h], scale));
                    }
                }
                if PREFETCH {
                    for i in 0..5 {
                        _mm_prefetch::<_MM_HINT_T1>(upcoming.wrapping_add(64 * i).cast());
                    }
                    upcoming = upcoming.wrapping_add(GROUP_BYTES);
                }
                wg = wg.add(CODES);
                sg = sg.add(PANEL);
                xg = xg.add(GROUP / 4 * M);
            }
            for h in 0..2 {
                let d = scales(w.add(d_at + 16 * h));
                for p in 0..groups.div_ceil(2) {
                    let at = w.add(lows_at + 2 * PANEL * p + PANEL * h);
                    let v = _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast()));
                    for i in 0..M {
                        let y = _mm256_set1_epi32(*x.add((SUPERBLOCK / 4 + p) * M + i));
                        sums[i][h] = _mm256_dpwssd_avx_epi32(sums[i][h], v, y);
                    }
                }
                for i in 0..M {
                    let dx = x.add((Layout::I8Quads.words() - 1) * M + i);
                    store(c.add(i * PANEL + 8 * h), sums[i][h], d, dx, first && block == 0);
                }
            }
            for i in 0..lines {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
            }
            ahead = ahead.wrapping_add(64 * lines);
            w = w.add(size);
            x = x.wrapping_add(x_stride);
        }
    }
}

/// Adds products of four bytes to the sums.
macro_rules! step {
    ($a:literal $b:literal) => {
        concat!("{{vex}} vpdpbusd ", $a, ", ymm12, ymm14\n{{vex}} vpdpbusd ", $b, ", ymm13, ymm14\n")
    };
}
products!("avx2,avxvnni", step);

/// The same for weights unpacked to bytes ([`unpacked`](super::unpacked)), which are in the caches.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA, F16C and AVX-VNNI.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn unpacked_tile<const M: usize>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, first, .. } = *tile;
    let words = Layout::I8Quads.words();
    // SAFETY: as promised by the caller.
    unsafe {
        for block in 0..blocks {
            let mut sums = [[_mm256_setzero_si256(); 2]; MAX_ROWS];
            for i in 0..M {
                sums[i] = [_mm256_set1_epi32(*x.add((words - 2) * M + i)); 2];
            }
            products::<M>(groups * GROUP / 4, w, x, &mut sums);
            w = w.add(groups * GROUP * PANEL);
            for h in 0..2 {
                let d = scales(w.add(16 * h));
                for i in 0..M {
                    let dx = x.add((words - 1) * M + i);
                    store(c.add(i * PANEL + 8 * h), sums[i][h], d, dx, first && block == 0);
                }
            }
            w = w.add(64);
            x = x.wrapping_add(x_stride);
        }
    }
}

static FEW: [Kernel; MAX_ROWS] =
    [tile::<1, true>, tile::<2, true>, tile::<3, true>, tile::<4, true>, tile::<5, true>, tile::<6, true>];
static MANY: [Kernel; MAX_ROWS] = [
    tile::<1, false>,
    tile::<2, false>,
    tile::<3, false>,
    tile::<4, false>,
    tile::<5, false>,
    tile::<6, false>,
];
static UNPACKED_TILES: [Kernel; MAX_ROWS] = [
    unpacked_tile::<1>,
    unpacked_tile::<2>,
    unpacked_tile::<3>,
    unpacked_tile::<4>,
    unpacked_tile::<5>,
    unpacked_tile::<6>,
];
pub static UNPACKED: Kernels = Kernels {
    layout: Layout::I8Quads,
    few: &UNPACKED_TILES,
    many: &UNPACKED_TILES,
    pairs: &[],
    by_rows: None,
};
pub static KERNELS: Kernels =
    Kernels { layout: Layout::I8Quads, few: &FEW, many: &MANY, pairs: &[], by_rows: None };
