//! Pooling: one vector per sequence from the states of its tokens.

use crate::simd::sum_of_squares;
use serde::{Deserialize, Serialize};

/// The reduction over the tokens of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    First,
    Last,
    Mean,
    /// The sum divided by the square root of the length.
    MeanSqrtLen,
    /// The mean with the weights 1, 2, 3 ... of the positions.
    WeightedMean,
    Max,
}

impl Pooling {
    /// Pools the `states: [tokens, width]` of one sequence, of at least one token, into `out: [width]`, without
    /// the first `skip` tokens; the last token always counts. The weights of the other positions do not change.
    pub fn pool(self, states: &[f32], width: usize, skip: usize, out: &mut [f32]) {
        let tokens = states.len() / width;
        let skip = skip.min(tokens - 1);
        let states = &states[skip * width..];
        match self {
            Pooling::First => out.copy_from_slice(&states[..width]),
            Pooling::Last => out.copy_from_slice(&states[states.len() - width..]),
            Pooling::Mean | Pooling::MeanSqrtLen => {
                out.fill(0.0);
                for row in states.chunks_exact(width) {
                    for (o, v) in out.iter_mut().zip(row) {
                        *o += v;
                    }
                }
                let n = (tokens - skip) as f32;
                let n = if self == Pooling::Mean { n } else { n.sqrt() };
                for o in out {
                    *o /= n;
                }
            }
            Pooling::WeightedMean => {
                out.fill(0.0);
                let mut total = 0.0;
                for (i, row) in states.chunks_exact(width).enumerate() {
                    let weight = (skip + i + 1) as f32;
                    total += weight;
                    for (o, v) in out.iter_mut().zip(row) {
                        *o += weight * v;
                    }
                }
                for o in out {
                    *o /= total;
                }
            }
            Pooling::Max => {
                out.copy_from_slice(&states[..width]);
                for row in states.chunks_exact(width).skip(1) {
                    for (o, &v) in out.iter_mut().zip(row) {
                        *o = if v > *o { v } else { *o };
                    }
                }
            }
        }
    }
}

/// Scales `x` to unit length; a vector shorter than 1e-12 is divided by that.
pub fn normalize_length(x: &mut [f32]) {
    let length = sum_of_squares(x).sqrt().max(1e-12);
    for v in x {
        *v /= length;
    }
}
