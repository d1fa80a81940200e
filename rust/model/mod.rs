//! A model: its weights, its threads, and the calls that run it.
//!
//! Ids of a batch lie one after the other, `starts` are the borders between sequences: no padding. Calls go
//! through [`Model::session`], which waits for the model's turn and watches for interruption:
//!
//! * encoders: [`Session::encode`] gives final states, [`Session::task_head`] and [`Session::pooler`] what follows;
//! * decoders: [`Session::forward`] feeds new tokens of cached sequences; [`Session::logits`] turns the final states that it
//!   leaves into logits, [`Session::with_top_logits`] finds the largest;
//! * encoder-decoders: [`Session::cross`] prepares sources once, then as decoders.

mod blocks;
mod bounds;
mod cache;
mod describe;
mod forward_whole;
mod head;
mod loader;
pub mod packed;
pub mod prefix;
mod rows;
mod session;
mod slots;
pub mod spec;
mod stack;
mod state;
mod stem;
mod validate;
mod walk;
mod weights;

pub use cache::{Cache, SequenceId};
pub use loader::{Loader, Options, Summary};
pub use rows::Span;
pub use session::Session;
pub use walk::{Needed, Use};
pub use weights::needed;

use crate::error::Result;
use crate::matmul::Activations;
use crate::ops::kv::KvType;
use crate::threads::{Hook, Pool, Team};
use session::missing;
use stack::Scratch;
use std::ops::Range;
use std::sync::{Mutex, PoisonError, TryLockError};
use weights::Weights;

/// Rows that a decoder computes at a time while it reads a prompt.
pub const PREFILL_ROWS: usize = 512;

/// Rows that an encoder gathers from several sequences.
pub const ENCODER_ROWS: usize = 2048;
/// The same where threads take shares of them: shares are small, and the more there are the less threads wait at the end.
const SHARED_ROWS: usize = 8192;

/// A loaded model.
pub struct Model {
    spec: spec::Model,
    weights: Weights,
    summary: Summary,
    pool: Pool,
    kv_type: KvType,
    activations: Activations,
    scratch: Mutex<Scratch>,
}

/// A ragged batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub ids: &'a [u32],
    /// Borders, one more than there are sequences.
    pub starts: &'a [usize],
    pub segments: Option<&'a [u32]>,
}

impl Batch<'_> {
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The end of the sequences of a range, from its first on, that have at most `rows` tokens together; at least one.
    fn group(&self, range: Range<usize>, rows: usize) -> usize {
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

    /// How the decoder's keys and values are kept, in every call, so that cached and whole-sequence calls give
    /// the same bits. Encoders keep theirs in f32.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Waits for this caller's turn and runs `body`; `hook` is asked now and then whether to stop.
    pub fn session<R>(&self, hook: Hook<'_>, body: impl FnOnce(&mut Session<'_>) -> Result<R>) -> Result<R> {
        self.pool.enter(hook, |team| self.with(team, body))
    }

    /// Whether the calling thread is inside of a session.
    pub fn held_by_this_thread(&self) -> bool {
        self.pool.held_by_this_thread()
    }

    /// [`Model::session`], or nothing where another caller has the model: callers that hold models and wait for others'
    /// could wait for each other.
    pub fn session_if_free<R>(
        &self,
        hook: Hook<'_>,
        body: impl FnOnce(&mut Session<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        self.pool.enter_if_free(hook, |team| self.with(team, body))
    }

    fn with<R>(&self, team: &Team<'_>, body: impl FnOnce(&mut Session<'_>) -> Result<R>) -> Result<R> {
        let mut own = Scratch::default();
        // A forked child may find the lock held by a thread that it does not have.
        let mut guard = match self.scratch.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => None,
        };
        let scratch = guard.as_deref_mut().unwrap_or(&mut own);
        body(&mut Session { model: self, team, scratch })
    }

    /// An empty cache for the decoder's sequences, or for the sources that they attend to.
    pub fn cache(&self, cross: bool) -> Result<Cache> {
        let decoder = self.weights.decoder.as_ref().ok_or_else(|| missing("a decoder"))?;
        let make = if cross { Cache::of_sources } else { Cache::new };
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
