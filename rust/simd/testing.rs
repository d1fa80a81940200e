//! Shared by tests of kernels: numbers, and the comparison of every instruction set with portable code.

use super::Level;
use std::fmt::Debug;

/// Deterministic numbers in (-1, 1), some of them large, some zero.
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let unit = (state >> 8) as f32 / 8_388_608.0 - 1.0;
            match state % 61 {
                0 => 0.0,
                1 => unit * 20.0,
                _ => unit,
            }
        })
        .collect()
}

/// The same, every fifth one from the edges of f32.
pub fn with_extremes(count: usize, seed: u32) -> Vec<f32> {
    let edges =
        [f32::MAX, -0.0, 1e-40, f32::NEG_INFINITY, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN, 88.8, -104.0];
    let mut found = numbers(count, seed);
    for (i, v) in found.iter_mut().skip(seed as usize % 5).step_by(5).enumerate() {
        *v = edges[(i + seed as usize) % edges.len()];
    }
    found
}

/// Asserts that every level of the machine gives the bits of portable code; all NaN count as one.
#[track_caller]
pub fn every_level_equals_portable(what: &dyn Debug, f: &dyn Fn(Level) -> Vec<f32>) {
    let want = f(Level::SCALAR);
    for level in Level::present() {
        let got = f(level);
        assert_eq!(want.len(), got.len(), "{level:?} {what:?}");
        for (i, (a, b)) in want.iter().zip(&got).enumerate() {
            assert!(
                a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
                "{level:?} {what:?}: value {i} is {b:e}, portable code gives {a:e}"
            );
        }
    }
}
