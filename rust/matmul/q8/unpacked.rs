//! Unpacked blocks of 8-bit weights, for products of many rows with AVX2: bytes become the words that
//! vpmaddwd multiplies, once for all rows.
//!
//! A block of 8 groups takes 8,704 bytes: `[group 8][input quad 8][pair 2][output 16][2]` i16 of biased
//! bytes, pairs of the first and third input of a quad and of the second and fourth, then scales `[group
//! 8][output 16]` f32.

use super::{CODES, GROUP, SCALES, block_bytes};
use crate::matmul::panel::PANEL;
use crate::matmul::quantized::{Blocks, SCALE_BIAS, Unpacking};
use crate::simd::multiversion;

/// Bytes of the words and of the scales of a group.
pub const WORDS: usize = 2 * GROUP * PANEL;
pub const UNPACKED_SCALES: usize = 4 * PANEL;
/// 16-bit words in a quad of inputs.
const QUAD: usize = 2 * PANEL;

pub static BLOCKS: Blocks = Blocks {
    bytes: block_bytes,
    unpacking: Some(Unpacking {
        bytes: |groups| groups * (WORDS + UNPACKED_SCALES),
        unpack: unpack_words_at,
    }),
};

multiversion! {
    /// Unpacks a block of `groups` groups to words.
    fn unpack_words / unpack_words_at (groups: usize, block: &[u8], unpacked: &mut [u8]) {
        let (bytes, scales) = block.split_at(groups * CODES);
        let (words, unpacked_scales) = unpacked.split_at_mut(groups * WORDS);
        let (bytes, _) = bytes.as_chunks::<2>();
        let (words, _) = words.as_chunks_mut::<2>();
        for (bytes, words) in bytes.chunks_exact(QUAD).zip(words.chunks_exact_mut(2 * QUAD)) {
            let (first, second) = words.split_at_mut(QUAD);
            for i in 0..QUAD {
                let both = u16::from_le_bytes(bytes[i]);
                first[i] = (both & 255).to_le_bytes();
                second[i] = (both >> 8).to_le_bytes();
            }
        }
        let (scales, _) = scales[..groups * SCALES].as_chunks::<2>();
        for (scales, out) in scales.chunks_exact(PANEL).zip(unpacked_scales.chunks_exact_mut(UNPACKED_SCALES)) {
            let mut bits = [0; PANEL];
            for (bits, scale) in bits.iter_mut().zip(scales) {
                *bits = u16::from_le_bytes(*scale);
            }
            let scales = (Lanes::from_half(bits) * Lanes::splat(1.0 / SCALE_BIAS)).to_array();
            let (out, _) = out.as_chunks_mut::<4>();
            for (out, scale) in out.iter_mut().zip(scales) {
                *out = scale.to_le_bytes();
            }
        }
    }
}
