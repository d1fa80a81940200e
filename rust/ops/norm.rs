//! Root-mean-square and layer normalization.
//!
//! rms:   y = x / sqrt(mean(x^2) + eps) * weight
//! layer: y = (x - mean) / sqrt(var + eps) * weight + bias
//!
//! Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>; Ba et al. 2016,
//! <https://arxiv.org/abs/1607.06450>

use crate::simd::{LANES, Vector, multiversion};
use crate::threads::Team;

/// The formula of a normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    Layer,
    Rms,
}

/// A normalization with its tensors, which are as long as a row, or hold several rows that are used in turn
/// (weights of each head), or are empty.
#[derive(Debug, Clone)]
pub struct Norm {
    pub kind: NormKind,
    pub eps: f32,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Values per chunk of work; fewer are normalized by the caller alone.
const CHUNK: usize = 16 * 1024;

/// Reduces `x` in sixteen lanes; the last step is padded with `fill`.
#[inline(always)]
fn reduce<V: Vector>(x: &[f32], fill: f32, f: impl Fn(V, V) -> V) -> f32 {
    let mut acc = V::splat(0.0);
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        acc = f(acc, V::load(chunk));
    }
    if !chunks.remainder().is_empty() {
        acc = f(acc, V::load_or(chunks.remainder(), fill));
    }
    acc.fold_sum()
}

multiversion! {
    /// Normalizes one row; `weight` and `bias` are as long as the row, or empty.
    fn row / row_at(layer: bool, eps: f32, weight: &[f32], bias: &[f32], x: &[f32], out: &mut [f32]) {
        let n = x.len() as f32;
        let mean = if layer { reduce::<Lanes>(x, 0.0, |a, v| a + v) / n } else { 0.0 };
        let center = Lanes::splat(mean);
        // The padding is the mean, which adds nothing.
        let square = reduce::<Lanes>(x, mean, |a, v| {
            let d = v - center;
            d.mul_add(d, a)
        });
        let scale = Lanes::splat(1.0 / (square / n + eps).sqrt());
        let mut i = 0;
        while i < x.len() {
            let end = (i + LANES).min(x.len());
            let mut y = (Lanes::load_or(&x[i..end], 0.0) - center) * scale;
            if !weight.is_empty() {
                y = y * Lanes::load_or(&weight[i..end], 0.0);
            }
            if !bias.is_empty() {
                y = y + Lanes::load_or(&bias[i..end], 0.0);
            }
            y.store_part(&mut out[i..end]);
            i = end;
        }
    }
}

impl Norm {
    /// Normalizes the row `index`, which selects the weights where they have several rows.
    pub fn row(&self, index: usize, x: &[f32], out: &mut [f32]) {
        let part = |t: &Vec<f32>| {
            let rows = (t.len() / x.len()).max(1);
            let start = index % rows * x.len();
            if t.is_empty() { 0..0 } else { start..start + x.len() }
        };
        let (w, b) = (&self.weight[part(&self.weight)], &self.bias[part(&self.bias)]);
        row(self.kind == NormKind::Layer, self.eps, w, b, x, out);
    }

    /// Normalizes each row of `width` values of `x` into `out`.
    pub fn normalize(&self, team: &Team<'_>, x: &[f32], width: usize, out: &mut [f32]) {
        assert!(x.len() == out.len(), "out is as long as x");
        let rows = (CHUNK / width).max(1);
        let piece = |i: usize, out: &mut [f32], _: usize| {
            for (r, o) in out.chunks_mut(width).enumerate() {
                let index = i * rows + r;
                self.row(index, &x[index * width..][..width], o);
            }
        };
        if x.len() <= CHUNK { piece(0, out, 0) } else { team.run_mut(out, rows * width, &piece) }
    }

    /// [`Norm::normalize`] in place.
    pub fn normalize_in_place(&self, team: &Team<'_>, x: &mut [f32], width: usize) {
        let rows = (CHUNK / width).max(1);
        let piece = |i: usize, x: &mut [f32], _: usize| {
            let mut copy = [0.0f32; 512];
            let mut long = Vec::new();
            for (r, row) in x.chunks_mut(width).enumerate() {
                let copy = if width <= copy.len() {
                    &mut copy[..width]
                } else {
                    long.resize(width, 0.0);
                    &mut long[..]
                };
                copy.copy_from_slice(row);
                self.row(i * rows + r, copy, row);
            }
        };
        if x.len() <= CHUNK { piece(0, x, 0) } else { team.run_mut(x, rows * width, &piece) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::testing::every_level_equals_portable;
    use crate::threads::Pool;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 300.0 - 1.5).collect()
    }

    #[test]
    fn rows_equal_the_formula() {
        let pool = Pool::new(2);
        for (width, kind) in
            [(1, NormKind::Rms), (15, NormKind::Layer), (64, NormKind::Rms), (769, NormKind::Layer)]
        {
            let norm = Norm { kind, eps: 1e-5, weight: values(width, 1), bias: values(width, 2) };
            let x = values(width * 40, 3);
            let mut out = vec![0.0; x.len()];
            pool.run_alone(|team| norm.normalize(team, &x, width, &mut out));
            let mut again = x.clone();
            pool.run_alone(|team| norm.normalize_in_place(team, &mut again, width));
            assert_eq!(out, again);
            for (x, y) in x.chunks(width).zip(out.chunks(width)) {
                let n = width as f64;
                let mean = if kind == NormKind::Layer {
                    x.iter().map(|&v| f64::from(v)).sum::<f64>() / n
                } else {
                    0.0
                };
                let square = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
                for (i, &got) in y.iter().enumerate() {
                    let want = (f64::from(x[i]) - mean) / (square + 1e-5).sqrt() * f64::from(norm.weight[i])
                        + f64::from(norm.bias[i]);
                    assert!(
                        (f64::from(got) - want).abs() < 1e-5 * (1.0 + want.abs()),
                        "{width} {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_level_gives_equal_bits() {
        for width in 1..70 {
            let (x, w) = (values(width, 5), values(width, 6));
            for (layer, weight, bias) in [(true, &w[..], &w[..]), (false, &w, &[]), (true, &[], &[])] {
                every_level_equals_portable(&(width, layer), &|level| {
                    let mut out = vec![0.0; width];
                    row_at(level, layer, 1e-6, weight, bias, &x, &mut out);
                    out
                });
            }
        }
    }
}
