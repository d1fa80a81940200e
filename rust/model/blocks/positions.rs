//! Tables of positions: angles of rotary embeddings, and biases of ALiBi and T5's buckets, shared by layers
//! with equal parameters. Su et al. 2021, <https://arxiv.org/abs/2104.09864>

use crate::error::Result;
use crate::model::bounds::{finite, positive, refuse, size};
use crate::model::describe::mirror;
use crate::model::rows::Span;
use crate::ops::position_bias::{DistanceBias, bucket};
use crate::ops::rotary::Angles;
use half::bf16;

mirror!(/// Frequencies of long sequences (LongRoPE).
LongRotary { after: usize, inv_freq: Vec<f64>, scale: f64 });

mirror!(/// A base that grows with the length (dynamic NTK).
DynamicRotary { base: f64, factor: f64, original_length: usize });

mirror!(/// Rotation of the first dimensions of each head.
Rotary {
    inv_freq: Vec<f64>,
    #[serde(default = "crate::model::describe::one")] scale: f64,
    #[serde(default)] interleaved: bool,
    #[serde(default)] long: Option<LongRotary>,
    #[serde(default)] dynamic: Option<DynamicRotary>,
});

mirror!(/// T5's bias by bucketed distance.
RelativeBias { buckets: usize, max_distance: usize, bidirectional: bool });

mirror!(/// Bias linear in the distance.
Alibi { slopes: Vec<f64>, #[serde(default)] rounded: bool });

impl RelativeBias {
    pub(super) fn validate(&self, place: &str) -> Result<()> {
        let halves = if self.bidirectional { 2 } else { 1 };
        if self.buckets / halves < 2 || self.buckets > 65536 {
            let expected = format!("{} to 65536", 2 * halves);
            return refuse(place, "relative_bias.buckets", self.buckets, &expected);
        }
        size(place, "relative_bias.max_distance", self.max_distance)?;
        let min = self.buckets / halves / 2 + 1;
        if self.max_distance < min {
            let expected = format!("at least {min}");
            return refuse(place, "relative_bias.max_distance", self.max_distance, &expected);
        }
        Ok(())
    }
}

impl Rotary {
    pub(super) fn validate(&self, place: &str, head_dim: usize) -> Result<()> {
        let pairs = self.inv_freq.len();
        if pairs == 0 || 2 * pairs > head_dim {
            let expected = format!("1 to {}", head_dim / 2);
            return refuse(place, "inv_freq", format!("{pairs} frequencies"), &expected);
        }
        self.inv_freq.iter().try_for_each(|&f| finite(place, "inv_freq", f))?;
        finite(place, "scale", self.scale)?;
        if let Some(long) = &self.long {
            if long.inv_freq.len() != pairs {
                let got = format!("{} frequencies", long.inv_freq.len());
                return refuse(place, "long.inv_freq", got, &format!("{pairs}"));
            }
            long.inv_freq.iter().try_for_each(|&f| finite(place, "long.inv_freq", f))?;
            finite(place, "long.scale", long.scale)?;
            size(place, "long.after", long.after)?;
        }
        if let Some(dynamic) = &self.dynamic {
            positive(place, "dynamic.base", dynamic.base)?;
            positive(place, "dynamic.factor", dynamic.factor)?;
            size(place, "dynamic.original_length", dynamic.original_length)?;
            if pairs < 2 {
                return refuse(place, "inv_freq", pairs, "at least 2 frequencies with dynamic scaling");
            }
        }
        Ok(())
    }

    /// Maximum number of tokens that may be fed at once, up to a length of `length`, with the angles of
    /// tokens fed one by one: some rotations change with the length of the sequence.
    pub fn unchanged_for(&self, length: usize) -> usize {
        let long = self.long.as_ref().and_then(|long| long.after.checked_sub(length));
        let dynamic = self.dynamic.as_ref().map(|dynamic| dynamic.original_length.saturating_sub(length));
        long.unwrap_or(usize::MAX).min(dynamic.unwrap_or(usize::MAX))
    }

    /// Whether the angles of a token depend only on its position.
    pub fn is_fixed(&self) -> bool {
        self.long.is_none() && self.dynamic.is_none()
    }
}

/// A bias that depends on the distance of query and key.
#[derive(Debug, Clone, PartialEq)]
pub struct BiasRule {
    pub heads: usize,
    /// The scale of the scores.
    pub scale: f64,
    pub by: BiasBy,
}

/// The rule of the bias.
#[derive(Debug, Clone, PartialEq)]
pub enum BiasBy {
    Alibi(Alibi),
    /// Rows of a table, `[buckets, heads]`.
    Buckets(RelativeBias, Vec<f32>),
}

/// The angles of one rotation.
struct Rotation {
    rotary: Rotary,
    angles: Angles,
    /// Number of the view.
    stamp: u64,
}

/// Tables of angles and biases, kept from layer to layer.
#[derive(Default)]
pub struct Positions {
    /// Angles of each rotation of the layers.
    rotations: Vec<Rotation>,
    /// The last biases, and their rule.
    bias: Option<(DistanceBias, BiasRule)>,
    frequencies: Vec<f64>,
}

impl Positions {
    /// The table of angles of the spans of view `stamp`; computed by the first layer that needs it.
    pub fn angles(&mut self, rotary: &Rotary, spans: &[Span], stamp: u64) -> &Angles {
        let known = self.rotations.iter().position(|rotation| rotation.rotary == *rotary);
        let index = known.unwrap_or_else(|| {
            let angles = Angles::default();
            self.rotations.push(Rotation { rotary: rotary.clone(), angles, stamp: 0 });
            self.rotations.len() - 1
        });
        let Rotation { angles, stamp: made_for, .. } = &mut self.rotations[index];
        if *made_for == stamp {
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
        *made_for = stamp;
        angles
    }

    /// The biases of a rule for the distances in some spans. The last table is reused if it suffices: layers
    /// mostly share their rule, and the next token of a sequence needs few new distances.
    pub fn bias(&mut self, rule: &BiasRule, spans: &[Span]) -> &DistanceBias {
        let reach = spans.iter().map(|s| s.first + s.rows.len()).max().unwrap_or(1);
        if !self.bias.as_ref().is_some_and(|(bias, last)| bias.reach() >= reach && last == rule) {
            self.bias = Some((rule.table(reach.next_power_of_two()), rule.clone()));
        }
        &self.bias.as_ref().expect("just made").0
    }
}

impl BiasRule {
    fn table(&self, reach: usize) -> DistanceBias {
        let heads = self.heads;
        match &self.by {
            BiasBy::Buckets(r, table) => {
                let distances = -(reach as isize)..=reach as isize;
                let rows: Vec<usize> =
                    distances.map(|d| bucket(d, r.buckets, r.max_distance, r.bidirectional)).collect();
                DistanceBias::new(heads, reach, |h, d| table[rows[(d + reach as isize) as usize] * heads + h])
            }
            BiasBy::Alibi(Alibi { slopes, rounded: true }) => {
                let round = |x: f32| bf16::from_f32(x).to_f32();
                DistanceBias::of_keys(heads, reach, |h, k| {
                    self.scale as f32 * round(round(slopes[h] as f32) * round(k as f32))
                })
            }
            BiasBy::Alibi(Alibi { slopes, .. }) => {
                DistanceBias::new(heads, reach, |h, d| (slopes[h] * d as f64) as f32)
            }
        }
    }
}
