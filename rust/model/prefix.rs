//! Prefix cache: past sequences stay in the cache, and a prompt with a common prefix is read from its end on.
//!
//! The state at a token depends only on the tokens up to it, to the bit, so reused states equal computed
//! ones. A kept sequence is moved, a hit forks it: blocks are shared by reference counts, never copied. The
//! least recently used sequences are evicted first.

use super::cache::{Cache, SequenceId};
use super::spec;

/// Default bound in bytes.
pub const DEFAULT_BYTES: usize = 512 << 20;
/// Maximum number of kept sequences, so that searching them stays cheap.
const MAX_SEQUENCES: usize = 256;

struct Entry {
    ids: Vec<u32>,
    sequence: SequenceId,
    used: u64,
}

/// Contents and hits of the prefix cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub sequences: usize,
    pub bytes: usize,
    /// Number of tokens reused so far.
    pub reused: u64,
}

/// The kept sequences of a cache, within a bound of bytes. The cache is an argument of each method.
pub struct Prefixes {
    entries: Vec<Entry>,
    max_bytes: usize,
    clock: u64,
    summary: Summary,
}

/// Length of the common prefix.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// Whether the state at a token depends only on the tokens up to it: not on a source, nor on the final length
/// of the sequence.
pub fn reusable(model: &spec::Model) -> bool {
    model.encoder.is_none()
        && model
            .decoder
            .as_ref()
            .is_some_and(|stack| stack.bodies().filter_map(spec::Body::rotary).all(spec::Rotary::is_fixed))
}

impl Prefixes {
    /// A prefix cache of at most `max_bytes` bytes of sequences of `cache`; 0 turns it off.
    pub fn new(max_bytes: usize, cache: &mut Cache) -> Prefixes {
        cache.keep_history(max_bytes);
        Prefixes { entries: Vec::new(), max_bytes, clock: 0, summary: Summary::default() }
    }

    /// Sets the bound and removes all sequences.
    pub fn limit(&mut self, max_bytes: usize, cache: &mut Cache) {
        self.entries.drain(..).for_each(|entry| cache.release(entry.sequence));
        *self = Prefixes::new(max_bytes, cache);
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn nearest(&self, ids: &[u32]) -> Option<(usize, usize)> {
        let lengths = self.entries.iter().enumerate().map(|(i, e)| (common(&e.ids, ids), i));
        lengths.max().filter(|&(length, _)| length > 0).map(|(length, i)| (i, length))
    }

    /// A new sequence with the longest kept prefix of `prompt`, which may be empty. It never includes the
    /// prompt's last token, whose logits are needed.
    pub fn start(&mut self, prompt: &[u32], cache: &mut Cache) -> SequenceId {
        let Some((index, length)) = self.nearest(&prompt[..prompt.len().saturating_sub(1)]) else {
            return cache.start();
        };
        self.clock += 1;
        let entry = &mut self.entries[index];
        entry.used = self.clock;
        let sequence = cache.fork(entry.sequence);
        cache.truncate(sequence, length);
        self.summary.reused += cache.length(sequence) as u64;
        sequence
    }

    /// Takes over a sequence of the tokens `ids` and keeps it within the bound.
    pub fn keep(&mut self, ids: &[u32], cache: &mut Cache, sequence: SequenceId) {
        debug_assert_eq!(ids.len(), cache.length(sequence));
        if ids.is_empty() || cache.bytes_of(std::iter::once(sequence)) > self.max_bytes {
            // Others that there is room for stay.
            return cache.release(sequence);
        }
        self.clock += 1;
        if let Some((index, length)) = self.nearest(ids) {
            let entry = &mut self.entries[index];
            if length == ids.len() {
                entry.used = self.clock;
                return cache.release(sequence);
            }
            // A kept sequence that is a prefix of this one is redundant.
            if length == entry.ids.len() {
                cache.release(self.entries.swap_remove(index).sequence);
            }
        }
        self.entries.push(Entry { ids: ids.to_vec(), sequence, used: self.clock });
        while self.count(cache) > self.max_bytes || self.entries.len() > MAX_SEQUENCES {
            let oldest = (0..self.entries.len()).min_by_key(|&i| self.entries[i].used);
            let Some(oldest) = oldest else { break };
            cache.release(self.entries.swap_remove(oldest).sequence);
        }
    }

    /// Updates the summary; returns the kept bytes.
    fn count(&mut self, cache: &Cache) -> usize {
        self.summary.sequences = self.entries.len();
        self.summary.bytes = cache.bytes_of(self.entries.iter().map(|entry| entry.sequence));
        self.summary.bytes
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
