//! Every kernel equals portable code to the bit, for any number of rows, and portable code equals the
//! definition.

use super::activations::{ActivationView, Input, MAX_I16_CODE, PackedActivations, Packing, nearest_half};
use super::driver::product;
use super::epilogue::{Destination, PanelResults, epilogue_at};
use super::layout::Layout;
use super::select::{self, Products};
use super::subproduct::Subproduct;
use super::{Activations, Matrix, PANEL, q8};
use crate::simd::testing::{every_level_equals_portable, numbers, with_extremes};
use crate::simd::{Activation, Level};
use crate::tensor::{Buffer, DType, Disjoint, Source, WeightType};
use crate::threads::Pool;
use half::bf16;
use std::ops::Range;

pub fn packed(values: &[f32], outputs: usize, inputs: usize, to: WeightType) -> Matrix {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let source = Source::new(&bytes, DType::F32, [outputs, inputs], [inputs, 1]).expect("fits");
    Pool::new(2).run_alone(|team| Matrix::pack(&source, to, team)).expect("finite")
}

fn results(level: Level, w: &Matrix, x: &[f32], rows: usize) -> Vec<f32> {
    results_of(level, Products::of(w, level, rows), w, x, rows)
}

fn results_of(level: Level, products: Products, w: &Matrix, x: &[f32], rows: usize) -> Vec<f32> {
    let mut packed_x = PackedActivations::default();
    let x = prepared(&mut packed_x, level, products, x.into(), rows, w.inputs(), false);
    tiles(level, products, w, x, 0..x.packed.tiles.len())
}

fn prepared<'a>(
    packed_x: &'a mut PackedActivations,
    level: Level,
    products: Products,
    x: Input<'a>,
    rows: usize,
    inputs: usize,
    by_rows: bool,
) -> ActivationView<'a> {
    Pool::new(2).run_alone(|team| {
        let packing = Packing { by_rows, ..products.packing(level, rows, inputs) };
        packed_x.pack(team, level, packing, x, 0..rows, inputs)
    })
}

/// Results of some tiles, `[panel][row][16]`.
fn tiles(
    level: Level,
    products: Products,
    w: &Matrix,
    x: ActivationView<'_>,
    tiles: Range<usize>,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; w.panels() * x.packed.rows_of(&tiles).1 * PANEL];
    let part = Subproduct { weight: w, panels: 0..w.panels(), x, tiles, rows: x.packed.rows };
    match products {
        Products::Float(layout) => {
            (select::of(level).float.product)(layout, part, &mut Buffer::default(), &mut out);
        }
        _ => product(level, part, &mut Buffer::default(), &mut out),
    }
    out
}

