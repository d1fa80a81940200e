//! 4-bit weights with NEON: nibbles unpacked in registers, dot products of groups by the best instructions of
//! the CPU.

use super::{CODES, HALF, offsets};
use crate::matmul::layout::Layout;
use crate::matmul::neon::extensions::{Dotprod, I8mm};
use crate::matmul::neon::{Codes, Dots, Plain, entry, scales};
use crate::matmul::panel::{GROUP, PANEL, SUPERBLOCK};
use crate::matmul::quantized::{Kernel, Kernels, Tile};
use std::arch::aarch64::*;

/// Nibbles as `super` defines them.
struct Nibbles;

impl Codes for Nibbles {
    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(group: *const u8) -> [int8x16_t; 4] {
        // SAFETY: as promised.
        unsafe {
            let v = vld1q_u8_x4(group.add(QUAD % 4 * 64));
            let v = [v.0, v.1, v.2, v.3];
            [nibble::<QUAD>(v[0]), nibble::<QUAD>(v[1]), nibble::<QUAD>(v[2]), nibble::<QUAD>(v[3])]
        }
    }
}

/// The low half of each byte for the first four quads of a group, the high half for the others.
#[inline(always)]
fn nibble<const QUAD: usize>(v: uint8x16_t) -> int8x16_t {
    // SAFETY: NEON belongs to the architecture.
    unsafe { vreinterpretq_s8_u8(if QUAD < 4 { vandq_u8(v, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(v) }) }
}

/// Scales of a group as 32-bit words.
///
/// # Safety
/// The scales of a block lie behind `at`.
#[inline(always)]
unsafe fn group_scales(at: *const u8, group: usize) -> [int32x4_t; 4] {
    // SAFETY: as promised.
    unsafe {
        let both = vld1q_u8(at.add(group % HALF * PANEL));
        let v = if group < HALF { vandq_u8(both, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(both) };
        let (low, high) = (vmovl_u8(vget_low_u8(v)), vmovl_high_u8(v));
        [
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
            vreinterpretq_s32_u32(vmovl_high_u16(low)),
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
            vreinterpretq_s32_u32(vmovl_high_u16(high)),
        ]
    }
}

/// See [`super::scalar`].
///
/// # Safety
/// See [`Kernel`]; the CPU has the instructions of `D`.
#[inline(always)]
unsafe fn tile<D: Dots, const M: usize>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, first, .. } = *tile;
    let [scales_at, lows_at, d_at, size] = offsets(groups);
    // SAFETY: as promised by the caller.
    unsafe {
        for block in 0..blocks {
            let mut sums = [[vdupq_n_s32(0); 4]; M];
            for g in 0..groups {
                let s = D::dot_i8::<Nibbles, M>(w.add(g * CODES), x.add(g * GROUP / 4 * M));
                let scale = group_scales(w.add(scales_at), g);
                for i in 0..M {
                    for o in 0..4 {
                        sums[i][o] = vmlaq_s32(sums[i][o], s[i][o], scale[o]);
                    }
                }
            }
            let d = scales(w.add(d_at));
            for i in 0..M {
                let all = &mut sums[i];
                for p in 0..groups.div_ceil(2) {
                    // Lows of two groups, interleaved.
                    let both = vld2q_s8(w.add(lows_at + 2 * PANEL * p).cast());
                    let y: *const i16 = x.add((SUPERBLOCK / 4 + p) * M + i).cast();
                    for (v, y) in [(both.0, *y), (both.1, *y.add(1))] {
                        let (low, high) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
                        all[0] = vmlal_n_s16(all[0], vget_low_s16(low), y);
                        all[1] = vmlal_high_n_s16(all[1], low, y);
                        all[2] = vmlal_n_s16(all[2], vget_low_s16(high), y);
                        all[3] = vmlal_high_n_s16(all[3], high, y);
                    }
                }
                let scale = vld1q_dup_f32(x.add((Layout::I8Quads.words() - 1) * M + i).cast());
                for o in 0..4 {
                    let at = c.add(i * PANEL + 4 * o);
                    let old = if first && block == 0 { vdupq_n_f32(0.0) } else { vld1q_f32(at) };
                    let t = vmulq_f32(vcvtq_f32_s32(all[o]), d[o]);
                    vst1q_f32(at, vfmaq_f32(old, t, scale));
                }
            }
            w = w.add(size);
            x = x.wrapping_add(x_stride);
        }
    }
}

entry!(
    /// Plain NEON.
    plain<M>, "neon", tile<Plain>
);
entry!(
    /// With `FEAT_DotProd`.
    dotprod<M>, "neon,dotprod", tile<Dotprod>
);
entry!(
    /// With `FEAT_I8MM`.
    i8mm<M>, "neon,dotprod,i8mm", tile<I8mm>
);

static PLAINS: [Kernel; 4] = [plain::<1>, plain::<2>, plain::<3>, plain::<4>];
static DOTPRODS: [Kernel; 4] = [dotprod::<1>, dotprod::<2>, dotprod::<3>, dotprod::<4>];
static I8MMS: [Kernel; 8] =
    [i8mm::<1>, i8mm::<2>, i8mm::<3>, i8mm::<4>, i8mm::<5>, i8mm::<6>, i8mm::<7>, i8mm::<8>];
pub static KERNELS: Kernels =
    Kernels { layout: Layout::I8Quads, few: &PLAINS, many: &PLAINS, pairs: &[], by_rows: None };
pub static DOTPROD: Kernels =
    Kernels { layout: Layout::I8Quads, few: &DOTPRODS, many: &DOTPRODS, pairs: &[], by_rows: None };
pub static I8MM: Kernels =
    Kernels { layout: Layout::I8Quads, few: &I8MMS, many: &I8MMS, pairs: &[], by_rows: None };
