//! Generation: prompts become tokens, one step for all sequences of all calls at a time.
//!
//! An [`Engine`] belongs to a model. [`Engine::add`] gives it prompts, which is a [`Call`]; [`Call::advance`] computes steps
//! and returns the call's new tokens. In a step (`scheduler`, `step`) every sequence is fed what the cache lacks (`feed`), the
//! scores behind it are changed (`process`) and become a token (`scoring`, `scores`, `sample`, `beam_search`). Sequences join and leave
//! between steps; what one becomes does not depend on the others, to the bit.

mod active_prompt;
mod beam_batch;
mod beam_search;
mod call;
mod engine;
mod feed;
mod mailbox;
pub mod options;
pub mod process;
mod running_batch;
pub mod sample;
mod scheduler;
mod scores;
mod scoring;
mod sequence;
mod speculate;
mod step;

pub use call::{Call, Request};
pub use engine::Engine;
pub use sequence::{Event, FinishReason, Hypothesis, Processor};
