//! Unpacked blocks of 4-bit weights, for products of many rows: a block is unpacked once for all rows.
//!
//! If the CPU accumulates products of bytes in 32 bits, codes are unpacked to their values in bytes, which
//! need no scales. A block of 8 groups takes 4,160 bytes: u8 `[input quad 64][output 16][4]`, each `scale *
//! code + low` plus 128, then the steps `[output 16]` f16 times 4096, up to the next cache line. With AVX2,
//! which accumulates in 16 bits, to codes of one byte each ([`unpacked_offsets`]).

use super::{CODES, HALF, offsets};
use crate::matmul::panel::{GROUP, PANEL};
use crate::matmul::quantized::{Blocks, Unpacking};
use crate::simd::multiversion;

/// Bytes of the weights of a group.
const UNPACKED_GROUP: usize = GROUP * PANEL;
/// 16-bit words in the codes of a group, and in a vector of them.
const WORDS: usize = CODES / 2;
const VECTOR: usize = WORDS / 4;

pub static UNPACKED_BYTES: Blocks = Blocks {
    bytes: super::block_bytes,
    unpacking: Some(Unpacking { bytes: block_bytes, unpack: unpack_bytes_at }),
};

/// Bytes of a block of `groups` groups.
fn block_bytes(groups: usize) -> usize {
    groups * UNPACKED_GROUP + 64
}

multiversion! {
    /// Unpacks a block of `groups` groups to bytes.
    fn unpack_bytes / unpack_bytes_at (groups: usize, block: &[u8], unpacked: &mut [u8]) {
        let [scales_at, lows_at, d_at, _] = offsets(groups);
        let (codes, _) = block[..scales_at].as_chunks::<2>();
        let (out, rest) = unpacked.split_at_mut(groups * UNPACKED_GROUP);
        rest[..2 * PANEL].copy_from_slice(&block[d_at..][..2 * PANEL]);
        for (g, (codes, out)) in codes.chunks_exact(WORDS).zip(out.chunks_exact_mut(UNPACKED_GROUP)).enumerate() {
            // Two bytes of a word at once: no product of a code and a scale, and no sum with a low, overflows
            // its byte.
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

/// Bytes of the scales of an unpacked group.
const SCALES: usize = 4 * PANEL;

/// Offsets of the parts of a block of unpacked codes: `[input quad 64][output 16][4]` u8 of codes, scales
/// `[group 8][output 16][2]` i16, each twice, then lows and steps as packed, and the end, a multiple of 64.
pub const fn unpacked_offsets(groups: usize) -> [usize; 4] {
    let scales = groups * UNPACKED_GROUP;
    let lows = scales + groups * SCALES;
    let d = lows + groups.div_ceil(2) * 2 * PANEL;
    [scales, lows, d, (d + 2 * PANEL).next_multiple_of(64)]
}

pub static UNPACKED_CODES: Blocks = Blocks {
    bytes: super::block_bytes,
    unpacking: Some(Unpacking { bytes: |groups| unpacked_offsets(groups)[3], unpack: unpack_codes_at }),
};

multiversion! {
    /// Unpacks the codes of a block of `groups` groups, one to a byte.
    fn unpack_codes / unpack_codes_at (groups: usize, block: &[u8], to: &mut [u8]) {
        let [scales_at, lows_at, _, end] = offsets(groups);
        let [to_scales_at, to_lows_at, _, _] = unpacked_offsets(groups);
        for (codes, out) in block[..scales_at].chunks_exact(CODES).zip(to.chunks_exact_mut(UNPACKED_GROUP)) {
            let (first, second) = out.split_at_mut(CODES);
            for i in 0..CODES {
                first[i] = codes[i] & 15;
                second[i] = codes[i] >> 4;
            }
        }
        for g in 0..groups {
            let both = block[scales_at + g % HALF * PANEL..].first_chunk::<PANEL>().expect("scales");
            let out = to[to_scales_at + g * SCALES..].first_chunk_mut::<SCALES>().expect("scales");
            for i in 0..PANEL {
                let scale = both[i] >> (g / HALF * 4) & 15;
                out[4 * i..4 * i + 4].copy_from_slice(&[scale, 0, scale, 0]);
            }
        }
        to[to_lows_at..][..end - lows_at].copy_from_slice(&block[lows_at..end]);
    }
}
