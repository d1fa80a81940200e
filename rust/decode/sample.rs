//! Choosing a token: the likeliest, or a random one of those that the filters leave.

use super::options::Options;
use crate::ops::leaders::argmax;
use crate::simd::{exp, log, maximum, multiversion};

multiversion! {
    /// Replaces x by e^(x - top).
    fn exp_in_place / exp_in_place_at(x: &mut [f32], top: f32) {
        let top = Lanes::splat(top);
        let mut i = 0;
        while i < x.len() {
            let end = (i + crate::simd::LANES).min(x.len());
            exp(Lanes::load_or(&x[i..end], 0.0) - top).store_part(&mut x[i..end]);
            i = end;
        }
    }
}

/// A number in [0, 1) that depends on the seed, the sequence and the step alone.
pub fn uniform(seed: u64, sequence: usize, step: usize) -> f64 {
    let mut x = seed ^ 0x9e37_79b9_7f4a_7c15;
    for part in [sequence as u64, step as u64] {
        // The finalizer of SplitMix64. Steele et al. 2014, https://doi.org/10.1145/2660193.2660195
        x = x.wrapping_add(part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// A random token by temperature, top-h, top-k, top-p, min-p, typical-p, epsilon and eta, in that order. `u` is
/// in [0, 1).
pub fn sample(o: &Options, logits: &[f32], u: f64) -> u32 {
    let Some((weights, total)) = weigh(o, logits) else { return argmax(logits) };
    if !filtered(o) {
        return draw(weights.iter().enumerate().map(|(i, &w)| (i as u32, f64::from(w))), total, u);
    }
    let kept = filter(o, &weights, total);
    let all = sum(&kept);
    draw(kept.into_iter(), all, u)
}

/// The probability of each token under `sample`, 0 for those that the filters drop.
pub fn probabilities(o: &Options, logits: &[f32]) -> Vec<f64> {
    let mut found = vec![0.0; logits.len()];
    let best = |found: &mut Vec<f64>| found[argmax(logits) as usize] = 1.0;
    if o.temperature == 0.0 {
        best(&mut found);
    } else if let Some((weights, total)) = weigh(o, logits) {
        let kept = filter(o, &weights, total);
        let all = sum(&kept);
        for (id, w) in kept {
            found[id as usize] = w / all;
        }
    } else {
        best(&mut found);
    }
    found
}

fn filtered(o: &Options) -> bool {
    o.top_k > 0
        || o.top_p < 1.0
        || o.min_p > 0.0
        || o.typical_p < 1.0
        || o.top_h > 0.0
        || o.epsilon_cutoff > 0.0
        || o.eta_cutoff > 0.0
}

fn sum(kept: &[(u32, f64)]) -> f64 {
    kept.iter().map(|k| k.1).sum()
}

/// Probabilities up to a factor, the likeliest 1, and their sum; none if the temperature leaves only the likeliest.
fn weigh(o: &Options, logits: &[f32]) -> Option<(Vec<f32>, f64)> {
    // The filters do not need normalized probabilities, only ratios to the likeliest.
    let mut weights: Vec<f32> = logits.iter().map(|&l| l / o.temperature as f32).collect();
    let peak = maximum(&weights);
    if peak.is_infinite() {
        return None;
    }
    exp_in_place(&mut weights, peak);
    let total = weights.iter().map(|&w| f64::from(w)).sum();
    Some((weights, total))
}

/// The tokens that may be drawn, at least one.
fn filter(o: &Options, weights: &[f32], total: f64) -> Vec<(u32, f64)> {
    // Tokens this rare lie outside of top_p together, so that most need not be sorted.
    let rare = if o.top_k == 0 && o.top_h == 0.0 && o.top_p < 1.0 {
        (1.0 - o.top_p) * total / weights.len() as f64
    } else {
        0.0
    };
    let mut kept: Vec<(u32, f64)> = weights
        .iter()
        .enumerate()
        .map(|(i, &w)| (i as u32, f64::from(w)))
        .filter(|&(_, w)| w > 0.0 && w >= rare.min(1.0))
        .collect();
    let heavier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if o.top_h > 0.0 {
        kept.sort_unstable_by(heavier);
        entropy_bounded(o.top_h, &mut kept);
    }
    if o.top_k > 0 && kept.len() > o.top_k {
        let at = o.top_k - 1;
        kept.select_nth_unstable_by(at, heavier);
        let least = kept[at].1;
        // Ties with the last are kept, as the reference does.
        let ties: Vec<(u32, f64)> = kept[o.top_k..].iter().copied().filter(|k| k.1 == least).collect();
        kept.truncate(o.top_k);
        kept.extend(ties);
    }
    kept.sort_unstable_by(heavier);
    if o.top_p < 1.0 {
        let all = if o.top_k > 0 || o.top_h > 0.0 { sum(&kept) } else { total };
        let mut before = 0.0;
        let count = kept.iter().take_while(|k| {
            let keep = before < o.top_p * all;
            before += k.1;
            keep
        });
        let count = count.count().max(1);
        kept.truncate(count);
    }
    let best = kept[0];
    if o.min_p > 0.0 {
        kept.retain(|k| k.1 >= o.min_p * best.1);
    }
    if o.typical_p < 1.0 {
        typical(o.typical_p, &mut kept);
    }
    // The likeliest of those left always stays.
    let cut = |kept: &mut Vec<(u32, f64)>, least: f64| {
        let all = sum(kept);
        let most = kept.iter().fold(0.0, |m: f64, k| m.max(k.1));
        kept.retain(|k| k.1 == most || k.1 / all >= least);
    };
    // Epsilon and eta: Hewitt et al. 2022, <https://arxiv.org/abs/2210.15191>
    if o.epsilon_cutoff > 0.0 {
        cut(&mut kept, o.epsilon_cutoff);
    }
    if o.eta_cutoff > 0.0 {
        let flat = (-entropy(&kept)).exp();
        cut(&mut kept, o.eta_cutoff.min(o.eta_cutoff.sqrt() * flat));
    }
    kept
}

fn entropy(kept: &[(u32, f64)]) -> f64 {
    let all = sum(kept);
    kept.iter().map(|k| k.1 / all * -log(k.1 / all)).sum()
}

/// Tokens that may be drawn under `top_h`.
const MOST_BY_ENTROPY: usize = 100;

/// Keeps the likeliest tokens up to a share of the entropy that the first hundred have. Potraghloo et al. 2025,
/// <https://arxiv.org/abs/2509.02510>
fn entropy_bounded(share: f64, kept: &mut Vec<(u32, f64)>) {
    kept.truncate(MOST_BY_ENTROPY);
    let all = sum(kept);
    let bound = share * entropy(kept);
    let mut so_far = 0.0;
    let count = kept.iter().take_while(|k| {
        so_far += k.1 / all * -log(k.1 / all);
        so_far <= bound
    });
    let count = count.count().max(1);
    kept.truncate(count);
}

/// Keeps the tokens whose information is nearest to the entropy, those as near as the last one included. Meister et
/// al. 2022, <https://arxiv.org/abs/2202.00666>
fn typical(mass: f64, kept: &mut Vec<(u32, f64)>) {
    let all = sum(kept);
    let entropy = entropy(kept);
    let distance = |k: &(u32, f64)| (-log(k.1 / all) - entropy).abs();
    kept.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.0.cmp(&b.0)));
    let mut before = 0.0;
    let count = kept.iter().take_while(|k| {
        let keep = before < mass * all;
        before += k.1;
        keep
    });
    let last = count.count().max(1) - 1;
    let farthest = distance(&kept[last]);
    kept.retain(|k| distance(k) <= farthest);
}

fn draw(weights: impl Iterator<Item = (u32, f64)>, total: f64, u: f64) -> u32 {
    let target = u * total;
    let mut sum = 0.0;
    let mut last = 0;
    for (id, w) in weights {
        if w > 0.0 {
            last = id;
            sum += w;
            if sum > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(o: &Options, logits: &[f32]) -> Vec<f64> {
        let n = 20_000;
        let mut counts = vec![0.0; logits.len()];
        for step in 0..n {
            counts[sample(o, logits, uniform(7, 3, step)) as usize] += 1.0 / f64::from(n as u32);
        }
        counts
    }

    #[test]
    fn samples_follow_the_probabilities() {
        let p = [0.5f64, 0.25, 0.15, 0.07, 0.03];
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let o = Options { temperature: 1.0, ..Options::default() };
        // Four standard deviations of a frequency over 20,000 draws are at most 0.0142.
        for (got, want) in frequencies(&o, &logits).iter().zip(p) {
            assert!((got - want).abs() < 0.0142, "{got} {want}");
        }
        let cut = |o: Options, kept: usize| {
            let o = Options { temperature: 1.0, ..o };
            let sum: f64 = p[..kept].iter().sum();
            for (i, got) in frequencies(&o, &logits).iter().enumerate() {
                let want = if i < kept { p[i] / sum } else { 0.0 };
                assert!((got - want).abs() < 0.0142, "{i} {got} {want}");
            }
        };
        cut(Options { top_k: 2, ..Options::default() }, 2);
        cut(Options { top_p: 0.8, ..Options::default() }, 3);
        cut(Options { min_p: 0.2, ..Options::default() }, 3);
        cut(Options { top_p: 1e-9, ..Options::default() }, 1);
        cut(Options { epsilon_cutoff: 0.1, ..Options::default() }, 3);
        cut(Options { epsilon_cutoff: 0.9, ..Options::default() }, 1);
        // The entropy is 1.26, so the bound is min(0.5, 0.71 e^-1.26 = 0.2).
        cut(Options { eta_cutoff: 0.5, ..Options::default() }, 2);
        // The first two tokens have 0.69 of the entropy's 1.26, the first three 0.98.
        cut(Options { top_h: 0.6, ..Options::default() }, 2);
        cut(Options { top_h: 1.0, ..Options::default() }, 5);
    }
}
