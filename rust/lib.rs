//! Lapwing's core: transformer language models on CPUs.
//!
//! A checkpoint becomes a `model::Model` once: Python sends a description (`model::spec`) and the tensors,
//! which are packed (`matmul::Matrix`) while they load. A call then flows downwards:
//! ids -> embedding -> layers of attention and feed-forward (`model`, `ops`, `matmul`) -> hidden states ->
//! logits -> processors, sampler or beam search (`decode`) -> ids.
//!
//! Floors, a module imports only from those below it:
//! `error < simd, threads, tensor, template < matmul < ops < model < decode < python`.

pub mod decode;
pub mod error;
pub mod matmul;
pub mod model;
pub mod ops;
#[cfg(feature = "python")]
mod python;
pub mod simd;
pub mod template;
pub mod tensor;
pub mod threads;
