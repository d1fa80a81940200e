//! The accuracy of packing. The tests of all types together show that products have the same bits on every
//! level.

use super::fit::{self, Fitted};
use super::{GROUP, PANEL, SCALE_BIAS, SUPERBLOCK};
use crate::matmul::tests::packed;
use crate::simd::Level;
use crate::simd::testing::numbers;
use crate::tensor::WeightType;

/// Nearly normal, as weights are: sums of four draws.
fn weights(n: usize, seed: u32) -> Vec<f32> {
    let draws = numbers(4 * n, seed);
    draws.chunks(4).map(|four| four.iter().map(|v| v.clamp(-1.0, 1.0)).sum()).collect()
}

/// Blocks of 16 rows whose groups have very different magnitudes, lie far from zero, are constant or zero.
fn blocks() -> Vec<[[f32; PANEL]; SUPERBLOCK]> {
    let draws = weights(24 * SUPERBLOCK * PANEL, 31);
    let (blocks, _) = draws.as_chunks::<PANEL>().0.as_chunks::<SUPERBLOCK>();
    let mut blocks = blocks.to_vec();
    for (b, block) in blocks.iter_mut().enumerate() {
        for (k, x) in block.iter_mut().enumerate() {
            for (i, v) in x.iter_mut().enumerate() {
                *v = match (b + k / GROUP * 3 + i) % 8 {
                    0 => *v * 100.0,
                    1 => *v * 1e-3,
                    2 => 5.0 + *v * 0.01,
                    3 => -3.0,
                    4 if b % 2 == 0 => 0.0,
                    _ => *v,
                };
            }
        }
    }
    blocks
}

/// A weight as its block encodes it.
fn value(fitted: &Fitted, input: usize, row: usize, code: u8) -> f32 {
    let (scale, low) = (fitted.scales[input / GROUP][row], fitted.lows[input / GROUP][row]);
    let step = fitted.steps[row].to_f32() / SCALE_BIAS;
    step * (i32::from(scale) * i32::from(code) + i32::from(low)) as f32
}

#[test]
fn every_level_packs_the_same() {
    for mut x in blocks() {
        for inputs in [256, 255, 33, 32, 31, 2, 1] {
            x[inputs..].fill([0.0; PANEL]);
            let want = fit::block_at(Level::SCALAR, &x, inputs);
            for level in Level::present() {
                let got = fit::block_at(level, &x, inputs);
                assert!(got.steps == want.steps && got.scales == want.scales, "{level:?} {inputs}");
                assert!(got.lows == want.lows && got.codes == want.codes, "{level:?} {inputs}");
            }
        }
    }
}

#[test]
fn codes_are_the_nearest_and_bytes_fit() {
    for mut x in blocks() {
        for inputs in [256, 255, 33, 1] {
            x[inputs..].fill([0.0; PANEL]);
            let fitted = fit::block(&x, inputs);
            for (k, x) in x.iter().enumerate().take(inputs) {
                for (i, &want) in x.iter().enumerate() {
                    let (scale, low) = (fitted.scales[k / GROUP][i], fitted.lows[k / GROUP][i]);
                    assert!((1..=15).contains(&scale) && i16::from(low) + 15 * i16::from(scale) <= 127);
                    let off = |code| (value(&fitted, k, i, code) - want).abs();
                    let min = (0..16).map(off).fold(f32::INFINITY, f32::min);
                    // Either of two nearly equidistant codes: a product with an inverse differs from a
                    // quotient.
                    let slack = 4.0 * f32::EPSILON * want.abs();
                    assert!(off(fitted.codes[k][i]) <= min + slack, "{want} of {k} {i}");
                }
            }
        }
    }
}

/// Minimal squared error of a group with 16 evenly spaced numbers: the best line through the codes of many
/// ranges.
fn best_alone(x: &[f64]) -> f64 {
    let low = x.iter().copied().fold(f64::INFINITY, f64::min);
    let span = x.iter().copied().fold(f64::NEG_INFINITY, f64::max) - low;
    let n = x.len() as f64;
    (0..120)
        .map(|i| {
            let codes: Vec<f64> = x
                .iter()
                .map(|v| ((v - low) / span * (13.0 + 0.03 * f64::from(i))).round().min(15.0))
                .collect();
            let (mean_x, mean_code) = (x.iter().sum::<f64>() / n, codes.iter().sum::<f64>() / n);
            let both = x.iter().zip(&codes).map(|(x, code)| (x - mean_x) * (code - mean_code));
            let slope = both.sum::<f64>() / codes.iter().map(|code| (code - mean_code).powi(2)).sum::<f64>();
            let errors = x.iter().zip(&codes).map(|(x, code)| x - mean_x - slope * (code - mean_code));
            errors.map(|v| v * v).sum::<f64>()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Integer scales and lows, and one step for all groups of a block, cost little.
#[test]
fn groups_have_nearly_the_minimal_error_of_four_bits() {
    let (outputs, inputs) = (64, 1024);
    let values = weights(outputs * inputs, 23);
    let w = packed(&values, outputs, inputs, WeightType::Q4);
    let mut row = vec![0.0; inputs];
    let (mut error, mut min) = (0.0, 0.0);
    for (i, want) in values.chunks(inputs).enumerate() {
        w.row_into(i, &mut row);
        error += row.iter().zip(want).map(|(got, want)| f64::from(got - want).powi(2)).sum::<f64>();
        let want: Vec<f64> = want.iter().map(|&v| v.into()).collect();
        min += want.chunks(GROUP).map(best_alone).sum::<f64>();
    }
    // The error is 1.038 times the minimum; with the smallest step alone 1.06, without lows beside the center
    // 1.057.
    assert!(error < 1.045 * min, "{error} of {min}");
}

#[test]
fn rows_of_a_matrix_are_what_their_blocks_say() {
    let (outputs, inputs) = (16, 300);
    let values = weights(outputs * inputs, 3);
    let w = packed(&values, outputs, inputs, WeightType::Q4);
    let mut row = vec![0.0; inputs];
    for (i, want) in values.chunks(inputs).enumerate() {
        w.row_into(i, &mut row);
        for (got, want) in row.chunks(SUPERBLOCK).zip(want.chunks(SUPERBLOCK)) {
            let mut x = [[0.0; PANEL]; SUPERBLOCK];
            x.iter_mut().zip(want).for_each(|(x, v)| x[5] = *v);
            let fitted = fit::block(&x, want.len());
            let want: Vec<f32> = (0..want.len()).map(|k| value(&fitted, k, 5, fitted.codes[k][5])).collect();
            assert_eq!(got, want);
        }
    }
}

#[test]
fn equal_weights_stay_as_they_are() {
    for inputs in [1, 2, 31, 32, 33, 256, 300] {
        for value in [0.270_650_18f32, -0.270_650_18, 0.0, 1e-4, -300.0] {
            let w = packed(&vec![value; 16 * inputs], 16, inputs, WeightType::Q4);
            let mut row = vec![0.0; inputs];
            w.row_into(3, &mut row);
            // Steps times the largest or the smallest byte: only the step is rounded, to f16.
            assert!(
                row.iter().all(|v| (v - value).abs() <= value.abs() / 2048.0),
                "{value} {inputs} {row:?}"
            );
        }
    }
}
