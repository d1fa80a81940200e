//! Float weights with NEON: multiply-adds of four outputs by one lane of activations.

use super::tile::{BF16, F16, F32, Kernel, SWAPPED, Tile, size};
use super::{FEW_ROWS, SIDE_BY_SIDE};
use crate::matmul::layout::Layout;
use crate::matmul::neon::halves;
use crate::matmul::panel::{PANEL, SUPERBLOCK};
use crate::matmul::subproduct::Subproduct;
use crate::tensor::{Buffer, WeightType, sized};
use std::arch::aarch64::*;

/// Sixteen weights: of the first or the second of the two inputs behind `w`.
///
/// # Safety
/// 16 weights of that input lie behind `w`, with bf16 those of both.
#[inline(always)]
unsafe fn load<const W: u8>(w: *const u8, second: bool) -> [float32x4_t; 4] {
    // SAFETY: as promised.
    unsafe {
        let at = w.add(usize::from(second) * size::<W>());
        match W {
            F32 => std::array::from_fn(|o| vld1q_f32(at.cast::<f32>().add(4 * o))),
            F16 => std::array::from_fn(|o| halves(at.add(8 * o))),
            _ => std::array::from_fn(|o| {
                let pairs = vld1q_u32(w.cast::<u32>().add(4 * o));
                vreinterpretq_f32_u32(if second == (W == BF16) {
                    vandq_u32(pairs, vdupq_n_u32(0xffff_0000))
                } else {
                    vshlq_n_u32::<16>(pairs)
                })
            }),
        }
    }
}

/// `s + w * x`, for the activation in lane `i % 4` of register `i / 4`.
#[inline(always)]
unsafe fn multiply_add(s: float32x4_t, w: float32x4_t, x: [float32x4_t; 2], i: usize) -> float32x4_t {
    // SAFETY: NEON belongs to the architecture.
    unsafe {
        match i {
            0 => vfmaq_laneq_f32::<0>(s, w, x[0]),
            1 => vfmaq_laneq_f32::<1>(s, w, x[0]),
            2 => vfmaq_laneq_f32::<2>(s, w, x[0]),
            3 => vfmaq_laneq_f32::<3>(s, w, x[0]),
            4 => vfmaq_laneq_f32::<0>(s, w, x[1]),
            _ => vfmaq_laneq_f32::<1>(s, w, x[1]),
        }
    }
}

/// M activations, 1 to 6, as lanes of two registers.
///
/// # Safety
/// M values lie behind `x`.
#[inline(always)]
unsafe fn rows<const M: usize>(x: *const f32) -> [float32x4_t; 2] {
    // SAFETY: as promised.
    unsafe {
        let two = |x| {
            let v = vld1_f32(x);
            vcombine_f32(v, v)
        };
        let first = match M {
            1 => vld1q_dup_f32(x),
            2 => two(x),
            3 => vld1q_lane_f32::<2>(x.add(2), two(x)),
            _ => vld1q_f32(x),
        };
        let second = match M {
            5 => vld1q_dup_f32(x.add(4)),
            6 => two(x.add(4)),
            _ => first,
        };
        [first, second]
    }
}

