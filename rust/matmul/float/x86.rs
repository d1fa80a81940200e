//! Float weights with AVX2 and AVX-512: a few rows straight from the packed weights, tiles of many over widened panels.

use super::{BLOCK, FEW_ROWS, Level, Matrix, PANEL, SIDE_BY_SIDE, Strips, WeightType};
use std::arch::x86_64::*;
use std::ops::Range;

const F32: u8 = 0;
const BF16: u8 = 1;
const F16: u8 = 2;

/// Bytes ahead of the reading that a matrix-vector product asks the memory for. Measured on Zen 5: 4 KB
/// brings streams of 2-byte weights from 0.69 to 0.77 of the read bandwidth.
const AHEAD: usize = 4 * 1024;

/// Sixteen weights of one input as two vectors.
///
/// # Safety
/// AVX2 and F16C; `w` points at 16 weights of type `W`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const W: u8>(w: *const u8) -> (__m256, __m256) {
    // SAFETY: 32 or 64 bytes lie behind `w`.
    unsafe {
        match W {
            F32 => (_mm256_loadu_ps(w.cast()), _mm256_loadu_ps(w.add(32).cast())),
            BF16 => {
                let v = _mm256_loadu_si256(w.cast());
                let high = _mm256_set1_epi32(0xffff_0000u32 as i32);
                (
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v)),
                    _mm256_castsi256_ps(_mm256_and_si256(v, high)),
                )
            }
            _ => (
                _mm256_cvtph_ps(_mm_loadu_si128(w.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(w.add(16).cast())),
            ),
        }
    }
}

/// Few rows: M rows by P panels, `length` inputs, straight from the packed weights.
/// `c[(p * panel_stride + i) * 16 + j]`.
///
/// # Safety
/// AVX2, FMA, F16C; all pointers reach as far as the sizes say.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matvec<const M: usize, const P: usize, const W: u8>(
    length: usize,
    w: *const u8,
    stride: usize,
    mut x: *const f32,
    c: *mut f32,
    panel_stride: usize,
    first: bool,
) {
    let size = if W == F32 { 64 } else { 32 };
    let mut s = [[[_mm256_setzero_ps(); 2]; P]; M];
    // SAFETY: as promised; prefetches touch no memory.
    unsafe {
        if !first {
            for i in 0..M {
                for p in 0..P {
                    for h in 0..2 {
                        s[i][p][h] = _mm256_loadu_ps(c.add((p * panel_stride + i) * PANEL + 8 * h));
                    }
                }
            }
        }
        for k in 0..length {
            for p in 0..P {
                let at = w.add(p * stride + k * size);
                if W == F32 || k % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD).cast());
                }
                let (a, b) = load::<W>(at);
                for i in 0..M {
                    let y = _mm256_broadcast_ss(&*x.add(i));
                    s[i][p] = [_mm256_fmadd_ps(y, a, s[i][p][0]), _mm256_fmadd_ps(y, b, s[i][p][1])];
                }
            }
            x = x.add(M);
        }
        for i in 0..M {
            for p in 0..P {
                for h in 0..2 {
                    _mm256_storeu_ps(c.add((p * panel_stride + i) * PANEL + 8 * h), s[i][p][h]);
                }
            }
        }
    }
}