/// Row-major activations, where the kernels take them, give the results of interleaved ones, also for a
/// single tile.
fn check_rows(level: Level, w: &Matrix, x: &[f32], rows: usize, want: &[f32]) {
    let products = Products::of(w, level, rows);
    if !products.prefers_rows(rows, w.inputs()) {
        return;
    }
    let mut packed_x = PackedActivations::default();
    let x = prepared(&mut packed_x, level, products, x.into(), rows, w.inputs(), true);
    let last = x.packed.tiles.len() - 1;
    for part in [0..last + 1, last..last + 1] {
        let (first, n) = x.packed.rows_of(&part);
        let want = want.chunks(rows * PANEL).flat_map(|p| bits(&p[first * PANEL..][..n * PANEL]));
        let got = tiles(level, products, w, x, part.clone());
        assert!(want.eq(bits(&got)), "{level:?} {:?} rows {rows} tiles {part:?}", w.weight_type());
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

const ALL: [(WeightType, Activations); 9] = [
    (WeightType::F32, Activations::Int16),
    (WeightType::Bf16, Activations::Int16),
    (WeightType::Bf16, Activations::Bf16),
    (WeightType::F16, Activations::Int16),
    (WeightType::Q8, Activations::Int16),
    (WeightType::Q8, Activations::Int8),
    (WeightType::Q6, Activations::Int16),
    (WeightType::Q6, Activations::Int8),
    (WeightType::Q4, Activations::Int16),
];

#[test]
fn every_level_equals_scalar_code_for_any_number_of_rows() {
    for (outputs, inputs) in [(1, 1), (33, 300), (48, 64), (17, 1312), (16, 1024)] {
        let values = numbers(outputs * inputs, 7);
        for (to, activations) in ALL {
            let w = packed(&values, outputs, inputs, to).with_activations(activations);
            let mut first: Vec<Vec<u32>> = Vec::new();
            let all = numbers(40 * inputs, 3);
            for rows in (1..=29).chain([33, 40]) {
                let x = &all[..rows * inputs];
                let want = results(Level::SCALAR, &w, x, rows);
                assert!(want.iter().all(|v| v.is_finite()));
                for level in Level::present() {
                    let got = results(level, &w, x, rows);
                    assert!(
                        bits(&want) == bits(&got),
                        "{level:?} {to:?} {activations:?} {outputs}x{inputs} rows {rows}"
                    );
                    check_rows(level, &w, x, rows, &want);
                }
                // The first row is the same each time, and so are its results.
                first.push(want.chunks(rows * PANEL).flat_map(|p| bits(&p[..PANEL])).collect());
            }
            assert!(first.windows(2).all(|a| a[0] == a[1]), "{to:?}: rows beside it change nothing");
        }
    }
}

/// Rows that are read in place and rows that are copied in blocks.
#[test]
fn rows_with_weights_of_their_own_give_the_bits_of_each_alone() {
    use super::{Scratch, Target, linear, linear_each};
    use WeightType::{Bf16, F16, F32, Q4, Q6, Q8};
    for (outputs, inputs) in [(40, 300), (16, 32), (333, 48), (7, 5)] {
        for kinds in [[F32; 4], [F16; 4], [Bf16; 4], [Q8; 4], [Q6; 4], [Q4; 4], [Q8, F32, Q4, Q8]] {
            let matrix = |(i, &kind): (usize, &WeightType)| {
                packed(&numbers(outputs * inputs, 40 + i as u32), outputs, inputs, kind)
            };
            let matrices: Vec<Matrix> = kinds.iter().enumerate().map(matrix).collect();
            let (x, bias) = (numbers(4 * inputs, 50), numbers(outputs, 51));
            for threads in [1, 2, 3] {
                let (mut got, mut want) = (vec![0.0; 4 * outputs], vec![0.0; 4 * outputs]);
                let mut scratch = Scratch::default();
                Pool::new(threads).run_alone(|team| {
                    let parts = got.chunks_exact_mut(outputs).zip(&matrices);
                    let targets: Vec<_> = parts.map(|(out, w)| Target::new(w, Some(&bias), out)).collect();
                    linear_each(team, &mut scratch, &x, &targets);
                    let rows = x.chunks_exact(inputs).zip(want.chunks_exact_mut(outputs)).zip(&matrices);
                    for ((x, out), w) in rows {
                        linear(team, &mut scratch, x.into(), 1, &[Target::new(w, Some(&bias), out)]);
                    }
                });
                assert_eq!(bits(&got), bits(&want), "{kinds:?} {outputs} x {inputs}, {threads} threads");
            }
        }
    }
}

#[test]
fn a_prologue_changes_its_rows_alone() {
    let prologue = |row: usize, x: &[f32], to: &mut [f32]| {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = x * (row as f32 - 3.5));
    };
    let rows = 19;
    for inputs in [300, 1312, 2048] {
        let (values, x) = (numbers(16 * inputs, 7), numbers(rows * inputs, 3));
        let mut after = vec![0.0; x.len()];
        for (row, (x, to)) in x.chunks(inputs).zip(after.chunks_mut(inputs)).enumerate() {
            prologue(row, x, to);
        }
        for (to, activations) in ALL {
            let w = packed(&values, 16, inputs, to).with_activations(activations);
            for level in Level::present() {
                let products = Products::of(&w, level, rows);
                let mut packed_x = PackedActivations::default();
                let input = Input { values: &x, prologue: Some(&prologue) };
                let made = prepared(&mut packed_x, level, products, input, rows, inputs, false);
                let got = tiles(level, products, &w, made, 0..made.packed.tiles.len());
                assert_eq!(bits(&results(level, &w, &after, rows)), bits(&got), "{level:?} {to:?} {inputs}");
            }
        }
    }
}

/// The nearest bf16 of the `half` crate, with subnormal values as zeros.
fn rounded(x: f32) -> f32 {
    let near = bf16::from_f32(x).to_f32();
    if near.is_subnormal() { 0.0f32.copysign(near) } else { near }
}

#[test]
fn activations_are_rounded_to_the_nearest_bf16() {
    let mut values: Vec<f32> = (0..1 << 16).map(|high| f32::from_bits(high << 16)).collect();
    // Each bf16, the number halfway to the next, and the neighbors of that.
    values = values
        .iter()
        .flat_map(|v| [0, 0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits(v.to_bits() | low)))
        .collect();
    for v in values {
        let got = f32::from_bits(nearest_half(v));
        assert!(got.to_bits() == rounded(v).to_bits() || got.is_nan() && v.is_nan(), "{v:e} becomes {got:e}");
    }
}

/// With and without the CPU's products of pairs, against the definition.
#[test]
fn products_with_rounded_activations_are_chains_over_pairs() {
    for (outputs, inputs, rows) in [(1, 1, 1), (70, 301, 3), (33, 255, 5), (64, 512, 29)] {
        let w = packed(&numbers(outputs * inputs, 9), outputs, inputs, WeightType::Bf16)
            .with_activations(Activations::Bf16);
        let x = numbers(rows * inputs, 4);
        let mut weights = vec![0.0; inputs];
        let mut want = vec![0.0; w.panels() * rows * PANEL];
        for output in 0..outputs {
            w.row_into(output, &mut weights);
            for row in 0..rows {
                let x: Vec<f32> = x[row * inputs..][..inputs].iter().map(|&v| rounded(v)).collect();
                want[(output / PANEL * rows + row) * PANEL + output % PANEL] = x
                    .chunks(2)
                    .zip(weights.chunks(2))
                    .flat_map(|(x, w)| x.iter().zip(w).rev())
                    .fold(0.0, |c, (x, w)| x.mul_add(*w, c));
            }
        }
        for level in Level::present() {
            for products in [Products::of(&w, level, rows), Products::Float(Layout::Bf16AsF32)] {
                let got = results_of(level, products, &w, &x, rows);
                assert!(bits(&want) == bits(&got), "{level:?} {:?} {outputs}x{inputs}", products.layout());
            }
        }
    }
}

/// Each activation is off by at most 2^-9 of itself, half a unit in the last of 8 bits; sums of both kinds by
/// their roundings.
#[test]
fn bf16_activations_are_within_their_rounding() {
    let (outputs, inputs, rows) = (32, 544, 5);
    let x = numbers(rows * inputs, 5);
    let make = |activations| {
        let w = packed(&numbers(outputs * inputs, 11), outputs, inputs, WeightType::Bf16);
        w.with_activations(activations)
    };
    let (plain, w) = (make(Activations::Int16), make(Activations::Bf16));
    let (want, got) = (results(Level::SCALAR, &plain, &x, rows), results(Level::SCALAR, &w, &x, rows));
    let mut weights = vec![0.0; inputs];
    let mut differ = 0;
    for output in 0..outputs {
        w.row_into(output, &mut weights);
        for row in 0..rows {
            let x = &x[row * inputs..][..inputs];
            let magnitude: f64 = weights.iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum();
            let bound = magnitude * (1.0 / 512.0 + 2.02 * inputs as f64 / f64::from(1 << 24));
            let at = (output / PANEL * rows + row) * PANEL + output % PANEL;
            assert!(f64::from((got[at] - want[at]).abs()) <= bound, "{} is not {}", got[at], want[at]);
            differ += usize::from(got[at] != want[at]);
        }
    }
    assert!(differ > outputs * rows / 2, "activations are rounded");
}

/// |result - exact| is bounded by the rounding of weights and activations that the formats state.
#[test]
fn quantized_products_are_within_their_rounding() {
    let (outputs, inputs, rows) = (32, 544, 5);
    let values = numbers(outputs * inputs, 11);
    let x = numbers(rows * inputs, 5);
    for (to, activations) in &ALL[4..] {
        let w = packed(&values, outputs, inputs, *to).with_activations(*activations);
        let got = results(Level::SCALAR, &w, &x, rows);
        let mut weights = vec![0.0f32; inputs];
        for output in 0..outputs {
            w.row_into(output, &mut weights);
            for row in 0..rows {
                let x = &x[row * inputs..][..inputs];
                let exact: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                // Each activation is off by at most half a step of its block or group.
                let (size, max_code) = match (to, activations) {
                    (WeightType::Q4, _) => (256, 127.0),
                    (_, Activations::Int8) => (32, 127.0),
                    _ => (256, f64::from(MAX_I16_CODE)),
                };
                let bound: f64 = weights
                    .chunks(size)
                    .zip(x.chunks(size))
                    .map(|(w, x)| {
                        let top = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                        let sum: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
                        f64::from(top) / max_code / 2.0 * sum
                    })
                    .sum();
                let magnitude: f64 = weights.iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum();
                let rounding = magnitude * 64.0 * f64::from(f32::EPSILON);
                let got = f64::from(got[(output / PANEL * rows + row) * PANEL + output % PANEL]);
                assert!(
                    (got - exact).abs() <= bound + rounding,
                    "{to:?} {activations:?}: {got} is not {exact}"
                );
            }
        }
    }
}

/// Lowest (at most 0) and highest (at least 0) value.
fn span(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0f32, 0.0f32), |(low, high), &v| (low.min(v), high.max(v)))
}

