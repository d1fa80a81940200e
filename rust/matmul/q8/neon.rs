//! 8-bit weights with NEON: sums of groups by the best multiplications that the CPU has.

use super::{CODES, GROUP, QUADS, SCALES, block_bytes};
use crate::matmul::PANEL;
use crate::matmul::neon::{Biased, Dotprod, Dots, I8mm, Plain, entry, scales};
use crate::matmul::quantized::{Kernel, Kernels};
use crate::matmul::strips::Kind;
use std::arch::aarch64::*;

/// See [`super::scalar`].
///
/// # Safety
/// See [`Kernel`]; the CPU has the instructions of `D`.
#[inline(always)]
unsafe fn tile<D: Dots, const M: usize, const NARROW: bool>(
    blocks: usize,
    groups: usize,
    mut w: *const u8,
    mut x: *const i32,
    x_stride: usize,
    c: *mut f32,
    first: bool,
) {
    let words = if NARROW { QUADS + 2 } else { GROUP / 2 + 1 };
    // SAFETY: as promised by the caller.
    unsafe {
        for block in 0..blocks {
            let mut t = [[vdupq_n_f32(0.0); 4]; M];
            let mut xg = x;
            for g in 0..groups {
                let wg = w.add(g * CODES);
                let s = if NARROW { D::narrow::<Biased, M>(wg, xg) } else { D::wide::<M>(wg, xg) };
                let d = scales(w.add(groups * CODES + g * SCALES));
                for i in 0..M {
                    for o in 0..4 {
                        let sum = vcvtq_f32_s32(s[i][o]);
                        t[i][o] = if NARROW {
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
                    let new = if NARROW {
                        vaddq_f32(old, t[i][o])
                    } else {
                        let dx = vld1q_dup_f32(x.add((Kind::Pairs.words() - 1) * M + i).cast());
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
    /// With NEON alone.
    plain<M, NARROW>, "neon", tile<Plain>
);
entry!(
    /// With dot products.
    dotprod<M, NARROW>, "neon,dotprod", tile<Dotprod>
);
entry!(
    /// With products of small matrices.
    i8mm<M, NARROW>, "neon,dotprod,i8mm", tile<I8mm>
);

const fn plains<const NARROW: bool>() -> [Kernel; 4] {
    [plain::<1, NARROW>, plain::<2, NARROW>, plain::<3, NARROW>, plain::<4, NARROW>]
}
const fn dotprods<const NARROW: bool>() -> [Kernel; 4] {
    [dotprod::<1, NARROW>, dotprod::<2, NARROW>, dotprod::<3, NARROW>, dotprod::<4, NARROW>]
}
const fn i8mms<const NARROW: bool>() -> [Kernel; 8] {
    [
        i8mm::<1, NARROW>,
        i8mm::<2, NARROW>,
        i8mm::<3, NARROW>,
        i8mm::<4, NARROW>,
        i8mm::<5, NARROW>,
        i8mm::<6, NARROW>,
        i8mm::<7, NARROW>,
        i8mm::<8, NARROW>,
    ]
}

const fn of(kind: Kind, kernels: &'static [Kernel]) -> Kernels {
    Kernels { kind, few: kernels, many: kernels, pairs: &[], by_rows: None }
}
pub static WIDE: Kernels = of(Plain::WIDE, &const { plains::<false>() });
pub static NARROW: Kernels = of(Kind::GroupQuads, &const { plains::<true>() });
pub static DOTPROD_WIDE: Kernels = of(Dotprod::WIDE, &const { dotprods::<false>() });
pub static DOTPROD_NARROW: Kernels = of(Kind::GroupQuads, &const { dotprods::<true>() });
pub static I8MM_WIDE: Kernels = of(I8mm::WIDE, &const { i8mms::<false>() });
pub static I8MM_NARROW: Kernels = of(Kind::GroupQuads, &const { i8mms::<true>() });
