//! Layouts of packed activations.

use super::panel::{GROUP, GROUPS, SUPERBLOCK};

/// Contents of a block of a tile, `M` rows side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// f32 `[input][M]`.
    F32,
    /// f32 row after row: in place, or copied block by block, `[M][256]`, see
    /// `COLLIDING` in `activations`.
    F32Rows,
    /// Two bf16 in a word `[input pair 128][M]`, the first input in the low half.
    Bf16Pairs,
    /// The values of `Bf16Pairs` as f32, for f32 kernels: `[input pair 128][second, first][M]`.
    Bf16AsF32,
    /// By group of 32: two i16 in a word `[input pair 16][M]`
    /// ([`Vector::to_pairs`](crate::simd::Vector::to_pairs) gives the pairs), -128 times their sum `[M]`;
    /// after the groups one scale `[M]` f32.
    I16Pairs,
    /// By group of 32: high bytes of four i16 in a word `[input quad 8][M]`, then their low bytes `[input
    /// quad 8][M]`, both signed: `256 high + low`; -128 times the sum `[M]`; after the groups one scale `[M]`
    /// f32.
    I16Planes,
    /// By group of 32: two i8 as i16 in a word `[input pair 16][M]`, -128 times their sum `[M]`, a scale
    /// `[M]` f32.
    I8GroupPairs,
    /// By group of 32: four i8 in a word `[input quad 8][M]`, -128 times their sum `[M]`, a scale `[M]` f32.
    I8GroupQuads,
    /// Four i8 in a word `[input quad 64][M]`, the sums of two groups of 32 as two i16 `[pair of groups
    /// 4][M]`, -128 times the sum over the block `[M]`, one scale `[M]` f32.
    I8Quads,
}

impl Layout {
    /// Words of 32 bits that one row takes in a whole block.
    pub const fn words(self) -> usize {
        match self {
            Layout::F32 | Layout::F32Rows | Layout::Bf16AsF32 => SUPERBLOCK,
            Layout::Bf16Pairs => SUPERBLOCK / 2,
            Layout::I16Pairs | Layout::I16Planes => GROUPS * (GROUP / 2 + 1) + 1,
            Layout::I8GroupPairs => GROUPS * (GROUP / 2 + 2),
            Layout::I8GroupQuads => GROUPS * (GROUP / 4 + 2),
            Layout::I8Quads => SUPERBLOCK / 4 + GROUPS / 2 + 2,
        }
    }
}
