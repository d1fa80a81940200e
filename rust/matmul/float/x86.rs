//! Float weights on x86-64: a few rows straight from the packed weights; of many, tiles over widened panels with AVX2, over panels
//! that are widened on the fly with AVX-512.

use super::avx512;
use super::{BLOCK, FEW_ROWS, Kind, Level, Matrix, PANEL, Prepared, SIDE_BY_SIDE, WeightType};
use crate::tensor::{Buffer, sized};
use std::arch::x86_64::*;
use std::ops::Range;

/// What a kernel multiplies.
pub const F32: u8 = 0;
pub const BF16: u8 = 1;
pub const F16: u8 = 2;
/// bf16, of each two inputs the second first.
pub const SWAPPED: u8 = 3;
/// Pairs of bf16 by pairs of bf16.
const HALVES: u8 = 4;

/// Bytes ahead of the reading that a matrix-vector product asks the memory for. Measured on Zen 5: 4 KB
/// brings streams of 2-byte weights from 0.69 to 0.77 of the read bandwidth.
pub const AHEAD: usize = 4 * 1024;

/// Bytes of a line of the caches.
pub const LINE: usize = 64;

/// `(length, w, w_stride, x, x_stride, c, c_stride, first, ahead)`: some rows by one panel or more, `length` inputs. Panels lie
/// `w_stride` bytes apart from `w` on, their results `c_stride` values apart from `c` on, which start at zero where `first`; rows
/// of activations `x_stride` values apart from `x` on, where 1 means that they are interleaved. While a kernel reads a panel's
/// weights it asks for as many bytes from `ahead` on; one for a few rows asks for those of all panels, `w_stride` bytes apart.
pub type Kernel = unsafe fn(usize, *const u8, usize, *const f32, usize, *mut f32, usize, bool, *const u8);

/// Bytes of 16 weights.
pub const fn size<const W: u8>() -> usize {
    if W == F32 { 4 * PANEL } else { 2 * PANEL }
}

/// Sixteen weights as two vectors: of the first input of the two behind `w` or of the second.
///
/// # Safety
/// AVX2 and F16C; `w` points at 16 weights of that input, of bf16 at those of both.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const W: u8>(w: *const u8, second: bool) -> (__m256, __m256) {
    // SAFETY: as promised.
    unsafe {
        let at = w.add(usize::from(second) * size::<W>());
        match W {
            F32 => (_mm256_loadu_ps(at.cast()), _mm256_loadu_ps(at.add(32).cast())),
            F16 => (
                _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast())),
            ),
            _ => {
                let (a, b) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast()));
                let (a, b) = if second == (W == BF16) {
                    let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
                    (_mm256_and_si256(a, high), _mm256_and_si256(b, high))
                } else {
                    (_mm256_slli_epi32::<16>(a), _mm256_slli_epi32::<16>(b))
                };
                (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b))
            }
        }
    }
}

/// Few rows: M rows by P panels, straight from the packed weights, as [`Kernel`].
///
/// # Safety
/// AVX2, FMA, F16C; all pointers reach as far as the sizes say.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matvec<const M: usize, const P: usize, const W: u8>(
    length: usize,
    mut w: *const u8,
    w_stride: usize,
    mut x: *const f32,
    x_stride: usize,
    c: *mut f32,
    c_stride: usize,
    first: bool,
    mut ahead: *const u8,
) {
    let mut s = [[[_mm256_setzero_ps(); 2]; P]; M];
    // SAFETY: as promised; prefetches touch no memory.
    unsafe {
        if !first {
            for i in 0..M {
                for p in 0..P {
                    for h in 0..2 {
                        s[i][p][h] = _mm256_loadu_ps(c.add(p * c_stride + i * PANEL + 8 * h));
                    }
                }
            }
        }
        let mut left = length;
        while left > 0 {
            for second in [false, true] {
                if second && left == 1 {
                    break;
                }
                let ask = W == F32 || !second;
                for p in 0..P {
                    if ask {
                        _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(p * w_stride).cast());
                    }
                    let (a, b) = load::<W>(w.add(p * w_stride), second);
                    for i in 0..M {
                        let y = _mm256_broadcast_ss(&*x.add(i * x_stride));
                        s[i][p] = [_mm256_fmadd_ps(y, a, s[i][p][0]), _mm256_fmadd_ps(y, b, s[i][p][1])];
                    }
                }
                if ask {
                    ahead = ahead.wrapping_add(LINE);
                }
                x = x.add(if x_stride == 1 { M } else { 1 });
            }
            w = w.wrapping_add(2 * size::<W>());
            left -= left.min(2);
        }
        for i in 0..M {
            for p in 0..P {
                for h in 0..2 {
                    _mm256_storeu_ps(c.add(p * c_stride + i * PANEL + 8 * h), s[i][p][h]);
                }
            }
        }
    }
}

