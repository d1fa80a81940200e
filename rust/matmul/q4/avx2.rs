//! 4-bit weights with AVX2: unsigned codes times signed activations by vpmaddubsw; its 16-bit sums of a group
//! (at most 15 * 127 * 2 * 8 = 30,480) are multiplied by the group's scale and widened in one vpmaddwd.
//!
//! In assembly: the compiler spills the sums of four rows, which costs a quarter of the speed.

use super::offsets;
use crate::matmul::layout::Layout;
use crate::matmul::panel::{GROUPS, PANEL, SUPERBLOCK};
use crate::matmul::quantized::avx2::scales;
use crate::matmul::quantized::{Kernel, Kernels, Tile};
use std::arch::x86_64::*;

/// Scales of the groups of a block.
#[repr(align(32))]
pub struct Scales(pub [u8; GROUPS * PANEL]);

impl Scales {
    /// # Safety
    /// The scales of a block and what follows them lie behind `at`.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn new(at: *const u8) -> Scales {
        let mut scales = Scales([0; GROUPS * PANEL]);
        let low = _mm256_set1_epi8(15);
        // SAFETY: shorter scales are followed by at least the bytes that they lack to 64; there is room for
        // all.
        unsafe {
            for half in 0..2 {
                let both = _mm256_loadu_si256(at.add(32 * half).cast());
                for (i, scale) in [both, _mm256_srli_epi16::<4>(both)].into_iter().enumerate() {
                    let to = scales.0.as_mut_ptr().add(64 * i + 32 * half);
                    _mm256_store_si256(to.cast(), _mm256_and_si256(scale, low));
                }
            }
        }
        scales
    }
}

/// One row: four activations broadcast, two products, two sums (none for the first four).
macro_rules! quad {
    (first $a:literal $b:literal $row:literal $quad:literal $m:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{x}+4*(",
            $row,
            "+",
            $quad,
            "*",
            $m,
            ")]\n",
            "vpmaddubsw ",
            $a,
            ", ymm12, ymm14\n",
            "vpmaddubsw ",
            $b,
            ", ymm13, ymm14\n"
        )
    };
    (next $a:literal $b:literal $row:literal $quad:literal $m:literal) => {
        concat!(
            "vpbroadcastd ymm14, [{x}+4*(",
            $row,
            "+",
            $quad,
            "*",
            $m,
            ")]\n",
            "vpmaddubsw ymm15, ymm12, ymm14\n",
            "vpmaddubsw ymm14, ymm13, ymm14\n",
            "vpaddw ",
            $a,
            ", ",
            $a,
            ", ymm15\n",
            "vpaddw ",
            $b,
            ", ",
            $b,
            ", ymm14\n"
        )
    };
}

/// The low nibbles of vector `$j`, against its quad.
macro_rules! low {
    ($layout:ident $j:literal $m:literal $(($row:literal $a:literal $b:literal))*) => {
        concat!(
            "vpand ymm12, ymm11, [{w}+64*", $j, "]\n",
            "vpand ymm13, ymm11, [{w}+64*", $j, "+32]\n",
            $(quad!($layout $a $b $row $j $m)),*
        )
    };
}

/// The high nibbles of vector `$j`, against quad `$quad`.
macro_rules! high {
    ($quad:literal $j:literal $m:literal $(($row:literal $a:literal $b:literal))*) => {
        concat!(
            "vmovdqu ymm12, [{w}+64*", $j, "]\n",
            "vmovdqu ymm13, [{w}+64*", $j, "+32]\n",
            "vpsrlw ymm12, ymm12, 4\n",
            "vpsrlw ymm13, ymm13, 4\n",
            "vpand ymm12, ymm12, ymm11\n",
            "vpand ymm13, ymm13, ymm11\n",
            $(quad!(next $a $b $row $quad $m)),*
        )
    };
}

/// Sums of a group times its scales, added to those of the block in memory.
macro_rules! flush {
    ($(($row:literal $a:literal $b:literal))*) => {
        concat!($(
            "vpmaddwd ", $a, ", ", $a, ", ymm12\n",
            "vpmaddwd ", $b, ", ", $b, ", ymm13\n",
            "vpaddd ", $a, ", ", $a, ", [{sums}+64*", $row, "]\n",
            "vpaddd ", $b, ", ", $b, ", [{sums}+64*", $row, "+32]\n",
            "vmovdqu [{sums}+64*", $row, "], ", $a, "\n",
            "vmovdqu [{sums}+64*", $row, "+32], ", $b, "\n"
        ),*)
    };
}

/// Byte shuffle that doubles eight bytes into sixteen words.
#[repr(align(32))]
struct Bytes([i8; 32]);
static TWICE: Bytes = Bytes([
    0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, 4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1,
    7, -1,
]);

