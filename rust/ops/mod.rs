//! The operations between matrix products: norms, rotations, attention, pooling.
//!
//! Each gives the same bits for a row whatever rows are computed beside it, on any number of threads and
//! any instruction set: a row is computed by one thread, in one order.

pub mod attention;
pub mod kv;
pub mod norm;
pub mod pool;
pub mod position_bias;
pub mod rotary;
pub mod softmax;
pub mod top_logits;