/// Many rows: M interleaved rows by one widened panel; asks for `step` bytes of memory from `ahead` on for each input.
///
/// # Safety
/// AVX2 and FMA; all pointers reach as far as the sizes say.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const M: usize>(
    length: usize,
    mut w: *const f32,
    mut x: *const f32,
    c: *mut f32,
    first: bool,
    mut ahead: *const u8,
    step: usize,
) {
    let mut s = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: as promised; prefetches touch no memory.
    unsafe {
        if !first {
            for i in 0..M {
                for h in 0..2 {
                    s[i][h] = _mm256_loadu_ps(c.add(PANEL * i + 8 * h));
                }
            }
        }
        for _ in 0..length {
            let (a, b) = (_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8)));
            for i in 0..M {
                let y = _mm256_broadcast_ss(&*x.add(i));
                s[i] = [_mm256_fmadd_ps(y, a, s[i][0]), _mm256_fmadd_ps(y, b, s[i][1])];
            }
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            ahead = ahead.wrapping_add(step);
            w = w.add(PANEL);
            x = x.add(M);
        }
        for i in 0..M {
            for h in 0..2 {
                _mm256_storeu_ps(c.add(PANEL * i + 8 * h), s[i][h]);
            }
        }
    }
}

/// By what is multiplied: over one panel or several.
static WIDE: [[&[Kernel]; 2]; 5] = [
    avx512::wide_tables::<F32>(),
    avx512::wide_tables::<BF16>(),
    avx512::wide_tables::<F16>(),
    avx512::wide_tables::<SWAPPED>(),
    avx512::PAIRS,
];

/// # Safety
/// AVX2 and F16C; `w` holds `length` inputs of a panel, `out` room for them.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen<const W: u8>(length: usize, w: *const u8, out: *mut f32) {
    for k in 0..length {
        // SAFETY: as promised.
        unsafe {
            let (a, b) = load::<W>(w.add(k / 2 * 2 * size::<W>()), k % 2 == 1);
            _mm256_storeu_ps(out.add(PANEL * k), a);
            _mm256_storeu_ps(out.add(PANEL * k + 8), b);
        }
    }
}

/// One, two or four panels side by side, by rows, with as many of them as the registers hold.
const fn few<const W: u8>() -> [[(usize, Kernel); 3]; FEW_ROWS] {
    [
        [(1, matvec::<1, 1, W>), (2, matvec::<1, 2, W>), (4, matvec::<1, 4, W>)],
        [(1, matvec::<2, 1, W>), (2, matvec::<2, 2, W>), (2, matvec::<2, 2, W>)],
        [(1, matvec::<3, 1, W>), (2, matvec::<3, 2, W>), (2, matvec::<3, 2, W>)],
        [(1, matvec::<4, 1, W>), (1, matvec::<4, 1, W>), (1, matvec::<4, 1, W>)],
    ]
}
static FEW: [[[(usize, Kernel); 3]; FEW_ROWS]; 5] =
    [few::<F32>(), few::<BF16>(), few::<F16>(), few::<SWAPPED>(), avx512::FEW_PAIRS];

type TileFn = unsafe fn(usize, *const f32, *const f32, *mut f32, bool, *const u8, usize);
static TILE: [TileFn; 6] = [tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>];