/// Error of plain rounding: a scale of the largest magnitude / `max_code` and nearest codes.
fn plainly_rounded(group: &[f32], max_code: f64) -> f64 {
    let (low, high) = span(group);
    let step = f64::from(high.max(-low)) / max_code;
    group.iter().map(|&v| (f64::from(v) - (f64::from(v) / step).round_ties_even() * step).powi(2)).sum()
}

const GROUPED: [(WeightType, f32); 2] = [(WeightType::Q8, 127.0), (WeightType::Q6, 31.0)];

#[test]
fn scales_leave_a_small_error() {
    let (outputs, inputs) = (320, 333);
    // Nearly normal, as weights are.
    let values: Vec<f32> = numbers(4 * outputs * inputs, 23)
        .chunks(4)
        .map(|four| four.iter().map(|v| v.clamp(-1.0, 1.0)).sum())
        .collect();
    let mut row = vec![0.0; inputs];
    for (to, max_code) in GROUPED {
        let w = packed(&values, outputs, inputs, to);
        let (mut all, mut all_plain) = (0.0, 0.0);
        for (i, want) in values.chunks(inputs).enumerate() {
            w.row_into(i, &mut row);
            for (got, want) in row.chunks(32).zip(want.chunks(32)) {
                let error: f64 = got.iter().zip(want).map(|(&g, &v)| f64::from(g - v).powi(2)).sum();
                let squares: f64 = want.iter().map(|&v| f64::from(v).powi(2)).sum();
                let plain = plainly_rounded(want, max_code.into());
                // The plain codes are among those tried, their best scale leaves no more error than the plain
                // one, and rounding it to 11 bits moves each value by at most 2^-11. Sums of squares are
                // compared in f32.
                let rounding = squares * (2f64.powi(-22) + 4.0 * f64::from(f32::EPSILON));
                assert!(error <= plain + rounding, "{to:?}: {error} > {plain} in {want:?}");
                (all, all_plain) = (all + error, all_plain + plain);
            }
        }
        assert!(all < 0.9 * all_plain, "{to:?}: {all} of {all_plain}: the best of many leaves clearly less");
    }
}