/// Many rows: M rows by one widened panel.
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
) {
    let mut s = [[_mm256_setzero_ps(); 2]; M];
    // SAFETY: as promised.
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

/// Lane of each output in a vector of bf16 weights as they are stored.
#[repr(align(64))]
struct Order([i32; 16]);
static STORED: Order = Order([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]);
static BACK: Order = Order([0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]);

/// Many rows with AVX-512: M rows by P panels, widened on the fly. bf16 weights stay in their stored order, which
/// the results are brought into and back out of. `SPREAD` asks for the memory ahead. Panels are `w_stride` bytes
/// apart, their results `c_stride`.
///
/// # Safety
/// AVX-512 F; all pointers reach as far as the sizes say.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn wide<const M: usize, const P: usize, const W: u8, const SPREAD: bool>(
    length: usize,
    mut w: *const u8,
    w_stride: usize,
    mut x: *const f32,
    c: *mut f32,
    c_stride: usize,
    first: bool,
) {
    let size = if W == F32 { 64 } else { 32 };
    let mut s = [[_mm512_setzero_ps(); M]; P];
    // SAFETY: as promised; prefetches touch no memory.
    unsafe {
        let stored = _mm512_load_si512(STORED.0.as_ptr().cast());
        let back = _mm512_load_si512(BACK.0.as_ptr().cast());
        if !first {
            for p in 0..P {
                for i in 0..M {
                    let v = _mm512_loadu_ps(c.add(p * c_stride + PANEL * i));
                    s[p][i] = if W == BF16 { _mm512_permutexvar_ps(stored, v) } else { v };
                }
            }
        }
        let end = w.add(length * size);
        while w != end {
            let v: [__m512; P] = std::array::from_fn(|p| {
                let w = w.add(p * w_stride);
                match W {
                    F32 => _mm512_loadu_ps(w.cast()),
                    BF16 => {
                        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(w.cast()));
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                    }
                    _ => _mm512_cvtph_ps(_mm256_loadu_si256(w.cast())),
                }
            });
            for i in 0..M {
                let y = _mm512_set1_ps(*x.add(i));
                for p in 0..P {
                    s[p][i] = _mm512_fmadd_ps(y, v[p], s[p][i]);
                }
            }
            if SPREAD {
                _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(AHEAD).cast());
            }
            w = w.add(size);
            x = x.add(M);
        }
        for p in 0..P {
            for i in 0..M {
                let v = if W == BF16 { _mm512_permutexvar_ps(back, s[p][i]) } else { s[p][i] };
                _mm512_storeu_ps(c.add(p * c_stride + PANEL * i), v);
            }
        }
    }
}

type WideFn = unsafe fn(usize, *const u8, usize, *const f32, *mut f32, usize, bool);
const fn wides<const P: usize, const W: u8, const S: bool>() -> [WideFn; 12] {
    [
        wide::<1, P, W, S>,
        wide::<2, P, W, S>,
        wide::<3, P, W, S>,
        wide::<4, P, W, S>,
        wide::<5, P, W, S>,
        wide::<6, P, W, S>,
        wide::<7, P, W, S>,
        wide::<8, P, W, S>,
        wide::<9, P, W, S>,
        wide::<10, P, W, S>,
        wide::<11, P, W, S>,
        wide::<12, P, W, S>,
    ]
}
/// By weight type: one tile of rows that reads weights from memory, then tile after tile over one panel and over two.
static WIDE: [[[WideFn; 12]; 3]; 3] = [
    [wides::<1, F32, true>(), wides::<1, F32, false>(), wides::<2, F32, false>()],
    [wides::<1, BF16, true>(), wides::<1, BF16, false>(), wides::<2, BF16, false>()],
    [wides::<1, F16, true>(), wides::<1, F16, false>(), wides::<2, F16, false>()],
];

/// # Safety
/// AVX2 and F16C; `w` holds `length` inputs of a panel, `out` room for them.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen<const W: u8>(length: usize, w: *const u8, out: *mut f32) {
    for k in 0..length {
        // SAFETY: as promised.
        unsafe {
            let (a, b) = load::<W>(w.add(32 * k));
            _mm256_storeu_ps(out.add(PANEL * k), a);
            _mm256_storeu_ps(out.add(PANEL * k + 8), b);
        }
    }
}

type MatvecFn = unsafe fn(usize, *const u8, usize, *const f32, *mut f32, usize, bool);

/// One, two or four panels side by side, by rows.
const fn matvecs<const W: u8>() -> [[MatvecFn; 3]; FEW_ROWS] {
    [
        [matvec::<1, 1, W>, matvec::<1, 2, W>, matvec::<1, 4, W>],
        [matvec::<2, 1, W>, matvec::<2, 2, W>, matvec::<2, 2, W>],
        [matvec::<3, 1, W>, matvec::<3, 2, W>, matvec::<3, 2, W>],
        [matvec::<4, 1, W>, matvec::<4, 1, W>, matvec::<4, 1, W>],
    ]
}
static MATVEC: [[[MatvecFn; 3]; FEW_ROWS]; 3] = [matvecs::<F32>(), matvecs::<BF16>(), matvecs::<F16>()];
const WIDTHS: [[usize; 3]; FEW_ROWS] = [[1, 2, 4], [1, 2, 2], [1, 2, 2], [1, 1, 1]];

