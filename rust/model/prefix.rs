//! Keys and values of past sequences: a prompt that begins as one of them did is read from there on.
//!
//! A token's keys and values depend on the tokens before it alone, and to the bit, so what is reused is what
//! would be computed. The sequences share the blocks of a common beginning; those that were not used for
//! the longest time go first when there is no room.

use super::{Cache, SequenceId, spec};
use crate::ops::kv::BLOCK;

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
        && model.decoder.as_ref().is_some_and(|stack| {
            let fixed = |r: &spec::Rotary| r.long.is_none() && r.dynamic.is_none();
            stack.layers.iter().all(|l| l.attention.rotary.as_ref().is_none_or(fixed))
        })
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
        let Some((index, length)) = self.nearest(&prompt[..prompt.len().saturating_sub(1)]) else { return 0 };
        let Some(cache) = &self.cache else { return 0 };
        if into.extend(sequence, length).is_err() {
            return 0;
        }
        self.clock += 1;
        let entry = &mut self.entries[index];
        entry.used = self.clock;
        into.copy_blocks(sequence, cache, entry.sequence, 0..length.div_ceil(BLOCK));
        self.reused += length as u64;
        length
    }

    /// Keeps a sequence whose first `ids.len()` tokens are in `from`, as far as there is room. `empty` makes a cache.
    pub fn keep(
        &mut self,
        ids: &[u32],
        from: &Cache,
        sequence: SequenceId,
        empty: impl FnOnce() -> Option<Cache>,
    ) {
        if ids.is_empty() || self.most_bytes == 0 {
            return;
        }
        self.clock += 1;
        let near = self.nearest(ids);
        if let Some((index, length)) = near
            && length == ids.len()
        {
            self.entries[index].used = self.clock;
            return;
        }
        if self.cache.is_none() {
            self.cache = empty();
        }
        let Some(cache) = &mut self.cache else { return };
        let most_blocks = self.most_bytes / cache.block_bytes().max(1) / cache.grain() * cache.grain();
        // Whole blocks of the nearest sequence are shared; the rest is copied.
        let shared = near.map_or(0, |(_, length)| length / BLOCK);
        let own = match near {
            Some((index, _)) => {
                let own = cache.fork(self.entries[index].sequence);
                cache.truncate(own, shared * BLOCK);
                own
            }
            None => cache.start(),
        };
        // A sequence that this one goes on from is no longer needed.
        if let Some((index, length)) = near
            && length == self.entries[index].ids.len()
        {
            cache.release(self.entries.swap_remove(index).sequence);
        }
        let blocks = ids.len().div_ceil(BLOCK);
        while cache.blocks_in_use() + blocks - shared > most_blocks || self.entries.len() >= MOST_SEQUENCES {
            let oldest = (0..self.entries.len()).min_by_key(|&i| self.entries[i].used);
            let Some(oldest) = oldest else { break };
            cache.release(self.entries.swap_remove(oldest).sequence);
        }
        let fits = cache.blocks_in_use() + blocks - shared <= most_blocks;
        if !fits || cache.extend(own, ids.len() - shared * BLOCK).is_err() {
            cache.release(own);
            return;
        }
        cache.copy_blocks(own, from, sequence, shared..blocks);
        self.entries.push(Entry { ids: ids.to_vec(), sequence: own, used: self.clock });
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
