//! Generation: the engine computes each step for the sequences of all calls together.
//!
//! An [`Engine`] belongs to a model. [`Engine::add`] adds prompts and returns a [`Call`]; [`Call::advance`]
//! computes steps and returns the call's new tokens. A step (`scheduler`, `step`) feeds the tokens of every
//! sequence that are not cached yet (`feed`), processes the scores (`process`) and chooses tokens (`scoring`,
//! `scores`, `sample`, `beam_search`). Sequences join and leave between steps; the tokens of a sequence do
//! not depend on the others, to the bit.

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
