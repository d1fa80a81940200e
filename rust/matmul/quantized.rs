//! What the quantized types share: panels of blocks of 256 inputs, and the loops around their kernels.

use super::activations::PackedActivations;
use super::layout::Layout;
use super::matrix::Matrix;
use super::panel::{GROUP, GROUPS, PANEL};
use crate::simd::{Level, prefetch_at};
use crate::tensor::{Buffer, sized};
use std::ops::Range;

/// Scales are stored as f16 times this, so that those of small weights stay normal numbers.
pub const SCALE_BIAS: f32 = 4096.0;

/// Blocks that all rows go through before the next: the weights of two panels stay in the nearest cache.
const BLOCKS_AT_ONCE: usize = 2;

/// Bytes ahead of the reading that some kernels ask the memory for.
#[cfg(target_arch = "x86_64")]
pub const PREFETCH_BYTES: usize = 8 * 1024;

/// M rows by 16 outputs: `(blocks, groups, w, x, x_stride, c, ahead, lines, first)`.
///
/// `blocks` blocks of `groups` groups each, packed one after the other from `w`; strips from `x`, `x_stride` words
/// from block to block; results in `c: [M][16]`, which start at zero where `first`. After each block the kernel asks
/// for `lines` cache lines from `ahead` on; kernels that ask as they go take `ahead` as the address they read from.
pub type Kernel = unsafe fn(usize, usize, *const u8, *const i32, usize, *mut f32, *const u8, usize, bool);

/// The same for two panels side by side, `(w stride, c stride)` apart.
pub type PairKernel =
    unsafe fn(usize, usize, *const u8, *const i32, usize, *mut f32, *const u8, usize, bool, usize, usize);

/// Kernels of an instruction set, by number of rows - 1.
pub struct Kernels {
    pub layout: Layout,
    /// For one tile, which reads weights from memory.
    pub few: &'static [Kernel],
    /// For tile after tile over the same weights.
    pub many: &'static [Kernel],
    /// As `many`, for two panels; may be none.
    pub pairs: &'static [PairKernel],
    /// As `many` and `pairs`, for strips by rows.
    pub by_rows: Option<(&'static [Kernel], &'static [PairKernel])>,
}

/// Most activations whose strips are by rows: where they stay in a core's own cache, kernels read them as fast as interleaved ones,
/// and they are made in less time. Measured on Zen 5.
const MAX_BY_ROWS: usize = 192 * 1024;

impl Kernels {
    /// Rows in a tile, where there are so many.
    pub fn height(&self, rows: usize) -> usize {
        if rows > self.few.len() && !self.pairs.is_empty() { self.pairs.len() } else { self.many.len() }
    }

    /// Whether strips of activations `[rows, inputs]` are by rows, or interleaved.
    pub fn prefers_rows(&self, rows: usize, inputs: usize) -> bool {
        self.by_rows.is_some() && rows > self.few.len() && rows * inputs <= MAX_BY_ROWS
    }
}

/// Groups in the last block of `inputs` (1 to 8), and the number of whole blocks before it.
pub fn shape(inputs: usize) -> (usize, usize) {
    let groups = inputs.div_ceil(GROUP);
    let whole = groups / GROUPS;
    (whole, groups % GROUPS)
}

/// The blocks of a panel: number of groups and bytes of each; `block_bytes` of a block of so many groups.
pub fn blocks(inputs: usize, block_bytes: fn(usize) -> usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (whole, rest) = shape(inputs);
    let last = (rest > 0).then_some((whole, rest));
    (0..whole).map(|block| (block, GROUPS)).chain(last).map(move |(block, groups)| {
        let start = block * block_bytes(GROUPS);
        (groups, start..start + block_bytes(groups))
    })
}

/// Packed blocks of a type, of so many groups each.
pub struct Blocks {
    /// Bytes of one.
    pub bytes: fn(usize) -> usize,
    /// How it is turned into one that the kernels read, where they do not read it as it is.
    pub unpacking: Option<Unpacking>,
}

/// See [`Blocks`].
pub struct Unpacking {
    /// Bytes of a unpacked block.
    pub bytes: fn(usize) -> usize,
    pub unpack: fn(Level, usize, &[u8], &mut [u8]),
}