/// Stores the results of a block for one row and 8 outputs, from the total, its steps and the scale of the
/// activations at `dx`; previous results are not read where `fresh`.
///
/// # Safety
/// `dx` holds the scale, `c` has room for 8 results; AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub unsafe fn store(c: *mut f32, sum: __m256i, d: __m256, dx: *const i32, fresh: bool) {
    // SAFETY: as promised by the caller.
    unsafe {
        let t = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), d);
        let scale = _mm256_castsi256_ps(_mm256_set1_epi32(*dx));
        let old = if fresh { _mm256_setzero_ps() } else { _mm256_loadu_ps(c) };
        _mm256_storeu_ps(c, _mm256_fmadd_ps(t, scale, old));
    }
}

/// Stores the results of a block: from the scaled sums of its groups, its lows and its steps.
///
/// # Safety
/// See [`Kernel`]; AVX2, FMA and F16C.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store_block<const M: usize>(
    groups: usize,
    sums: &[[__m256i; 2]; M],
    lows: *const u8,
    d: *const u8,
    x: *const i32,
    c: *mut f32,
    fresh: bool,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        for h in 0..2 {
            let d = scales(d.add(16 * h));
            for i in 0..M {
                let mut sum = sums[i][h];
                for p in 0..groups.div_ceil(2) {
                    let at = lows.add(2 * PANEL * p + PANEL * h);
                    let lows = _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast()));
                    let y = _mm256_set1_epi32(*x.add((SUPERBLOCK / 4 + p) * M + i));
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(lows, y));
                }
                store(c.add(i * PANEL + 8 * h), sum, d, x.add((Layout::I8Quads.words() - 1) * M + i), fresh);
            }
        }
    }
}

macro_rules! tile {
    ($name:ident $prefetch:literal $m:literal $($rows:tt)*) => {
        /// See [`super::scalar`].
        ///
        /// # Safety
        /// See [`Kernel`]; AVX2, FMA and F16C.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(tile: &Tile) {
            let Tile { blocks, groups, mut w, mut x, x_stride, c, mut ahead, lines, first, .. } = *tile;
            let [scales_at, lows_at, d_at, size] = offsets(groups);
            for block in 0..blocks {
                let mut sums = [[_mm256_setzero_si256(); 2]; $m];
                // SAFETY: reads the block's scales, `groups` groups of codes and activations and touches
                // `sums` only.
                unsafe {
                    let block_scales = Scales::new(w.add(scales_at));
                    std::arch::asm!(
                        // The mask 15 in every byte.
                        "vpcmpeqw ymm11, ymm11, ymm11",
                        "vpsrlw ymm11, ymm11, 12",
                        "vpackuswb ymm11, ymm11, ymm11",
                        "2:",
                        low!(first 0 $m $($rows)*),
                        low!(next 1 $m $($rows)*),
                        low!(next 2 $m $($rows)*),
                        low!(next 3 $m $($rows)*),
                        high!(4 0 $m $($rows)*),
                        high!(5 1 $m $($rows)*),
                        high!(6 2 $m $($rows)*),
                        high!(7 3 $m $($rows)*),
                        $prefetch,
                        "vpbroadcastq ymm12, [{s}]",
                        "vpbroadcastq ymm13, [{s}+8]",
                        "vpshufb ymm12, ymm12, [{twice}]",
                        "vpshufb ymm13, ymm13, [{twice}]",
                        flush!($($rows)*),
                        concat!("add {x}, 32*", $m),
                        "add {w}, 256",
                        "add {s}, 16",
                        "dec {n}",
                        "jnz 2b",
                        x = inout(reg) x => _,
                        w = inout(reg) w => _,
                        s = inout(reg) block_scales.0.as_ptr() => _,
                        n = inout(reg) groups => _,
                        sums = in(reg) sums.as_mut_ptr(),
                        twice = in(reg) TWICE.0.as_ptr(),
                        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                        out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                        out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                        out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                        options(nostack)
                    );
                }
                // SAFETY: as promised by the caller; prefetches touch no memory.
                unsafe {
                    let fresh = first && block == 0;
                    store_block::<$m>(groups, &sums, w.add(lows_at), w.add(d_at), x, c, fresh);
                    for i in 0..lines {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(64 * i).cast());
                    }
                    ahead = ahead.wrapping_add(64 * lines);
                    w = w.add(size);
                }
                x = x.wrapping_add(x_stride);
            }
        }
    };
}

