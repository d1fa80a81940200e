//! Sampling: the most probable token, or a random one of those that pass the filters.

use super::options::Options;
use crate::matmul::PIECE;
use crate::ops::top_logits::{TopK, argmax};
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

/// Reused memory of draws.
#[derive(Debug, Default)]
pub struct Scratch {
    weights: Vec<f32>,
    /// Sums of each [`PIECE`] of weights.
    pieces: Vec<f64>,
    kept: Vec<(u32, f64)>,
    best: TopK,
}

/// A random token by temperature, top-h, top-k, top-p, min-p, typical-p, epsilon and eta, in that order. `u`
/// is in [0, 1).
pub fn sample(o: &Options, logits: &[f32], u: f64, scratch: &mut Scratch) -> u32 {
    if !filtered(o) {
        let Some(total) = weigh(o, logits, scratch) else { return argmax(logits) };
        return draw_any(scratch, u * total);
    }
    if !keep(o, logits, scratch) {
        return argmax(logits);
    }
    draw(&scratch.kept, u * sum(&scratch.kept))
}

/// The probability of each token under `sample`, 0 for those that the filters drop.
pub fn probabilities(o: &Options, logits: &[f32]) -> Vec<f64> {
    let mut found = vec![0.0; logits.len()];
    let mut scratch = Scratch::default();
    if o.temperature > 0.0 && keep(o, logits, &mut scratch) {
        let all = sum(&scratch.kept);
        for &(id, w) in &scratch.kept {
            found[id as usize] = w / all;
        }
    } else {
        found[argmax(logits) as usize] = 1.0;
    }
    found
}

/// Maximum `top_k` that is selected without sorting; beyond, all tokens are weighed and sorted.
const MAX_TOP_K: usize = 1024;

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

/// Probabilities of all tokens up to a factor, 1 for the most probable one, and their sum; none if the
/// temperature leaves only that one.
fn weigh(o: &Options, logits: &[f32], scratch: &mut Scratch) -> Option<f64> {
    // The filters do not need normalized probabilities, only ratios to the most probable token.
    let Scratch { weights, pieces, .. } = scratch;
    weights.clear();
    weights.extend(logits.iter().map(|&l| l / o.temperature as f32));
    let peak = maximum(weights);
    if peak.is_infinite() {
        return None;
    }
    exp_in_place(weights, peak);
    pieces.clear();
    pieces.extend(weights.chunks(PIECE).map(|piece| {
        // In lanes: a single chain of additions is bound by latency.
        let mut lanes = [0.0; 8];
        for part in piece.chunks(lanes.len()) {
            lanes.iter_mut().zip(part).for_each(|(lane, &w)| *lane += f64::from(w));
        }
        lanes.iter().sum::<f64>()
    }));
    Some(pieces.iter().sum())
}

/// Keeps the `top_k` most probable tokens and, as the reference does, all ties with the last of them, without
/// weighing the others; false if the temperature leaves only one token.
fn keep_top(o: &Options, logits: &[f32], scratch: &mut Scratch) -> bool {
    let Scratch { weights, kept, best, .. } = scratch;
    let scaled = |logit: f32| logit / o.temperature as f32;
    let best = best.of(logits, o.top_k);
    let (peak, min) = (scaled(best[0].1), scaled(best[best.len() - 1].1));
    if peak.is_infinite() {
        return false;
    }
    weights.clear();
    for (number, piece) in logits.chunks(PIECE).enumerate() {
        if scaled(maximum(piece)) >= min {
            let near = (number * PIECE..).zip(piece).filter(|&(_, &logit)| scaled(logit) >= min);
            for (id, &logit) in near {
                kept.push((id as u32, 0.0));
                weights.push(scaled(logit));
            }
        }
    }
    exp_in_place(weights, peak);
    kept.iter_mut().zip(weights).for_each(|(kept, w)| kept.1 = f64::from(*w));
    kept.retain(|k| k.1 > 0.0);
    true
}

/// Makes `scratch.kept` the tokens that may be drawn, at least one; false if the temperature leaves only one
/// token.
fn keep(o: &Options, logits: &[f32], scratch: &mut Scratch) -> bool {
    scratch.kept.clear();
    let heavier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut total = None;
    if (1..=MAX_TOP_K).contains(&o.top_k) && o.top_h == 0.0 {
        if !keep_top(o, logits, scratch) {
            return false;
        }
    } else {
        let Some(all) = weigh(o, logits, scratch) else { return false };
        total = (o.top_k == 0 && o.top_h == 0.0).then_some(all);
        // Tokens this rare lie outside of top_p together, so that most need not be sorted.
        let rare = match total {
            Some(total) if o.top_p < 1.0 => ((1.0 - o.top_p) * total / logits.len() as f64).min(1.0),
            _ => 0.0,
        };
        let Scratch { weights, kept, .. } = scratch;
        let all = weights.iter().enumerate().map(|(i, &w)| (i as u32, f64::from(w)));
        kept.extend(all.filter(|&(_, w)| w > 0.0 && w >= rare));
        if o.top_h > 0.0 {
            kept.sort_unstable_by(heavier);
            entropy_bounded(o.top_h, kept);
        }
        if o.top_k > 0 && kept.len() > o.top_k {
            let at = o.top_k - 1;
            kept.select_nth_unstable_by(at, heavier);
            let min = kept[at].1;
            kept.retain(|k| k.1 >= min);
        }
    }
    let kept = &mut scratch.kept;
    kept.sort_unstable_by(heavier);
    if o.top_p < 1.0 {
        let all = total.unwrap_or_else(|| sum(kept));
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
        typical(o.typical_p, kept);
    }
    // The most probable token always stays.
    let cut = |kept: &mut Vec<(u32, f64)>, min: f64| {
        let all = sum(kept);
        let max = kept.iter().fold(0.0, |m: f64, k| m.max(k.1));
        kept.retain(|k| k.1 == max || k.1 / all >= min);
    };
    // Epsilon and eta: Hewitt et al. 2022, <https://arxiv.org/abs/2210.15191>
    if o.epsilon_cutoff > 0.0 {
        cut(kept, o.epsilon_cutoff);
    }
    if o.eta_cutoff > 0.0 {
        let flat = (-entropy(kept)).exp();
        cut(kept, o.eta_cutoff.min(o.eta_cutoff.sqrt() * flat));
    }
    true
}

