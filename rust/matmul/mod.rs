//! Matrix products `y = x @ weight.T` with packed weights.
//!
//! Weights are packed once, in panels of 16 outputs in the order in which kernels read them; one layout per
//! weight type serves every number of rows and every instruction set. Each output is one chain of operations
//! in a fixed order, so its bits do not depend on what is computed beside it:
//!
//! * `f32`, `bf16`, `f16` (`float`): one fused multiply-add after the other over the inputs, also where
//!   activations are rounded to bf16 (then the second of each two inputs comes first);
//! * `q8`, `q6`, `q4`: exact integers inside groups of inputs, with `q4` inside blocks, then a few fused
//!   multiply-adds in a fixed order.
//!
//! Kernels for few rows read the packed weights; for many rows, blocks may be unpacked first into a layout
//! that is faster to read (`quantized::Blocks`), which changes no bit.
//!
//! A call (`linear`) packs its activations once (tiles of some rows, most layouts interleaved) and shares
//! them among all its products, whose panels form one list of chunks for the threads.

mod activations;
pub mod dense;
mod driver;
mod epilogue;
mod float;
mod layout;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod opaque;
mod packing;
mod panel;
mod pieces;
mod q4;
mod q6;
mod q8;
mod quantized;
mod select;
mod subproduct;
#[cfg(test)]
mod tests;

pub use activations::Input;
pub use driver::{Scratch, Target, linear, linear_each};
pub use matrix::{Activations, Matrix, Storage};
pub use packing::LAYOUT_VERSION;
pub use panel::PANEL;
pub use pieces::{PIECE, Piece, linear_in_pieces};
