//! A prompt that takes part in steps: its streams or its beam search, and their cached sequences.

use super::beam_batch::Searching;
use super::beam_search::Search;
use super::sequence::{Prompt, Stream};
use super::speculate::Draft;
use crate::model::prefix::Prefixes;
use crate::model::{Cache, SequenceId};

/// How a prompt is continued.
pub(super) enum Work {
    /// One stream, or several samples.
    Streams(Vec<Stream>),
    Search(Searching),
}

/// A prompt in the running batch.
pub(super) struct ActivePrompt {
    pub prompt: Prompt,
    /// Its source in the cache of sources.
    pub source: Option<SequenceId>,
    /// Cached sequence of the prompt, which its streams take over and fork once it has been read.
    pub root: SequenceId,
    /// Whether the scores of the prompt's last token have been used.
    pub read: bool,
    /// Whether it has been fed in the current round of its call.
    pub fed: bool,
    pub work: Work,
}

impl ActivePrompt {
    pub fn new(prompt: Prompt, root: SequenceId, source: Option<SequenceId>) -> ActivePrompt {
        let o = &prompt.settings.options;
        let work = if o.beams > 1 {
            Work::Search(Searching::new(Search::new(&prompt.ids, prompt.max_length, o), root))
        } else {
            let stream = |_| Stream { ids: prompt.ids.clone(), cache: None, reason: None };
            Work::Streams((0..o.samples).map(stream).collect())
        };
        ActivePrompt { prompt, source, root, read: false, fed: false, work }
    }

    pub fn call(&self) -> u64 {
        self.prompt.settings.call
    }

    /// Number of lanes, the sequences that are fed side by side: all streams, or the running beams.
    pub fn lanes(&self) -> usize {
        match &self.work {
            Work::Streams(list) => list.len(),
            Work::Search(searching) => searching.sequences.len(),
        }
    }

    /// The cached sequence of a running lane, once the prompt has been read.
    pub fn sequence(&self, lane: usize) -> Option<SequenceId> {
        match &self.work {
            Work::Streams(list) => list[lane].cache.filter(|_| list[lane].reason.is_none()),
            Work::Search(searching) => Some(searching.sequences[lane]),
        }
    }

    pub fn ids(&self, lane: usize) -> &[u32] {
        match &self.work {
            Work::Streams(list) => &list[lane].ids,
            Work::Search(searching) => &searching.search.running[lane].ids,
        }
    }

    /// Whether a step has ended before the continuations of all beams were offered: those offered are discarded.
    pub fn partly_offered(&self) -> bool {
        matches!(&self.work, Work::Search(searching) if searching.offered > 0 && !searching.complete())
    }

    pub fn over(&self) -> bool {
        match &self.work {
            Work::Streams(list) => list.iter().all(|stream| stream.reason.is_some()),
            Work::Search(searching) => searching.search.over,
        }
    }

    /// Frees the cached sequences of streams that have ended, or of `all`; the first sample is kept as a
    /// prefix. Calls `ended` with the number of each freed stream.
    pub fn retire(
        &mut self,
        all: bool,
        cache: &mut Cache,
        mut prefixes: Option<&mut Prefixes>,
        mut draft: Option<&mut Draft>,
        ended: &mut dyn FnMut(usize, &Stream),
    ) {
        let all = all || self.over();
        match &mut self.work {
            Work::Search(searching) if all => searching.release(cache),
            Work::Search(_) => {}
            Work::Streams(list) => {
                if !self.read && all {
                    // The part of the prompt that was read becomes a prefix.
                    list[0].cache = Some(self.root);
                    self.read = true;
                }
                for (sample, stream) in list.iter_mut().enumerate() {
                    if stream.reason.is_none() && !all {
                        continue;
                    }
                    let Some(id) = stream.cache.take() else { continue };
                    let number = self.prompt.sequence(sample);
                    match prefixes.as_deref_mut().filter(|_| sample == 0) {
                        Some(prefixes) => {
                            let known = cache.truncate(id, stream.ids.len());
                            prefixes.keep(&stream.ids[..known], cache, id);
                        }
                        None => cache.release(id),
                    }
                    if let Some(draft) = draft.as_deref_mut() {
                        draft.end(number);
                    }
                    ended(number, stream);
                }
            }
        }
    }
}
