//! A beam search in a batch: how cached sequences follow their beams.

use super::beam_search::Search;
use super::options::Options;
use crate::model::{Cache, SequenceId};

/// The search of one prompt, and the cached sequences of its running beams.
pub(super) struct Searching {
    pub search: Search,
    pub sequences: Vec<SequenceId>,
    /// Beams whose continuations were offered in this step.
    pub offered: usize,
}

impl Searching {
    pub fn new(search: Search, prompt: SequenceId) -> Searching {
        Searching { search, sequences: vec![prompt], offered: 0 }
    }

    /// Whether the continuations of all beams have been offered.
    pub fn complete(&self) -> bool {
        self.offered == self.search.running.len()
    }

    /// Discards what was offered: the step is repeated.
    pub fn withdraw(&mut self) {
        self.search.withdraw();
        self.offered = 0;
    }

    /// Ends the step with the offered candidates, and the search if it is `late`; the cached sequences follow
    /// the beams.
    pub fn advance(&mut self, o: &Options, cache: &mut Cache, late: bool) {
        let Searching { search, sequences, offered } = self;
        *offered = 0;
        if late {
            search.end();
        }
        let before = sequences.len();
        for &parent in search.step(o) {
            let fork = cache.fork(sequences[parent]);
            sequences.push(fork);
        }
        let gone = if search.over { sequences.len() } else { before };
        sequences.drain(..gone).for_each(|id| cache.release(id));
    }

    pub fn release(&mut self, cache: &mut Cache) {
        self.sequences.drain(..).for_each(|id| cache.release(id));
    }
}
