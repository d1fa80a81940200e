//! Pooling: one vector per sequence from the states of its tokens.

use crate::error::{Error, Result};
use crate::simd::sum_of_squares;

/// The reduction over the tokens of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    First,
    Last,
    Mean,
    /// The sum divided by the square root of the length.
    MeanSqrtLength,
    Max,
}

impl Pooling {
    pub fn parse(name: &str) -> Result<Pooling> {
        match name {
            "first" => Ok(Pooling::First),
            "last" => Ok(Pooling::Last),
            "mean" => Ok(Pooling::Mean),
            "mean_sqrt_len" => Ok(Pooling::MeanSqrtLength),
            "max" => Ok(Pooling::Max),
            other => Err(Error::Option(format!(
                "pooling={other:?} is unknown: expected \"first\", \"last\", \"mean\", \"mean_sqrt_len\" or \"max\""
            ))),
        }
    }

    /// Pools the `states: [tokens, width]` of one sequence, of at least one token, into `out: [width]`.
    pub fn pool(self, states: &[f32], width: usize, out: &mut [f32]) {
        let tokens = states.len() / width;
        match self {
            Pooling::First => out.copy_from_slice(&states[..width]),
            Pooling::Last => out.copy_from_slice(&states[(tokens - 1) * width..]),
            Pooling::Mean | Pooling::MeanSqrtLength => {
                out.fill(0.0);
                for row in states.chunks_exact(width) {
                    for (o, v) in out.iter_mut().zip(row) {
                        *o += v;
                    }
                }
                let n = tokens as f32;
                let n = if self == Pooling::Mean { n } else { n.sqrt() };
                for o in out {
                    *o /= n;
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