/// Products of some panels with some tiles; `out: [panel][row][16]`. `memory` is a thread's own.
pub fn product(
    level: Level,
    kernels: &Kernels,
    Blocks { bytes: block_bytes, unpacking }: &Blocks,
    w: &Matrix,
    panels: Range<usize>,
    packed: &PackedActivations,
    tiles: Range<usize>,
    memory: &mut Buffer<f32>,
    out: &mut [f32],
) {
    let (first_row, rows) = packed.rows_of(&tiles);
    assert!(out.len() >= panels.len() * rows * PANEL, "room for the results");
    let (whole, rest) = shape(w.inputs());
    if whole + rest == 0 {
        out.fill(0.0);
        return;
    }
    let size = block_bytes(GROUPS);
    let x_stride = packed.rows * kernels.layout.words();
    if tiles.len() == 1 && !packed.by_rows && unpacking.is_none() {
        // Weights are read once: panel by panel, as they lie in memory.
        let (tile, m) = (tiles.start, rows);
        for (c, panel) in out.chunks_exact_mut(m * PANEL).zip(panels) {
            let w = w.panel(panel);
            for (block, length, groups) in [(0, whole, GROUPS), (whole, 1, rest)] {
                if length * groups > 0 {
                    let x = tile_activations(kernels, packed, block, length, tile);
                    let (w, c) = (w[block * size..].as_ptr(), c.as_mut_ptr());
                    // SAFETY: the kernels are of a level that the machine has; the panel holds `length` blocks of these
                    // groups from `block` on, the strip as many, and `c` has room for all rows.
                    unsafe { kernels.few[m - 1](length, groups, w, x, x_stride, c, w, 0, block == 0) };
                }
            }
        }
        return;
    }
    let (many, pairs) = match kernels.by_rows {
        Some(by_rows) if packed.by_rows => by_rows,
        _ => (kernels.many, kernels.pairs),
    };
    let stride = whole * size + if rest > 0 { block_bytes(rest) } else { 0 };
    let most = if pairs.is_empty() { 1 } else { 2 };
    for p in (0..panels.len()).step_by(most) {
        let side_by_side = most.min(panels.len() - p);
        let both = w.some_panels(panels.start + p..panels.start + p + side_by_side);
        let mut block = 0;
        while block < whole + usize::from(rest > 0) {
            let (length, groups) =
                if block < whole { (BLOCKS_AT_ONCE.min(whole - block), GROUPS) } else { (1, rest) };
            let first = block == 0;
            let here = &both[block * size..];
            let (weights, w_stride) = match unpacking {
                Some(Unpacking { bytes: unpacked_bytes, unpack }) => {
                    let size_unpacked = unpacked_bytes(groups);
                    let memory = bytes(memory, side_by_side * length * size_unpacked);
                    for (i, memory) in memory.chunks_exact_mut(size_unpacked).enumerate() {
                        let from = &here[i / length * stride + i % length * size..];
                        unpack(level, groups, &from[..block_bytes(groups)], memory);
                    }
                    (memory.as_ptr(), length * size_unpacked)
                }
                None => (here.as_ptr(), stride),
            };
            // Each tile asks for its share of the weights that come next: of these panels, or of those behind them.
            let lines = (size / 64).div_ceil(tiles.len());
            let next = here.as_ptr().wrapping_add(if block + length < whole {
                length * size
            } else {
                side_by_side * stride - block * size
            });
            for (t, tile) in tiles.clone().enumerate() {
                let (start, m) = packed.tiles[tile];
                let x = tile_activations(kernels, packed, block, length, tile);
                let (at, last) = (p * rows + start - first_row, (side_by_side - 1) * rows);
                let c = out[at * PANEL..][..(last + m) * PANEL].as_mut_ptr();
                let next = next.wrapping_add(t * lines * length * 64);
                // Kernels ask for panels as far apart as those that they read.
                let lines = if unpacking.is_some() {
                    for i in 0..side_by_side {
                        prefetch_at(next.wrapping_add(i * stride), lines * length * 64);
                    }
                    0
                } else {
                    lines
                };
                // SAFETY: as above, for one panel or two, which are as far apart as is said.
                unsafe {
                    if side_by_side == 2 {
                        let (kernel, c_stride) = (pairs[m - 1], rows * PANEL);
                        kernel(
                            length, groups, weights, x, x_stride, c, next, lines, first, w_stride, c_stride,
                        );
                    } else {
                        many[m - 1](length, groups, weights, x, x_stride, c, next, lines, first);
                    }
                }
            }
            block += length;
        }
    }
}