type TileFn = unsafe fn(usize, *const f32, *const f32, *mut f32, bool);
static TILE: [TileFn; 6] = [tile::<1>, tile::<2>, tile::<3>, tile::<4>, tile::<5>, tile::<6>];

pub fn product(
    level: Level,
    w: &Matrix,
    panels: Range<usize>,
    s: &Strips,
    tiles: Range<usize>,
    widened: &mut Vec<f32>,
    out: &mut [f32],
) {
    let (first_row, rows) = s.rows_of(&tiles);
    let inputs = w.inputs();
    let blocks = inputs.div_ceil(BLOCK);
    let (code, size) = match w.weight_type() {
        WeightType::F32 => (F32, 64),
        WeightType::Bf16 => (BF16, 32),
        _ => (F16, 32),
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
            let bytes = w.panel(panels.start + p);
            for block in 0..blocks {
                let length = BLOCK.min(inputs - block * BLOCK);
                let x = s.float(block, tiles.start);
                // SAFETY: AVX2 level; the panels follow each other in memory and the last lies inside the matrix;
                // strip and results have room (checked above).
                unsafe {
                    MATVEC[code as usize][rows - 1][choice](
                        length,
                        bytes.as_ptr().add(block * BLOCK * size),
                        inputs * size,
                        x.as_ptr(),
                        out.as_mut_ptr().add(p * rows * PANEL),
                        rows,
                        block == 0,
                    );
                }
            }
            p += WIDTHS[rows - 1][choice];
        }
        return;
    }
    if level == Level::Avx512 {
        let one = tiles.len() == 1;
        for block in 0..blocks {
            let length = BLOCK.min(inputs - block * BLOCK);
            let mut p = 0;
            while p < panels.len() {
                // Two panels' weights stay in the nearest cache while the rows go by.
                let side_by_side = if one || p + 1 == panels.len() { 1 } else { 2 };
                let bytes = &w.panel(panels.start + p)[block * BLOCK * size..];
                for tile in tiles.clone() {
                    let (start, m) = s.tiles[tile];
                    let x = s.float(block, tile);
                    let (at, last) = (p * rows + start - first_row, (side_by_side - 1) * rows);
                    let c = &mut out[at * PANEL..][..(last + m) * PANEL];
                    let kernel = WIDE[code as usize][if one { 0 } else { side_by_side }][m - 1];
                    // SAFETY: AVX-512 level; `length` inputs of the panels, which follow each other in memory, lie
                    // from `bytes` on, strip and results have as many values as the tile reads.
                    unsafe {
                        kernel(
                            length,
                            bytes.as_ptr(),
                            inputs * size,
                            x.as_ptr(),
                            c.as_mut_ptr(),
                            rows * PANEL,
                            block == 0,
                        );
                    }
                }
                p += side_by_side;
            }
        }
        return;
    }
    if widened.len() < BLOCK * PANEL {
        widened.resize(BLOCK * PANEL, 0.0);
    }
    for block in 0..blocks {
        let length = BLOCK.min(inputs - block * BLOCK);
        for (p, panel) in panels.clone().enumerate() {
            let bytes = &w.panel(panel)[block * BLOCK * size..];
            // SAFETY: AVX2 level; `length` inputs of the panel lie in `bytes`, `widened` has room for a block.
            let weights: *const f32 = unsafe {
                match code {
                    F32 => bytes.as_ptr().cast(),
                    BF16 => {
                        widen::<BF16>(length, bytes.as_ptr(), widened.as_mut_ptr());
                        widened.as_ptr()
                    }
                    _ => {
                        widen::<F16>(length, bytes.as_ptr(), widened.as_mut_ptr());
                        widened.as_ptr()
                    }
                }
            };
            for tile in tiles.clone() {
                let (start, m) = s.tiles[tile];
                let c = &mut out[(p * rows + start - first_row) * PANEL..][..m * PANEL];
                let x = s.float(block, tile);
                // SAFETY: AVX2 level; weights, strip and results have as many values as the tile reads.
                unsafe { TILE[m - 1](length, weights, x.as_ptr(), c.as_mut_ptr(), block == 0) };
            }
        }
    }
}
