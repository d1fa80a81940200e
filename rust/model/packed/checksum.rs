//! Checksums that detect damaged bytes.

use crate::error::Result;
use crate::threads::Team;

/// Bytes per chunk of work.
const PIECE: usize = 1 << 20;

/// Adds a word to a checksum. This is a bijection of checksums for a given word, and of words for a given
/// checksum: one changed word is always detected, several with probability 1 - 2^-64.
fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}

/// The checksum of some bytes, in eight independent lanes, so that a core is bound by memory.
pub fn checksum(bytes: &[u8]) -> u64 {
    let mut lanes = [1, 2, 3, 4, 5, 6, 7, 8];
    let (blocks, rest) = bytes.as_chunks::<64>();
    for block in blocks {
        for (lane, &word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = mix(*lane, u64::from_le_bytes(word));
        }
    }
    let sum = lanes.into_iter().fold(bytes.len() as u64, mix);
    rest.iter().fold(sum, |sum, &byte| mix(sum, byte.into()))
}

/// The checksums of several parts, computed in pieces on all threads.
///
/// # Errors
/// At an interrupt.
pub fn checksums(team: &Team<'_>, parts: &[&[u8]]) -> Result<Vec<u64>> {
    let pieces: Vec<(usize, &[u8])> = parts
        .iter()
        .enumerate()
        .flat_map(|(i, part)| part.chunks(PIECE).map(move |piece| (i, piece)))
        .collect();
    let mut found = vec![0; pieces.len()];
    team.run_mut(&mut found, 1, &|i, out, _| out[0] = checksum(pieces[i].1));
    team.check()?;
    let mut sums = vec![0; parts.len()];
    for ((part, _), sum) in pieces.into_iter().zip(found) {
        sums[part] = mix(sums[part], sum);
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Pool;

    /// Bytes without a period: high bits of products.
    fn noise(n: usize) -> Vec<u8> {
        (0..n as u64).map(|i| (mix(i, 3) >> 23) as u8).collect()
    }

    #[test]
    fn any_changed_bit_changes_the_checksum() {
        for n in [1, 7, 8, 63, 64, 65, 200] {
            let mut bytes = noise(n);
            let whole = checksum(&bytes);
            for i in 0..n {
                for bit in 0..8 {
                    bytes[i] ^= 1 << bit;
                    assert_ne!(checksum(&bytes), whole, "bit {bit} of byte {i} of {n}");
                    bytes[i] ^= 1 << bit;
                }
            }
        }
    }

    #[test]
    fn zeroed_and_moved_bytes_change_the_checksum() {
        let bytes = noise(4096);
        let whole = checksum(&bytes);
        for (from, to) in [(0, 64), (64, 128), (8, 16), (100, 4000), (4090, 4096)] {
            let mut holed = bytes.clone();
            holed[from..to].fill(0);
            assert_ne!(checksum(&holed), whole, "zeros in {from}..{to}");
        }
        for by in [1, 8, 64, 1024] {
            let mut moved = bytes.clone();
            moved.rotate_left(by);
            assert_ne!(checksum(&moved), whole, "moved by {by}");
        }
        assert_ne!(checksum(&[0; 64]), checksum(&[0; 128]));
        assert_ne!(checksum(&[]), checksum(&[0]));
    }

    #[test]
    fn checksums_depend_on_the_order_of_pieces_and_not_on_the_threads() {
        let bytes = noise(3 * PIECE + 5);
        let parts = [&bytes[..], &bytes[..0], &bytes[..PIECE], &bytes[1..PIECE + 1]];
        let of = |parts: &[&[u8]], threads| {
            Pool::new(threads).run_alone(|team| checksums(team, parts)).expect("no interrupt")
        };
        let want = of(&parts, 1);
        assert_eq!(of(&parts, 3), want);
        let mut swapped = bytes.clone();
        swapped[..2 * PIECE].rotate_left(PIECE);
        let got = of(&[&swapped, &swapped[..0], &swapped[PIECE..2 * PIECE]], 2);
        assert_ne!(got[0], want[0]);
        assert_eq!(got[1..], want[1..3]);
        assert_ne!(want[2], want[3]);
    }
}
