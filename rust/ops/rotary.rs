//! Rotary position embedding. Su et al. 2021, <https://arxiv.org/abs/2104.09864>
//!
//! A pair of dimensions (a, b) at position p with frequency f becomes
//! (a cos(p f) - b sin(p f), b cos(p f) + a sin(p f)).

use crate::threads::Team;

/// Cosines and sines of the rows of a batch, `[rows, pairs]` each; computed in double precision.
#[derive(Debug, Default)]
pub struct Angles {
    pairs: usize,
    interleaved: bool,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Starts an empty table of `pairs` rotated pairs per head.
    pub fn clear(&mut self, pairs: usize, interleaved: bool) {
        (self.pairs, self.interleaved) = (pairs, interleaved);
        self.cos.clear();
        self.sin.clear();
    }

    /// Appends the row of a token at `position`; cosine and sine are multiplied by `scale`.
    pub fn push(&mut self, position: usize, inv_freq: &[f64], scale: f64) {
        debug_assert_eq!(inv_freq.len(), self.pairs);
        for &frequency in inv_freq {
            // The reference multiplies in single precision: the angle is rounded before the cosine.
            let angle = f64::from(position as f32 * frequency as f32);
            self.cos.push((angle.cos() * scale) as f32);
            self.sin.push((angle.sin() * scale) as f32);
        }
    }
}

/// Rotates the first `2 * pairs` dimensions of each head of `x: [rows, heads * head_dim]`.
pub fn rotate(team: &Team<'_>, x: &mut [f32], heads: usize, head_dim: usize, angles: &Angles) {
    let width = heads * head_dim;
    let pairs = angles.pairs;
    let rows = (16 * 1024 / width).max(1);
    let piece = |i: usize, x: &mut [f32], _: usize| {
        for (r, row) in x.chunks_mut(width).enumerate() {
            let at = (i * rows + r) * pairs;
            let (cos, sin) = (&angles.cos[at..at + pairs], &angles.sin[at..at + pairs]);
            for head in row.chunks_mut(head_dim) {
                if angles.interleaved {
                    for (j, pair) in head[..2 * pairs].chunks_exact_mut(2).enumerate() {
                        let (a, b) = (pair[0], pair[1]);
                        pair[0] = a * cos[j] - b * sin[j];
                        pair[1] = b * cos[j] + a * sin[j];
                    }
                } else {
                    let (first, second) = head[..2 * pairs].split_at_mut(pairs);
                    for j in 0..pairs {
                        let (a, b) = (first[j], second[j]);
                        first[j] = a * cos[j] - b * sin[j];
                        second[j] = b * cos[j] + a * sin[j];
                    }
                }
            }
        }
    };
    if x.len() <= 16 * 1024 { piece(0, x, 0) } else { team.run_mut(x, rows * width, &piece) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Pool;

    #[test]
    fn rotation_keeps_lengths_and_depends_on_distance_only() {
        let pool = Pool::new(1);
        let inv_freq = [1.0, 0.1];
        for interleaved in [false, true] {
            let dot = |p: usize, q: usize| {
                let mut angles = Angles::default();
                angles.clear(2, interleaved);
                angles.push(p, &inv_freq, 1.0);
                angles.push(q, &inv_freq, 1.0);
                let mut x = vec![0.3, -0.7, 0.2, 0.9, 0.5, -1.1, 0.4, 0.8, 0.6, 0.1];
                pool.run_alone(|team| rotate(team, &mut x, 1, 5, &angles));
                assert_eq!((x[4], x[9]), (0.5, 0.1), "the last dimension is not rotated");
                (0..4).map(|i| x[i] * x[i + 5]).sum::<f32>()
            };
            assert!((dot(3, 7) - dot(13, 17)).abs() < 1e-5);
            assert!((dot(3, 7) - dot(3, 8)).abs() > 1e-3);
        }
    }
}
