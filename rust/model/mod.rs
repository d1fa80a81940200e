//! A model: its weights, its threads, and the calls that run it.
//!
//! The ids of a batch are concatenated without padding; `starts` are the borders between sequences. Calls go
//! through [`Model::session`], which waits for the model's turn and polls for interruption:
//!
//! * encoders: [`Session::encode`] gives final states, [`Session::task_head`] and [`Session::pooler`] the
//!   outputs of the heads;
//! * decoders: [`Session::forward`] feeds new tokens of cached sequences; [`Session::logits`] turns the final
//!   states that it leaves into logits, [`Session::with_top_logits`] finds the largest;
//! * encoder-decoders: [`Session::encode_sources`] encodes sources once; then as decoders.

mod blocks;
mod bounds;
mod cache;
mod counted;
mod describe;
mod forward_whole;
mod head;
mod loaded;
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
pub use forward_whole::HeadOptions;
pub use loaded::{Batch, ENCODER_ROWS, Model, PREFILL_ROWS};
pub use loader::{Loader, Options, Summary};
pub use rows::Span;
pub use session::Session;
pub use walk::{Needed, Use};
pub use weights::needed;