#[test]
fn weights_that_fit_the_codes_stay_as_they_are() {
    for (to, max_code) in GROUPED {
        // Integer multiples, at most `max_code` times and once exactly that, of scales that are exact in f16.
        let scales = [1.0f32, 2f32.powi(-9), 1.5 * 2f32.powi(-12), 1023.0 * 2f32.powi(-20)];
        let codes = numbers(16 * 333, 9);
        let mut values = vec![0.0; 16 * 333];
        for (r, row) in values.chunks_mut(333).enumerate() {
            for (k, v) in row.iter_mut().enumerate() {
                let code = if k % 32 == 5 {
                    -max_code
                } else {
                    (codes[r * 333 + k] * 100.0).clamp(-max_code, max_code)
                };
                // The second group is zero.
                *v = if k / 32 == 1 { 0.0 } else { code.round() * scales[(r + k / 32) % 4] };
            }
        }
        let w = packed(&values, 16, 333, to);
        let mut row = vec![0.0; 333];
        for (i, want) in values.chunks(333).enumerate() {
            w.row_into(i, &mut row);
            assert_eq!(row, want, "{to:?}");
        }
    }
}

#[test]
fn every_level_packs_the_same() {
    let values = numbers(16 * 32 * 40, 31);
    for x in values.as_chunks::<PANEL>().0.as_chunks::<32>().0 {
        let want = q8::fit::group_at(Level::SCALAR, x, 127.0, 0.375);
        for level in Level::present() {
            let got = q8::fit::group_at(level, x, 127.0, 0.375);
            assert!(got.codes == want.codes && got.scales == want.scales, "{level:?}");
        }
    }
}

