//! What attention knows of positions: the angles of rotary embeddings, and the biases of ALiBi and T5's buckets.
//!
//! Layers mostly share theirs, so what one needs is kept for the next.

use super::Span;
use crate::model::spec;
use crate::ops::position_bias::{DistanceBias, bucket};
use crate::ops::rotary::Angles;
use half::bf16;

/// How a bias depends on the distance.
#[derive(Debug, Clone)]
struct Rule {
    alibi: Option<spec::Alibi>,
    /// What the attention scales by, where the rule needs it.
    scale: f64,
    relative: Option<spec::RelativeBias>,
}

/// The angles of one rotation.
struct Rotation {
    rotary: spec::Rotary,
    angles: Angles,
    /// Whether they are those of this pass.
    made: bool,
}

/// Tables of angles and biases, kept from layer to layer.
#[derive(Default)]
pub struct Positions {
    /// Of each rotation that some layer has.
    rotations: Vec<Rotation>,
    /// The last biases by distance, and the rule and the numbers that they were made of.
    bias: Option<(DistanceBias, Rule, Vec<f32>)>,
    frequencies: Vec<f64>,
}

impl Positions {
    /// Forgets what belongs to one forward pass.
    pub fn begin(&mut self) {
        self.rotations.iter_mut().for_each(|rotation| rotation.made = false);
    }

    /// The table of angles, made unless a layer before rotated alike.
    pub fn angles(&mut self, rotary: &spec::Rotary, spans: &[Span]) -> &Angles {
        let known = self.rotations.iter().position(|rotation| rotation.rotary == *rotary);
        let index = known.unwrap_or_else(|| {
            let angles = Angles::default();
            self.rotations.push(Rotation { rotary: rotary.clone(), angles, made: false });
            self.rotations.len() - 1
        });
        let Rotation { angles, made, .. } = &mut self.rotations[index];
        if *made {
            return angles;
        }
        angles.clear(rotary.inv_freq.len(), rotary.interleaved);
        for span in spans {
            let (mut frequencies, mut scale) = (rotary.inv_freq.as_slice(), rotary.scale);
            if let Some(long) = rotary.long.as_ref().filter(|long| span.total > long.after) {
                (frequencies, scale) = (&long.inv_freq, long.scale);
            }
            if let Some(d) = rotary.dynamic.as_ref().filter(|d| span.total > d.original_length) {
                let dim = 2.0 * rotary.inv_freq.len() as f64;
                let grown = d.factor * span.total as f64 / d.original_length as f64 - (d.factor - 1.0);
                let base = d.base * grown.powf(dim / (dim - 2.0));
                self.frequencies.clear();
                self.frequencies.extend((0..rotary.inv_freq.len()).map(|j| base.powf(-2.0 * j as f64 / dim)));
                frequencies = &self.frequencies;
            }
            for row in 0..span.rows.len() {
                angles.push(span.first + row, frequencies, scale);
            }
        }
        *made = true;
        angles
    }

    /// Makes the table of biases, unless the last one serves: layers mostly share theirs, and the next token of a
    /// sequence needs hardly more.
    pub fn make_bias(&mut self, a: &spec::Attention, table: Option<&[f32]>, spans: &[Span]) {
        let scale = if a.alibi.as_ref().is_some_and(|alibi| alibi.rounded) { a.scale } else { 0.0 };
        let table = table.unwrap_or_default();
        if a.alibi.is_none() && a.relative_bias.is_none() {
            return;
        }
        let reach = spans.iter().map(|s| s.first + s.rows.len()).max().unwrap_or(1);
        if let Some((bias, old, numbers)) = &self.bias
            && bias.reach() >= reach
            && (&old.alibi, old.scale, &old.relative) == (&a.alibi, scale, &a.relative_bias)
            && numbers == table
        {
            return;
        }
        let rule = Rule { alibi: a.alibi.clone(), scale, relative: a.relative_bias.clone() };
        let reach = reach.next_power_of_two();
        let bias = if let Some(r) = &rule.relative {
            let rows: Vec<usize> = (-(reach as isize)..=reach as isize)
                .map(|d| bucket(d, r.buckets, r.max_distance, r.bidirectional))
                .collect();
            DistanceBias::new(a.heads, reach, |h, d| table[rows[(d + reach as isize) as usize] * a.heads + h])
        } else {
            let alibi = rule.alibi.as_ref().expect("one of the two");
            let slopes = &alibi.slopes;
            if alibi.rounded {
                let round = |x: f32| bf16::from_f32(x).to_f32();
                DistanceBias::of_keys(a.heads, reach, |h, k| {
                    a.scale as f32 * round(round(slopes[h] as f32) * round(k as f32))
                })
            } else {
                DistanceBias::new(a.heads, reach, |h, d| (slopes[h] * d as f64) as f32)
            }
        };
        self.bias = Some((bias, rule, table.to_vec()));
    }

    /// The biases that were made last, for an attention that has any.
    pub fn bias(&self, a: &spec::Attention) -> Option<&DistanceBias> {
        self.bias.as_ref().map(|b| &b.0).filter(|_| a.alibi.is_some() || a.relative_bias.is_some())
    }
}
