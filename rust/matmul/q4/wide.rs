//! Products of many rows with 4-bit weights: a block's codes are turned into the bytes that they stand for once, and all rows go
//! through those, as through weights of 8 bits with one step for 256 inputs.
//!
//! A block of 8 groups takes 4,160 bytes: `[input quad 64][output 16][4]` u8 of `scale * code + low` plus 128, then the steps
//! `[output 16]` f16 times 4096, up to the next cache line.

use super::{CODES, HALF, offsets};
use crate::matmul::PANEL;
use crate::matmul::quantized::Kernels;
use crate::matmul::strips::GROUP;
use crate::matmul::widened::Widening;
use crate::simd::{Level, multiversion};

/// Rows from which on it is worth while.
const ROWS: usize = 24;

/// Bytes of the weights of a group.
const WIDE: usize = GROUP * PANEL;
/// Words of 16 bits in the codes of a group, and of a vector of them.
const WORDS: usize = CODES / 2;
const VECTOR: usize = WORDS / 4;

static WIDENING: Widening = Widening { packed: super::block_bytes, wide: block_bytes, widen: widen_at };

/// Bytes of a block of `groups` groups.
fn block_bytes(groups: usize) -> usize {
    groups * WIDE + 64
}

/// Kernels for so many rows, of levels that multiply bytes with signs by bytes without and sum them up in 32 bits.
pub fn kernels(level: Level, rows: usize) -> Option<(&'static Kernels, &'static Widening)> {
    match level {
        _ if rows < ROWS => None,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => Some((&super::avx512::WIDE, &WIDENING)),
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => Some((&super::avxvnni::WIDE, &WIDENING)),
        _ => None,
    }
}

multiversion! {
    /// A block of `groups` groups as `wide` bytes.
    fn widen / widen_at (groups: usize, block: &[u8], wide: &mut [u8]) {
        let [scales_at, lows_at, d_at, _] = offsets(groups);
        let (codes, _) = block[..scales_at].as_chunks::<2>();
        let (out, rest) = wide.split_at_mut(groups * WIDE);
        rest[..2 * PANEL].copy_from_slice(&block[d_at..][..2 * PANEL]);
        for (g, (codes, out)) in codes.chunks_exact(WORDS).zip(out.chunks_exact_mut(WIDE)).enumerate() {
            // Two bytes of a word at once: no product of a code and a scale, and no sum with a low, exceeds its byte.
            let (mut scales, mut lows) = ([0u16; VECTOR], [0u16; VECTOR]);
            let both = block[scales_at + g % HALF * PANEL..].first_chunk::<PANEL>().expect("scales");
            let (pairs, _) = block[lows_at + g / 2 * 2 * PANEL..].as_chunks::<2>();
            let pairs = pairs.first_chunk::<PANEL>().expect("lows");
            for i in 0..PANEL {
                let scale = u16::from(both[i]) >> (g / HALF * 4) & 15;
                let low = u16::from_le_bytes(pairs[i]) >> (g % 2 * 8) & 255 ^ 128;
                (scales[2 * i], scales[2 * i + 1]) = (scale, scale);
                (lows[2 * i], lows[2 * i + 1]) = (low * 0x101, low * 0x101);
            }
            let (out, _) = out.as_chunks_mut::<2>();
            let (first, second) = out.split_at_mut(WORDS);
            for ((codes, first), second) in codes
                .chunks_exact(VECTOR)
                .zip(first.chunks_exact_mut(VECTOR))
                .zip(second.chunks_exact_mut(VECTOR))
            {
                for i in 0..VECTOR {
                    let code = u16::from_le_bytes(codes[i]);
                    let (low, high) = (code & 0x0f0f, code >> 4 & 0x0f0f);
                    first[i] = low.wrapping_mul(scales[i]).wrapping_add(lows[i]).to_le_bytes();
                    second[i] = high.wrapping_mul(scales[i]).wrapping_add(lows[i]).to_le_bytes();
                }
            }
        }
    }
}