/// Some bytes of a buffer, from a cache line on.
pub fn bytes(memory: &mut Buffer<f32>, length: usize) -> &mut [u8] {
    let memory = sized(memory, length.div_ceil(4));
    // SAFETY: any bytes are f32, and any f32 is bytes.
    let (_, bytes, _) = unsafe { memory.align_to_mut::<u8>() };
    &mut bytes[..length]
}

/// The strip of a tile from a block on, which holds `length` blocks.
pub fn tile_activations(
    kernels: &Kernels,
    packed: &PackedActivations,
    block: usize,
    length: usize,
    tile: usize,
) -> *const i32 {
    let (x, words) = (packed.codes(kernels.layout, block, tile), kernels.layout.words());
    assert!(x.len() >= (length - 1) * packed.rows * words + packed.tiles[tile].1 * words, "whole strips");
    x.as_ptr()
}

/// What the kernels with AVX2 share, those with AVX-VNNI too.
#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use super::SCALE_BIAS;
    use std::arch::x86_64::*;

    /// Most rows whose sums for 16 outputs fit into the registers.
    pub const MAX_ROWS: usize = 6;

    /// A function `products` that adds products of M rows and 16 outputs to their sums: in each of some steps two vectors of
    /// weights, in ymm12 and ymm13, with a word of each row, in ymm14, which `$step!(sum sum)` says how to multiply; ymm15 is free.
    ///
    /// In assembly: the compiler keeps sums of six rows in memory, which sets the pace.
    macro_rules! products {
        ($features:literal, $step:ident) => {
            /// # Safety
            /// A word of M rows and 64 aligned bytes of weights for each of `steps` steps, one at least, lie behind `x` and `w`;
            /// the instruction set.
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
                // SAFETY: reads what is promised and touches the sums only.
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

    /// Scales of 8 outputs as they were before the bias.
    ///
    /// # Safety
    /// They lie behind `at`, in f16.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn scales(at: *const u8) -> __m256 {
        // SAFETY: as promised.
        let stored = unsafe { _mm_loadu_si128(at.cast()) };
        _mm256_mul_ps(_mm256_cvtph_ps(stored), _mm256_set1_ps(1.0 / SCALE_BIAS))
    }
}

/// What the kernels with AVX-512 share.
#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    use super::SCALE_BIAS;
    use std::arch::x86_64::*;

    /// Scales of 16 outputs as they were before the bias.
    ///
    /// # Safety
    /// They lie behind `at`, in f16.
    #[inline]
    #[target_feature(enable = "avx512f,f16c")]
    pub unsafe fn scales(at: *const u8) -> __m512 {
        // SAFETY: as promised.
        let stored = unsafe { _mm256_loadu_si256(at.cast()) };
        _mm512_mul_ps(_mm512_cvtph_ps(stored), _mm512_set1_ps(1.0 / SCALE_BIAS))
    }

    /// Asks for the weights that come next, of P panels.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn prefetch<const P: usize>(ahead: *const u8, lines: usize, w_stride: usize) {
        for i in 0..lines {
            for p in 0..P {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(p * w_stride + 64 * i).cast());
            }
        }
    }

    /// Where a strip has a word of a row, of M interleaved rows or of rows of so many words.
    #[inline(always)]
    pub const fn place<const M: usize, const ROWS: bool>(word: usize, row: usize, words: usize) -> usize {
        if ROWS { row * words + word } else { word * M + row }
    }

    /// The kernels of a type, from one function generic over rows, panels and whether it asks for memory as it goes.
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
                // Twelve sums, as many totals, and what they are made of fit into 32 registers.
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
}
