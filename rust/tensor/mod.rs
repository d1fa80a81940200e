//! Memory: element types, aligned buffers and views of the checkpoint's tensors.

mod buffer;
mod disjoint;
mod dtype;
mod source;

pub use buffer::{Buffer, Plain, sized};
pub use disjoint::Disjoint;
pub use dtype::{DType, WeightType};
pub use source::Source;
