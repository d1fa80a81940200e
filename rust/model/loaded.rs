//! A loaded model and its batches.

use super::cache::Cache;
use super::loader::{Loader, Summary};
use super::spec;
use super::stack::Scratch;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::matmul::Activations;
use crate::ops::kv::KvType;
use crate::threads::Pool;
use std::ops::Range;
use std::sync::Mutex;

/// Maximum number of rows of a decoder's pass.
pub const PREFILL_ROWS: usize = 512;

/// Maximum number of rows that an encoder gathers from several sequences.
pub const ENCODER_ROWS: usize = 2048;
/// The same if threads take shares of them: with many small shares threads wait less at the end.
pub(super) const SHARED_ROWS: usize = 8192;

/// A loaded model.
pub struct Model {
    pub(super) spec: spec::Model,
    pub(super) weights: Weights,
    pub(super) summary: Summary,
    pub(super) pool: Pool,
    pub(super) kv_type: KvType,
    pub(super) activations: Activations,
    pub(super) scratch: Mutex<Scratch>,
}

/// A ragged batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub ids: &'a [u32],
    /// Borders of the sequences, one more than sequences.
    pub starts: &'a [usize],
    pub segments: Option<&'a [u32]>,
    /// Number of tokens at the end of each sequence to which no token attends.
    pub unseen: Option<&'a [usize]>,
}

impl Batch<'_> {
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The end of the longest run of sequences from the first on that have at most `rows` tokens in total; at
    /// least one sequence.
    pub(super) fn group(&self, range: Range<usize>, rows: usize) -> usize {
        let fits = |end: usize| end < range.end && self.starts[end + 1] - self.starts[range.start] <= rows;
        let mut end = range.start + 1;
        while fits(end) {
            end += 1;
        }
        end
    }
}

impl Model {
    pub fn new(loader: Loader, pool: Pool) -> Result<Self> {
        let (activations, kv_type) = (loader.options().activations, loader.kv_type());
        let (spec, weights, summary) = loader.finish()?;
        Ok(Model { spec, weights, summary, pool, kv_type, activations, scratch: Mutex::default() })
    }

    pub fn spec(&self) -> &spec::Model {
        &self.spec
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The type of the decoder's keys and values in all calls, so that cached and whole-sequence calls give
    /// the same bits. Encoders use f32.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// An empty cache for the decoder's sequences, or for their sources.
    pub fn cache(&self, of_sources: bool) -> Result<Cache> {
        let decoder = self.weights.decoder.as_ref().ok_or_else(|| missing("a decoder"))?;
        let make = if of_sources { Cache::of_sources } else { Cache::new };
        Ok(make(decoder.layout(), self.kv_type()))
    }

    /// Longest source of an encoder-decoder, and the size of its vocabulary; `None` without an encoder.
    pub fn source_limits(&self) -> Option<(usize, usize)> {
        self.spec.encoder.as_ref().map(|encoder| (encoder.longest(), encoder.vocab_size()))
    }

    /// Longest sequence of the last stack.
    pub fn longest(&self) -> usize {
        self.spec.last_stack().longest()
    }

    /// Entries of a row of logits.
    pub fn vocab_size(&self) -> Result<usize> {
        Ok(self.spec.language_head.as_ref().ok_or_else(|| missing("a language head"))?.vocab_size)
    }
}

/// The error of a call that needs a part missing in the checkpoint.
pub(super) fn missing(what: &str) -> Error {
    Error::Option(format!(
        "this model has no {}: use a checkpoint that has it",
        what.trim_start_matches("a ")
    ))
}
