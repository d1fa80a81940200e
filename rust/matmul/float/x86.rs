//! Float weights on x86-64: few rows read the packed weights; many rows go through tiles over panels
//! converted to f32, with AVX2 in scratch, with AVX-512 in registers.

use super::avx2::{CONVERTED, few, to_f32};
use super::tile::{BF16, F16, F32, HALVES, Kernel, PREFETCH_BYTES, SWAPPED, Tile, size};
use super::{FEW_ROWS, SIDE_BY_SIDE, avx512};
use crate::matmul::layout::Layout;
use crate::matmul::panel::{PANEL, SUPERBLOCK};
use crate::matmul::subproduct::Subproduct;
use crate::tensor::{Buffer, WeightType, sized};

/// Kernels by operands: over one panel or several.
static MANY_ROWS: [[&[Kernel]; 2]; 5] = [
    avx512::many_rows_tables::<F32>(),
    avx512::many_rows_tables::<BF16>(),
    avx512::many_rows_tables::<F16>(),
    avx512::many_rows_tables::<SWAPPED>(),
    avx512::PAIRS,
];

static FEW: [[[(usize, Kernel); 3]; FEW_ROWS]; 5] =
    [few::<F32>(), few::<BF16>(), few::<F16>(), few::<SWAPPED>(), avx512::FEW_PAIRS];

/// Products on CPUs with AVX2, and on those with AVX-512.
pub const AVX2: super::Product = product::<false>;
pub const AVX512: super::Product = product::<true>;

/// See [`super::Product`]. The CPU has AVX-512 if `AVX512`, else AVX2.
fn product<const AVX512: bool>(
    layout: Layout,
    part: Subproduct<'_>,
    unpacked: &mut Buffer<f32>,
    out: &mut [f32],
) {
    let Subproduct { weight: w, panels, x: view, tiles, .. } = part;
    let (first_row, rows) = view.packed.rows_of(&tiles);
    let inputs = w.inputs();
    let blocks = inputs.div_ceil(SUPERBLOCK);
    let code = match (w.weight_type(), layout) {
        (_, Layout::Bf16Pairs) => HALVES,
        (_, Layout::Bf16AsF32) => SWAPPED,
        (WeightType::F32, _) => F32,
        (WeightType::Bf16, _) => BF16,
        _ => F16,
    };
    let size = if code == F32 { size::<F32>() } else { size::<BF16>() };
    // Activations rounded to bf16 come in whole pairs.
    let whole = if code == SWAPPED { inputs.next_multiple_of(2) } else { inputs };
    let length = |block: usize| SUPERBLOCK.min(whole - block * SUPERBLOCK);
    let x_of = |block: usize, tile: usize| match layout {
        Layout::Bf16Pairs => (view.packed.codes(layout, block, tile).as_ptr().cast(), 1),
        _ => {
            let (x, x_stride) = view.float(layout, block, tile);
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
                let (x, x_stride) = x_of(block, tiles.start);
                let w = bytes[block * SUPERBLOCK * size..].as_ptr();
                let tile = Tile {
                    length: length(block),
                    w,
                    w_stride: bytes.len(),
                    x,
                    x_stride,
                    c: out[p * rows * PANEL..].as_mut_ptr(),
                    c_stride: rows * PANEL,
                    first: block == 0,
                    ahead: w.wrapping_add(PREFETCH_BYTES),
                    packed_bytes: size,
                };
                // SAFETY: the level's kernels; the panels follow each other in memory and the last lies
                // inside the matrix; activations and results have room (checked above).
                unsafe { kernel(&tile) };
            }
            p += width;
        }
        return;
    }
    // The weights that come after a block of some panels.
    let next = |p: usize, side_by_side: usize, block: usize| {
        let first = w.panel(panels.start);
        let (panel, block) = match () {
            () if p + side_by_side < panels.len() => (p + side_by_side, block),
            () if block + 1 < blocks => (0, block + 1),
            () => (panels.len(), 0),
        };
        first.as_ptr().wrapping_add(panel * first.len() + block * SUPERBLOCK * size)
    };
    if AVX512 {
        let one = tiles.len() == 1;
        let widest = if code == HALVES { 4 } else { 2 };
        for block in 0..blocks {
            let mut p = 0;
            while p < panels.len() {
                // A block of the panels' weights stays in the L1 cache for all rows.
                let side_by_side = if one || p + widest > panels.len() { 1 } else { widest };
                let bytes = w.panel(panels.start + p);
                let here = bytes[block * SUPERBLOCK * size..].as_ptr();
                for (t, tile) in tiles.clone().enumerate() {
                    let (start, m) = view.packed.tiles[tile];
                    let (at, last) = (p * rows + start - first_row, (side_by_side - 1) * rows);
                    let c = &mut out[at * PANEL..][..(last + m) * PANEL];
                    let kernel = MANY_ROWS[code as usize][usize::from(side_by_side > 1)][m - 1];
                    let ahead = match t {
                        _ if one => here.wrapping_add(PREFETCH_BYTES),
                        // The first tiles prefetch one panel each of the next weights, the others the present
                        // ones.
                        t if t < side_by_side => next(p, side_by_side, block).wrapping_add(t * bytes.len()),
                        _ => here,
                    };
                    let (x, x_stride) = x_of(block, tile);
                    let tile = Tile {
                        length: length(block),
                        w: here,
                        w_stride: bytes.len(),
                        x,
                        x_stride,
                        c: c.as_mut_ptr(),
                        c_stride: rows * PANEL,
                        first: block == 0,
                        ahead,
                        packed_bytes: size,
                    };
                    // SAFETY: the level's kernels; the panels, which follow each other in memory, hold the
                    // inputs of the block, activations and results have as many values as the tile reads.
                    unsafe { kernel(&tile) };
                }
                p += side_by_side;
            }
        }
        return;
    }
    let unpacked = sized(unpacked, SUPERBLOCK * PANEL);
    for block in 0..blocks {
        let length = length(block);
        for (p, panel) in panels.clone().enumerate() {
            let bytes = &w.panel(panel)[block * SUPERBLOCK * size..];
            let mut weights: *const f32 = bytes.as_ptr().cast();
            if code != F32 {
                let to_f32 = match code {
                    BF16 => to_f32::<BF16>,
                    SWAPPED => to_f32::<SWAPPED>,
                    _ => to_f32::<F16>,
                };
                // SAFETY: AVX2 level; `length` inputs of the panel lie in `bytes`, `unpacked` has room for a
                // block.
                unsafe { to_f32(length, bytes.as_ptr(), unpacked.as_mut_ptr()) };
                weights = unpacked.as_ptr();
            }
            for (t, tile) in tiles.clone().enumerate() {
                let (start, m) = view.packed.tiles[tile];
                let c = &mut out[(p * rows + start - first_row) * PANEL..][..m * PANEL];
                let (x, _) = x_of(block, tile);
                let ahead = if t == 0 { next(p, 1, block) } else { weights.cast() };
                let tile = Tile {
                    length,
                    w: weights.cast(),
                    w_stride: 0,
                    x,
                    x_stride: 1,
                    c: c.as_mut_ptr(),
                    c_stride: 0,
                    first: block == 0,
                    ahead,
                    packed_bytes: size,
                };
                // SAFETY: AVX2 level; weights, activations and results have as many values as the tile reads.
                unsafe { CONVERTED[m - 1](&tile) };
            }
        }
    }
}