fn entropy(kept: &[(u32, f64)]) -> f64 {
    let all = sum(kept);
    kept.iter().map(|k| k.1 / all * -log(k.1 / all)).sum()
}

/// Tokens that may be drawn under `top_h`.
const MAX_BY_ENTROPY: usize = 100;

/// Keeps the most probable tokens up to a share of the entropy that the first hundred have. Potraghloo et al.
/// 2025, <https://arxiv.org/abs/2509.02510>
fn entropy_bounded(share: f64, kept: &mut Vec<(u32, f64)>) {
    kept.truncate(MAX_BY_ENTROPY);
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

/// Keeps the tokens whose information is nearest to the entropy, those as near as the last one included.
/// Meister et al. 2022, <https://arxiv.org/abs/2202.00666>
fn typical(mass: f64, kept: &mut Vec<(u32, f64)>) {
    let all = sum(kept);
    let entropy = entropy(kept);
    let distance = |k: &(u32, f64)| (-log(k.1 / all) - entropy).abs();
    kept.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.0.cmp(&b.0)));
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

/// The token at which the sum of weights exceeds `target`.
fn draw(weights: &[(u32, f64)], target: f64) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for &(id, w) in weights.iter().filter(|k| k.1 > 0.0) {
        last = id;
        sum += w;
        if sum > target {
            break;
        }
    }
    last
}

/// The same over all tokens: first the piece, then the token in it.
fn draw_any(scratch: &mut Scratch, mut target: f64) -> u32 {
    let Scratch { weights, pieces, kept, .. } = scratch;
    let mut chosen = None;
    for (number, &sum) in pieces.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        if let Some(before) = chosen.replace(number) {
            target -= pieces[before];
        }
        if sum > target {
            break;
        }
    }
    let chosen = chosen.unwrap_or(0);
    let piece = weights.chunks(PIECE).nth(chosen).unwrap_or(&[]);
    kept.clear();
    kept.extend((chosen * PIECE..).zip(piece).map(|(id, &w)| (id as u32, f64::from(w))));
    draw(kept, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(o: &Options, logits: &[f32]) -> Vec<f64> {
        let n = 20_000;
        let mut counts = vec![0.0; logits.len()];
        for step in 0..n {
            counts[sample(o, logits, uniform(7, 3, step), &mut Scratch::default()) as usize] +=
                1.0 / f64::from(n as u32);
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

    /// Numbers with many ties, over several pieces.
    fn vocabulary(seed: usize) -> Vec<f32> {
        (0..700).map(|i| ((i * 7919 + seed * 104_729) % 97) as f32 / 8.0 - 6.0).collect()
    }

    #[test]
    fn the_most_probable_are_kept_with_their_ties() {
        for (seed, top_k) in [1, 2, 50, 300, 699, 900].into_iter().enumerate() {
            for temperature in [0.3, 1.0, 7.0] {
                let logits = vocabulary(seed);
                let o = Options { temperature, top_k, ..Options::default() };
                let scaled: Vec<f32> = logits.iter().map(|&l| l / temperature as f32).collect();
                let mut sorted = scaled.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let min = sorted[top_k.min(sorted.len()) - 1];
                let total: f64 = scaled.iter().filter(|&&l| l >= min).map(|&l| f64::from(l).exp()).sum();
                for (&l, got) in scaled.iter().zip(probabilities(&o, &logits)) {
                    let want = if l >= min { f64::from(l).exp() / total } else { 0.0 };
                    // The exponentials have some units in the last place of f32.
                    assert!((got - want).abs() <= 2e-6 * want, "{top_k} {temperature} {got} {want}");
                }
            }
        }
    }

    #[test]
    fn a_draw_hits_the_token_whose_share_it_is() {
        let logits = vocabulary(3);
        let o = Options { temperature: 0.8, ..Options::default() };
        let p = probabilities(&o, &logits);
        let mut before = 0.0;
        for (id, p) in p.into_iter().enumerate() {
            let got = sample(&o, &logits, before + p / 2.0, &mut Scratch::default());
            assert_eq!(got as usize, id);
            before += p;
        }
        assert_eq!(sample(&o, &logits, 1.0, &mut Scratch::default()), 699);
    }

    #[test]
    fn every_level_gives_equal_exponentials() {
        use crate::simd::testing::{every_level_equals_portable, with_extremes};
        for length in 0..67 {
            let x = with_extremes(length, 3);
            every_level_equals_portable(&length, &|level| {
                let mut x = x.clone();
                exp_in_place_at(level, &mut x, 0.7);
                x
            });
        }
    }
}