#[test]
fn every_level_applies_the_same_epilogue() {
    let (rows, stride) = (3, 21);
    let bias = numbers(2 * PANEL, 8);
    for activation in Activation::ALL {
        for (seed, n) in (1..).zip([1, 7, 15, 16]) {
            for values in [numbers(rows * PANEL, seed), with_extremes(rows * PANEL, seed)] {
                let gate = numbers(rows * PANEL, seed + 9);
                for options in 0..16 {
                    let [gated, biased, gate_biased, added] = [1, 2, 4, 8].map(|bit| options & bit > 0);
                    every_level_equals_portable(&(activation, n, options, values[0]), &|level| {
                        let mut out = numbers(rows * stride, 2);
                        let y = PanelResults::new(&values, biased.then_some(&bias[..PANEL + n]), PANEL);
                        let gate = PanelResults::new(&gate, gate_biased.then_some(&bias[..n]), 0);
                        let to = Destination {
                            out: &Disjoint::new(&mut out),
                            at: 2,
                            stride,
                            n,
                            add: added.then_some(0.3),
                        };
                        epilogue_at(level, y, gated.then_some(gate), activation, to);
                        out
                    });
                }
            }
        }
    }
}

#[test]
fn weights_that_are_not_finite_or_too_large_are_refused() {
    for (value, to) in [
        (f32::NAN, WeightType::Q8),
        (f32::INFINITY, WeightType::Q4),
        (1e9, WeightType::Q8),
        (1e9, WeightType::Q6),
        (1e9, WeightType::Q4),
    ] {
        let mut values = numbers(64, 1);
        values[40] = value;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let source = Source::new(&bytes, DType::F32, [2, 32], [32, 1]).expect("fits");
        let packed = Pool::new(1).run_alone(|team| Matrix::pack(&source, to, team));
        let error = packed.err().expect("refused").to_string();
        assert!(error.contains("the weight at [1, 8] is"), "{error}");
    }
}

#[test]
fn activations_that_are_not_finite_show_in_the_results() {
    let values = numbers(16 * 64, 1);
    for (to, activations) in ALL {
        let w = packed(&values, 16, 64, to).with_activations(activations);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = numbers(64, 2);
            x[33] = bad;
            for level in Level::present() {
                assert!(results(level, &w, &x, 1).iter().all(|v| !v.is_finite()), "{to:?} {level:?} {bad}");
            }
        }
    }
}
