//! Memory: element types, aligned buffers and views of the checkpoint's tensors.

mod buffer;
mod dtype;
mod source;

pub use buffer::Buffer;
pub use dtype::{DType, WeightType};
pub use source::Source;
