//! 8-bit weights with NEON: dot products of groups by the best instructions of the CPU.

use super::{CODES, GROUP, QUADS, SCALES, block_bytes};
use crate::matmul::layout::Layout;
use crate::matmul::neon::extensions::{Dotprod, I8mm};
use crate::matmul::neon::{Biased, Dots, Plain, entry, scales};
use crate::matmul::panel::PANEL;
use crate::matmul::quantized::{Kernel, Kernels, Tile};
use std::arch::aarch64::*;

/// See [`super::scalar`].
///
/// # Safety
/// See [`Kernel`]; the CPU has the instructions of `D`.
#[inline(always)]
unsafe fn tile<D: Dots, const M: usize, const I8: bool>(tile: &Tile) {
    let Tile { blocks, groups, mut w, mut x, x_stride, c, first, .. } = *tile;
    let words = if I8 { QUADS + 2 } else { GROUP / 2 + 1 };
    // SAFETY: as promised by the caller.
    unsafe {
        for block in 0..blocks {
            let mut t = [[vdupq_n_f32(0.0); 4]; M];
            let mut xg = x;
            for g in 0..groups {
                let wg = w.add(g * CODES);
                let s = if I8 { D::dot_i8::<Biased, M>(wg, xg) } else { D::dot_i16::<M>(wg, xg) };
                let d = scales(w.add(groups * CODES + g * SCALES));
                for i in 0..M {
                    for o in 0..4 {
                        let sum = vcvtq_f32_s32(s[i][o]);
                        t[i][o] = if I8 {
                            let dx = vld1q_dup_f32(xg.add((QUADS + 1) * M + i).cast());
                            vfmaq_f32(t[i][o], vmulq_f32(sum, d[o]), dx)
                        } else {
                            vfmaq_f32(t[i][o], sum, d[o])
                        };
                    }
                }
                xg = xg.add(words * M);
            }
            for i in 0..M {
                for o in 0..4 {
                    let at = c.add(i * PANEL + 4 * o);
                    let old = if first && block == 0 { vdupq_n_f32(0.0) } else { vld1q_f32(at) };
                    let new = if I8 {
                        vaddq_f32(old, t[i][o])
                    } else {
                        let dx = vld1q_dup_f32(x.add((Layout::I16Pairs.words() - 1) * M + i).cast());
                        vfmaq_f32(old, t[i][o], dx)
                    };
                    vst1q_f32(at, new);
                }
            }
            w = w.add(block_bytes(groups));
            x = x.wrapping_add(x_stride);
        }
    }
}

entry!(
    /// Plain NEON.
    plain<M, I8>, "neon", tile<Plain>
);
entry!(
    /// With `FEAT_DotProd`.
    dotprod<M, I8>, "neon,dotprod", tile<Dotprod>
);
entry!(
    /// With `FEAT_I8MM`.
    i8mm<M, I8>, "neon,dotprod,i8mm", tile<I8mm>
);

const fn plains<const I8: bool>() -> [Kernel; 4] {
    [plain::<1, I8>, plain::<2, I8>, plain::<3, I8>, plain::<4, I8>]
}
const fn dotprods<const I8: bool>() -> [Kernel; 4] {
    [dotprod::<1, I8>, dotprod::<2, I8>, dotprod::<3, I8>, dotprod::<4, I8>]
}
const fn i8mms<const I8: bool>() -> [Kernel; 8] {
    [
        i8mm::<1, I8>,
        i8mm::<2, I8>,
        i8mm::<3, I8>,
        i8mm::<4, I8>,
        i8mm::<5, I8>,
        i8mm::<6, I8>,
        i8mm::<7, I8>,
        i8mm::<8, I8>,
    ]
}

const fn of(layout: Layout, kernels: &'static [Kernel]) -> Kernels {
    Kernels { layout, few: kernels, many: kernels, pairs: &[], by_rows: None }
}
pub static I16_ACTIVATIONS: Kernels = of(Plain::I16_LAYOUT, &const { plains::<false>() });
pub static I8_ACTIVATIONS: Kernels = of(Layout::I8GroupQuads, &const { plains::<true>() });
pub static DOTPROD_I16: Kernels = of(Dotprod::I16_LAYOUT, &const { dotprods::<false>() });
pub static DOTPROD_I8: Kernels = of(Layout::I8GroupQuads, &const { dotprods::<true>() });
pub static I8MM_I16: Kernels = of(I8mm::I16_LAYOUT, &const { i8mms::<false>() });
pub static I8MM_I8: Kernels = of(Layout::I8GroupQuads, &const { i8mms::<true>() });
