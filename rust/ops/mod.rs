//! The operations between matrix products: norms, rotations, attention, pooling.
//!
//! The bits of a row do not depend on the other rows of a call, the number of threads or the instruction set:
//! a row is computed by one thread, in one order.

pub mod attention;
pub mod kv;
pub mod norm;
pub mod pool;
pub mod position_bias;
pub mod rotary;
pub mod softmax;
pub mod top_logits;
