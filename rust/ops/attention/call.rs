//! What an attention call computes: queries, the sequences that they belong to, and how scores are made.

use crate::ops::kv::{KvBlocks, Sequence, Sequences};
use crate::ops::position_bias::DistanceBias;
use std::ops::Range;

/// Positions in a tile.
pub const TILE: usize = 128;

/// Shape, scale and mask of the scores.
#[derive(Debug, Clone)]
pub struct Scores<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    /// Dimensions of a query and of a key.
    pub key_dim: usize,
    /// Dimensions of a value and of a head's output.
    pub value_dim: usize,
    pub scale: f32,
    pub causal: bool,
    /// Keys at a distance of `window` or more are not seen.
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    pub distance_bias: Option<&'a DistanceBias>,
}

impl Scores<'_> {
    /// Positions that a query at `position` sees among `length` keys.
    pub fn visible(&self, position: usize, length: usize) -> Range<usize> {
        let end = if self.causal { length.min(position + 1) } else { length };
        match self.window {
            Some(w) => (position + 1).saturating_sub(w)..end.min(position + w),
            None => 0..end,
        }
    }
}
/// Value of [`Call::shared_from`]. Measured on a Zen 5 with 32 MB of shared cache: a smaller prefix stays in
/// the cache from one sequence to the next, and attending to it jointly takes 4 % longer; with 16 MB it takes
/// 0.7 of the time.
pub const SHARED_FROM: usize = 6 << 20;

/// Arguments of a call.
pub struct Call<'a> {
    pub queries: &'a [f32],
    pub sequences: Sequences<'a>,
    pub kv: &'a KvBlocks,
    pub scores: &'a Scores<'a>,
    /// Bytes of keys and values from which on the sequences that share them attend to them jointly.
    pub shared_from: usize,
}
impl Call<'_> {
    /// Query heads per key head.
    pub fn group(&self) -> usize {
        self.scores.heads / self.scores.kv_heads
    }

    /// A sequence by its index in the list.
    pub fn sequence(&self, index: usize) -> &Sequence {
        &self.sequences.list[index]
    }
}
