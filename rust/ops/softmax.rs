//! Softmax of rows that are there as a whole.

use crate::simd::{exp, multiversion};

multiversion! {
    /// Softmax of one row in place.
    pub fn softmax / softmax_at(x: &mut [f32]) {
        let m = crate::simd::lanes_max::<Lanes>(x);
        let m = Lanes::splat(m);
        let mut sum = Lanes::splat(0.0);
        let mut i = 0;
        while i < x.len() {
            let end = (i + crate::simd::LANES).min(x.len());
            let e = exp(Lanes::load_or(&x[i..end], f32::NEG_INFINITY) - m);
            e.store_part(&mut x[i..end]);
            sum = sum + e;
            i = end;
        }
        let inverse = 1.0 / sum.fold_sum();
        for v in x {
            *v *= inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_gives_equal_probabilities() {
        use crate::simd::testing::{every_level_equals_portable, numbers, with_extremes};
        for length in 1..70 {
            for scores in [numbers(length, 1), with_extremes(length, 2), vec![f32::NEG_INFINITY; length]] {
                every_level_equals_portable(&(length, scores[0]), &|level| {
                    let mut x = scores.clone();
                    softmax_at(level, &mut x);
                    x
                });
            }
        }
    }
}
