//! Equal bits on every instruction set.

use super::TILE;
use super::tile::{exp_one_at, exp_scores_at, merge_at};
use crate::simd::LANES;
use crate::simd::testing::{every_level_equals_portable, numbers, with_extremes};

#[test]
fn every_level_exponentiates_scores_equally() {
    for length in (LANES..=TILE).step_by(LANES) {
        let visible =
            [(0, length), (0, 1), (3, length - 2), (length - 1, length), (5, 5), (7, length.min(17))];
        for ((from, to), seed) in visible.into_iter().zip(1..) {
            for softcap in [0.0, 2.5] {
                for biased in [0, 1, length - 3, length] {
                    let bias = numbers(biased, 9);
                    for scores in [numbers(length, seed), with_extremes(length, seed), vec![f32::NAN; length]]
                    {
                        let what = (length, from, to, softcap, biased, scores[0]);
                        every_level_equals_portable(&what, &|level| {
                            let mut row = scores.clone();
                            let (m, sum) = exp_scores_at(level, &mut row, from, to, 0.3, softcap, &bias);
                            if sum.is_nan() {
                                // Such a row has no defined contents.
                                row.fill(f32::NAN);
                            }
                            // A maximum of zero may have either sign.
                            row.extend([if sum.is_nan() { sum } else { m + 0.0 }, sum]);
                            row
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn every_level_merges_tiles_equally() {
    for dim in 1..70 {
        for (total, part) in
            [(numbers(dim, 1), numbers(dim, 2)), (with_extremes(dim, 3), with_extremes(dim, 4))]
        {
            for (a, b) in [(1.0, 0.3), (0.7, 1.0), (0.0, 1.0), (1e-40, 1.0)] {
                every_level_equals_portable(&(dim, a, b), &|level| {
                    let mut o = total.clone();
                    merge_at(level, &mut o, a, &part, b);
                    o
                });
            }
        }
    }
    let differences =
        [numbers(100, 5), with_extremes(100, 6), (0..200).map(|i| i as f32 * -0.55).collect()].concat();
    every_level_equals_portable(&"exp_one", &|level| {
        differences.iter().map(|&x| exp_one_at(level, x)).collect()
    });
}