/// M interleaved rows by P panels of weights of type `W`, as [`Kernel`].
///
/// # Safety
/// See [`Tile`].
#[inline(never)]
unsafe fn tile<const M: usize, const P: usize, const W: u8>(tile: &Tile) {
    let Tile { length, mut w, w_stride, mut x, c, c_stride, first, .. } = *tile;
    // SAFETY: as promised.
    unsafe {
        let at = |i: usize, p: usize, o: usize| c.add(p * c_stride + i * PANEL + 4 * o);
        let mut s = [[[vdupq_n_f32(0.0); 4]; P]; M];
        if !first {
            for i in 0..M {
                for p in 0..P {
                    for o in 0..4 {
                        s[i][p][o] = vld1q_f32(at(i, p, o));
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
                let y = rows::<M>(x);
                for p in 0..P {
                    let v = load::<W>(w.add(p * w_stride), second);
                    for i in 0..M {
                        for o in 0..4 {
                            s[i][p][o] = multiply_add(s[i][p][o], v[o], y, i);
                        }
                    }
                }
                x = x.add(M);
            }
            w = w.wrapping_add(2 * size::<W>());
            left -= left.min(2);
        }
        for i in 0..M {
            for p in 0..P {
                for o in 0..4 {
                    vst1q_f32(at(i, p, o), s[i][p][o]);
                }
            }
        }
    }
}

/// # Safety
/// `w` holds `length` inputs of a panel, `out` room for them.
unsafe fn to_f32<const W: u8>(length: usize, w: *const u8, out: *mut f32) {
    for k in 0..length {
        // SAFETY: as promised.
        unsafe {
            for (o, v) in load::<W>(w.add(k / 2 * 2 * size::<W>()), k % 2 == 1).into_iter().enumerate() {
                vst1q_f32(out.add(PANEL * k + 4 * o), v);
            }
        }
    }
}

/// One, two or four panels side by side, by rows, limited by the number of registers.
const fn few<const W: u8>() -> [[(usize, Kernel); 3]; FEW_ROWS] {
    [
        [(1, tile::<1, 1, W>), (2, tile::<1, 2, W>), (4, tile::<1, 4, W>)],
        [(1, tile::<2, 1, W>), (2, tile::<2, 2, W>), (2, tile::<2, 2, W>)],
        [(1, tile::<3, 1, W>), (2, tile::<3, 2, W>), (2, tile::<3, 2, W>)],
        [(1, tile::<4, 1, W>), (1, tile::<4, 1, W>), (1, tile::<4, 1, W>)],
    ]
}
static FEW: [[[(usize, Kernel); 3]; FEW_ROWS]; 4] =
    [few::<F32>(), few::<BF16>(), few::<F16>(), few::<SWAPPED>()];
static MANY: [Kernel; 6] = [
    tile::<1, 1, F32>,
    tile::<2, 1, F32>,
    tile::<3, 1, F32>,
    tile::<4, 1, F32>,
    tile::<5, 1, F32>,
    tile::<6, 1, F32>,
];

/// See [`crate::matmul::driver::product`].
pub fn product(layout: Layout, part: Subproduct<'_>, unpacked: &mut Buffer<f32>, out: &mut [f32]) {
    let Subproduct { weight: w, panels, x: view, tiles, .. } = part;
    let (first_row, rows) = view.packed.rows_of(&tiles);
    let inputs = w.inputs();
    let code = match (w.weight_type(), layout) {
        (_, Layout::Bf16AsF32) => SWAPPED,
        (WeightType::F32, _) => F32,
        (WeightType::Bf16, _) => BF16,
        _ => F16,
    };
    let size = if code == F32 { size::<F32>() } else { size::<BF16>() };
    assert!(out.len() >= panels.len() * rows * PANEL, "room for the results");
    if inputs == 0 {
        out.fill(0.0);
        return;
    }
    // Activations rounded to bf16 come in whole pairs.
    let whole = if code == SWAPPED { inputs.next_multiple_of(2) } else { inputs };
    let blocks = (0..inputs.div_ceil(SUPERBLOCK)).map(|b| (b, SUPERBLOCK.min(whole - b * SUPERBLOCK)));
    if tiles.len() == 1 && rows <= FEW_ROWS {
        let mut p = 0;
        while p < panels.len() {
            let choice = match panels.len() - p {
                SIDE_BY_SIDE.. => 2,
                2..SIDE_BY_SIDE => 1,
                _ => 0,
            };
            let (width, kernel) = FEW[code as usize][rows - 1][choice];
            for (block, length) in blocks.clone() {
                let bytes = w.panel(panels.start + p);
                let ((x, _), c) = (view.float(layout, block, tiles.start), &mut out[p * rows * PANEL..]);
                let w = bytes[block * SUPERBLOCK * size..].as_ptr();
                let tile = Tile {
                    length,
                    w,
                    w_stride: bytes.len(),
                    x: x.as_ptr(),
                    x_stride: 1,
                    c: c.as_mut_ptr(),
                    c_stride: rows * PANEL,
                    first: block == 0,
                    ahead: w,
                    packed_bytes: size,
                };
                // SAFETY: the panels follow each other in memory and the last lies inside the matrix;
                // activations and results have room (checked above).
                unsafe { kernel(&tile) };
            }
            p += width;
        }
        return;
    }
    let unpacked = sized(unpacked, SUPERBLOCK * PANEL);
    for (block, length) in blocks {
        for (p, panel) in panels.clone().enumerate() {
            let mut weights = w.panel(panel)[block * SUPERBLOCK * size..].as_ptr();
            // SAFETY: `length` inputs of the panel lie behind `weights`, `unpacked` has room for a block.
            unsafe {
                match code {
                    BF16 => to_f32::<BF16>(length, weights, unpacked.as_mut_ptr()),
                    F16 => to_f32::<F16>(length, weights, unpacked.as_mut_ptr()),
                    SWAPPED => to_f32::<SWAPPED>(length, weights, unpacked.as_mut_ptr()),
                    _ => {}
                }
            }
            if code != F32 {
                weights = unpacked.as_ptr().cast();
            }
            for tile in tiles.clone() {
                let (start, m) = view.packed.tiles[tile];
                let c = &mut out[(p * rows + start - first_row) * PANEL..][..m * PANEL];
                let (x, _) = view.float(layout, block, tile);
                let tile = Tile {
                    length,
                    w: weights,
                    w_stride: 0,
                    x: x.as_ptr(),
                    x_stride: 1,
                    c: c.as_mut_ptr(),
                    c_stride: 0,
                    first: block == 0,
                    ahead: weights,
                    packed_bytes: size,
                };
                // SAFETY: weights, activations and results have as many values as the tile reads.
                unsafe { MANY[m - 1](&tile) };
            }
        }
    }
}