tile!(tile1 "" 1 (0 "ymm0" "ymm1"));
tile!(tile2 "" 2 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3"));
tile!(tile3 "" 3 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5"));
tile!(tile4 "" 4 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5") (3 "ymm6" "ymm7"));

// The same kernels with prefetches 8 KB ahead: a group's codes and a part of the scales with each group.
macro_rules! prefetching {
    ($name:ident $($rest:tt)*) => {
        tile!($name "prefetcht1 [{w}+8192]\nprefetcht1 [{w}+8256]\nprefetcht1 [{w}+8320]\nprefetcht1 [{w}+8384]\nprefetcht1 [{w}+8448]" $($rest)*);
    };
}
prefetching!(prefetching1 1 (0 "ymm0" "ymm1"));
prefetching!(prefetching2 2 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3"));
prefetching!(prefetching3 3 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5"));
prefetching!(prefetching4 4 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5") (3 "ymm6" "ymm7"));

/// Unpacked codes, as [`unpacked`](super::unpacked) stores them, against quad `$quad`.
macro_rules! unpacked_codes {
    ($layout:ident $quad:literal $m:literal $(($row:literal $a:literal $b:literal))*) => {
        concat!(
            "vmovdqa ymm12, [{w}+64*", $quad, "]\n",
            "vmovdqa ymm13, [{w}+64*", $quad, "+32]\n",
            $(quad!($layout $a $b $row $quad $m)),*
        )
    };
}

macro_rules! unpacked_tile {
    ($name:ident $m:literal $($rows:tt)*) => {
        /// The same for unpacked codes, which are in the caches.
        ///
        /// # Safety
        /// See [`Kernel`]; AVX2, FMA and F16C.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(tile: &Tile) {
            let Tile { blocks, groups, mut w, mut x, x_stride, c, first, .. } = *tile;
            let [scales_at, lows_at, d_at, size] = super::unpacked::unpacked_offsets(groups);
            for block in 0..blocks {
                let mut sums = [[_mm256_setzero_si256(); 2]; $m];
                // SAFETY: reads `groups` groups of codes, scales and activations and touches `sums` only; the
                // rest as promised by the caller.
                unsafe {
                    std::arch::asm!(
                        "2:",
                        unpacked_codes!(first 0 $m $($rows)*),
                        unpacked_codes!(next 1 $m $($rows)*),
                        unpacked_codes!(next 2 $m $($rows)*),
                        unpacked_codes!(next 3 $m $($rows)*),
                        unpacked_codes!(next 4 $m $($rows)*),
                        unpacked_codes!(next 5 $m $($rows)*),
                        unpacked_codes!(next 6 $m $($rows)*),
                        unpacked_codes!(next 7 $m $($rows)*),
                        "vmovdqa ymm12, [{s}]",
                        "vmovdqa ymm13, [{s}+32]",
                        flush!($($rows)*),
                        concat!("add {x}, 32*", $m),
                        "add {w}, 512",
                        "add {s}, 64",
                        "dec {n}",
                        "jnz 2b",
                        x = inout(reg) x => _,
                        w = inout(reg) w => _,
                        s = inout(reg) w.add(scales_at) => _,
                        n = inout(reg) groups => _,
                        sums = in(reg) sums.as_mut_ptr(),
                        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
                        out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                        out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                        out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                        options(nostack)
                    );
                    let fresh = first && block == 0;
                    store_block::<$m>(groups, &sums, w.add(lows_at), w.add(d_at), x, c, fresh);
                    w = w.add(size);
                }
                x = x.wrapping_add(x_stride);
            }
        }
    };
}
unpacked_tile!(unpacked1 1 (0 "ymm0" "ymm1"));
unpacked_tile!(unpacked2 2 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3"));
unpacked_tile!(unpacked3 3 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5"));
unpacked_tile!(unpacked4 4 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5") (3 "ymm6" "ymm7"));
unpacked_tile!(unpacked5 5 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5") (3 "ymm6" "ymm7") (4 "ymm8" "ymm9"));
unpacked_tile!(unpacked6 6 (0 "ymm0" "ymm1") (1 "ymm2" "ymm3") (2 "ymm4" "ymm5") (3 "ymm6" "ymm7") (4 "ymm8" "ymm9") (5 "ymm10" "ymm11"));

static FEW: [Kernel; 4] = [prefetching1, prefetching2, prefetching3, prefetching4];
static TILES: [Kernel; 4] = [tile1, tile2, tile3, tile4];
pub static KERNELS: Kernels =
    Kernels { layout: Layout::I8Quads, few: &FEW, many: &TILES, pairs: &[], by_rows: None };
static UNPACKED_TILES: [Kernel; 6] = [unpacked1, unpacked2, unpacked3, unpacked4, unpacked5, unpacked6];
pub static UNPACKED: Kernels = Kernels {
    layout: Layout::I8Quads,
    few: &UNPACKED_TILES,
    many: &UNPACKED_TILES,
    pairs: &[],
    by_rows: None,
};