pub fn product(
    level: Level,
    kind: Kind,
    w: &Matrix,
    panels: Range<usize>,
    s: Prepared<'_>,
    tiles: Range<usize>,
    widened: &mut Buffer<f32>,
    out: &mut [f32],
) {
    let (first_row, rows) = s.rows_of(&tiles);
    let inputs = w.inputs();
    let blocks = inputs.div_ceil(BLOCK);
    let code = match (w.weight_type(), kind) {
        (_, Kind::Halves) => HALVES,
        (_, Kind::Rounded) => SWAPPED,
        (WeightType::F32, _) => F32,
        (WeightType::Bf16, _) => BF16,
        _ => F16,
    };
    let size = if code == F32 { size::<F32>() } else { size::<BF16>() };
    // Rounded activations come in whole pairs.
    let whole = if code == SWAPPED { inputs.next_multiple_of(2) } else { inputs };
    let length = |block: usize| BLOCK.min(whole - block * BLOCK);
    let strip = |block: usize, tile: usize| match kind {
        Kind::Halves => (s.codes(kind, block, tile).as_ptr().cast(), 1),
        _ => {
            let (x, x_stride) = s.float(kind, block, tile);
            (x.as_ptr(), x_stride)
        }
    };
    assert!(out.len() >= panels.len() * rows * PANEL, "room for the results");
    if inputs == 0 {
        out.fill(0.0);
        return;
    }
    if tiles.len() == 1 && rows <= FEW_ROWS {
        let mut p = 0;
        while p < panels.len() {
            let choice = match panels.len() - p {
                SIDE_BY_SIDE.. => 2,
                2..SIDE_BY_SIDE => 1,
                _ => 0,
            };
            let (width, kernel) = FEW[code as usize][rows - 1][choice];
            let bytes = w.panel(panels.start + p);
            for block in 0..blocks {
                let (x, x_stride) = strip(block, tiles.start);
                // SAFETY: the level's kernels; the panels follow each other in memory and the last lies inside the
                // matrix; strip and results have room (checked above).
                unsafe {
                    kernel(
                        length(block),
                        bytes.as_ptr().add(block * BLOCK * size),
                        bytes.len(),
                        x,
                        x_stride,
                        out.as_mut_ptr().add(p * rows * PANEL),
                        rows * PANEL,
                        block == 0,
                        bytes.as_ptr().wrapping_add(block * BLOCK * size + AHEAD),
                    );
                }
            }
            p += width;
        }
        return;
    }
    // The weights that follow those of a block of some panels.
    let next = |p: usize, side_by_side: usize, block: usize| {
        let first = w.panel(panels.start);
        let (panel, block) = match () {
            () if p + side_by_side < panels.len() => (p + side_by_side, block),
            () if block + 1 < blocks => (0, block + 1),
            () => (panels.len(), 0),
        };
        first.as_ptr().wrapping_add(panel * first.len() + block * BLOCK * size)
    };
    if level == Level::Avx512 {
        let one = tiles.len() == 1;
        let widest = if code == HALVES { 4 } else { 2 };
        for block in 0..blocks {
            let mut p = 0;
            while p < panels.len() {
                // A block of the panels' weights stays in the nearest cache while the rows go by.
                let side_by_side = if one || p + widest > panels.len() { 1 } else { widest };
                let bytes = w.panel(panels.start + p);
                let here = bytes[block * BLOCK * size..].as_ptr();
                for (t, tile) in tiles.clone().enumerate() {
                    let (start, m) = s.tiles[tile];
                    let (at, last) = (p * rows + start - first_row, (side_by_side - 1) * rows);
                    let c = &mut out[at * PANEL..][..(last + m) * PANEL];
                    let kernel = WIDE[code as usize][usize::from(side_by_side > 1)][m - 1];
                    let ahead = match t {
                        _ if one => here.wrapping_add(AHEAD),
                        // The first tiles ask for a panel each of those that come next, the others for what is here.
                        t if t < side_by_side => next(p, side_by_side, block).wrapping_add(t * bytes.len()),
                        _ => here,
                    };
                    let (x, x_stride) = strip(block, tile);
                    // SAFETY: the level's kernels; the panels, which follow each other in memory, hold the inputs of the
                    // block, strip and results have as many values as the tile reads.
                    unsafe {
                        kernel(
                            length(block),
                            here,
                            bytes.len(),
                            x,
                            x_stride,
                            c.as_mut_ptr(),
                            rows * PANEL,
                            block == 0,
                            ahead,
                        );
                    }
                }
                p += side_by_side;
            }
        }
        return;
    }
    let widened = sized(widened, BLOCK * PANEL);
    for block in 0..blocks {
        let length = length(block);
        for (p, panel) in panels.clone().enumerate() {
            let bytes = &w.panel(panel)[block * BLOCK * size..];
            let mut weights: *const f32 = bytes.as_ptr().cast();
            if code != F32 {
                let widen = match code {
                    BF16 => widen::<BF16>,
                    SWAPPED => widen::<SWAPPED>,
                    _ => widen::<F16>,
                };
                // SAFETY: AVX2 level; `length` inputs of the panel lie in `bytes`, `widened` has room for a block.
                unsafe { widen(length, bytes.as_ptr(), widened.as_mut_ptr()) };
                weights = widened.as_ptr();
            }
            for (t, tile) in tiles.clone().enumerate() {
                let (start, m) = s.tiles[tile];
                let c = &mut out[(p * rows + start - first_row) * PANEL..][..m * PANEL];
                let (x, _) = strip(block, tile);
                let ahead = if t == 0 { next(p, 1, block) } else { weights.cast() };
                // SAFETY: AVX2 level; weights, strip and results have as many values as the tile reads.
                unsafe { TILE[m - 1](length, weights, x, c.as_mut_ptr(), block == 0, ahead, size) };
            }
        }
    }
}
