//! The largest values of rows, and the logarithms of the sums of their exponentials: of rows that are there, or of products
//! as they are made, none of which is stored.
//!
//! Rows are looked at in pieces of [`PIECE`] values. What a piece gives does not depend on the others, and pieces are put
//! together in one order, so both ways give the same bits.

use crate::matmul::{self, Matrix, PIECE, Piece, linear_in_pieces};
use crate::simd::{LANES, exp, log, maximum, multiversion, tanh};
use crate::tensor::{Buffer, sized};
use crate::threads::Team;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What one row has in a piece.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    top: f32,
    /// Of e^(value - top), where asked for.
    sum: f32,
    /// Not finite where a value is not.
    squares: f32,
}

multiversion! {
    /// Of the rows of a piece, `values: [panel][row][16]`, the first `n` columns.
    fn tally / tally_at(values: &[f32], n: usize, sums: bool, out: &mut [Tally]) {
        let stride = out.len() * LANES;
        for (row, out) in out.iter_mut().enumerate() {
            let lowest = f32::NEG_INFINITY;
            let (mut top, mut squares) = (Lanes::splat(lowest), Lanes::splat(0.0));
            let (mut at, mut left) = (row * LANES, n);
            while left > 0 {
                let part = &values[at..at + left.min(LANES)];
                top = Lanes::load_or(part, lowest).max(top);
                let value = Lanes::load_or(part, 0.0);
                squares = value.mul_add(value, squares);
                (at, left) = (at + stride, left - part.len());
            }
            let top = top.fold_max();
            let mut sum = Lanes::splat(0.0);
            if sums && top > lowest {
                let (mut at, mut left) = (row * LANES, n);
                while left > 0 {
                    let part = &values[at..at + left.min(LANES)];
                    sum = sum + exp(Lanes::load_or(part, lowest) - Lanes::splat(top));
                    (at, left) = (at + stride, left - part.len());
                }
            }
            *out = Tally { top, sum: sum.fold_sum(), squares: squares.fold_sum() };
        }
    }
}

multiversion! {
    /// Sum of all pieces' sums, each of e^(value - its own top), as of e^(value - top).
    fn together / together_at(tops: &[f32], sums: &[f32], top: f32) -> f32 {
        let mut sum = Lanes::splat(0.0);
        for (tops, sums) in tops.chunks(LANES).zip(sums.chunks(LANES)) {
            let part = exp(Lanes::load_or(tops, f32::NEG_INFINITY) - Lanes::splat(top));
            sum = part.mul_add(Lanes::load_or(sums, 0.0), sum);
        }
        sum.fold_sum()
    }
}

/// The tops and the sums of a row's pieces, in memory that is used again.
#[derive(Debug, Default)]
pub struct Sums {
    tops: Vec<f32>,
    sums: Vec<f32>,
}

impl Sums {
    /// log of the sum of e^logit: subtracted from a logit it gives the log-probability.
    pub fn log_sum_exp(&mut self, logits: &[f32]) -> f32 {
        self.log_of_sum(logits.chunks(PIECE).map(|piece| {
            let mut one = [Tally::default()];
            tally(piece, piece.len(), true, &mut one);
            (one[0].top, one[0].sum)
        }))
    }

    /// The same from each piece's top and sum.
    fn log_of_sum(&mut self, pieces: impl Iterator<Item = (f32, f32)>) -> f32 {
        let Sums { tops, sums } = self;
        tops.clear();
        sums.clear();
        for (top, sum) in pieces {
            tops.push(top);
            sums.push(sum);
        }
        let top = maximum(tops);
        if top == f32::NEG_INFINITY {
            return top;
        }
        (f64::from(top) + log(f64::from(together(tops, sums, top)))) as f32
    }
}

/// The largest value; of equals the one with the lowest index.
pub fn argmax(values: &[f32]) -> u32 {
    let top = maximum(values);
    let piece = values.chunks(PIECE).position(|piece| maximum(piece) == top).unwrap_or(0);
    let first = piece * PIECE;
    (first + values[first..].iter().position(|&v| v == top).unwrap_or(0)) as u32
}

/// Of each row the `n` largest values so far, largest first, of equals the lowest index first. Its memory is used again.
#[derive(Debug, Default)]
pub struct Best {
    n: usize,
    counts: Vec<usize>,
    places: Vec<(u32, f32)>,
}

impl Best {
    /// Indices of the `n` largest values of one row, and their values.
    pub fn of(&mut self, values: &[f32], n: usize) -> &[(u32, f32)] {
        self.reset(1, n);
        for (number, piece) in values.chunks(PIECE).enumerate() {
            self.look(0, number * PIECE, piece, 1, 0, piece.len(), maximum(piece));
        }
        self.row(0)
    }

    /// The same of some indices with their values.
    pub fn among(&mut self, values: impl Iterator<Item = (u32, f32)>, n: usize) -> &[(u32, f32)] {
        self.reset(1, n);
        values.for_each(|(index, value)| self.offer(0, index, value));
        self.row(0)
    }

    fn reset(&mut self, rows: usize, n: usize) {
        self.n = n;
        self.counts.clear();
        self.counts.resize(rows, 0);
        self.places.resize(self.places.len().max(rows * n), (0, 0.0));
    }

    fn row(&self, row: usize) -> &[(u32, f32)] {
        &self.places[row * self.n..][..self.counts[row]]
    }

    /// Whether a value would find a place.
    fn takes(&self, row: usize, index: u32, value: f32) -> bool {
        match self.row(row).last() {
            Some(&(last, least)) if self.counts[row] == self.n => {
                value > least || value == least && index < last
            }
            _ => self.n > 0,
        }
    }

    fn offer(&mut self, row: usize, index: u32, value: f32) {
        if !self.takes(row, index, value) {
            return;
        }
        let at = self.row(row).partition_point(|&(i, v)| v > value || v == value && i < index);
        let count = (self.counts[row] + 1).min(self.n);
        self.counts[row] = count;
        let places = &mut self.places[row * self.n..][..count];
        places[at..].rotate_right(1);
        places[at] = (index, value);
    }

    /// Looks at `n` values from index `first` on, the largest of which is `top`: those of row `at` of
    /// `values: [panel][rows][16]`.
    fn look(&mut self, row: usize, first: usize, values: &[f32], rows: usize, at: usize, n: usize, top: f32) {
        // Most pieces hold nothing that belongs to the best.
        if !self.takes(row, first as u32, top) {
            return;
        }
        for start in (0..n).step_by(LANES) {
            let part = &values[start * rows + at * LANES..][..LANES.min(n - start)];
            let index = (first + start) as u32;
            // Compared here first, where a value lies in a register.
            let least =
                if self.counts[row] == self.n { self.row(row)[self.n - 1].1 } else { f32::NEG_INFINITY };
            if part.iter().fold(false, |any, &v| any | (v >= least)) {
                part.iter().zip(index..).for_each(|(&v, index)| self.offer(row, index, v));
            }
        }
    }
}

/// Whether the first `n` values of row `at` of `values: [panel][rows][16]` are finite.
fn is_finite(values: &[f32], rows: usize, at: usize, n: usize) -> bool {
    (0..n).all(|i| values[(i / LANES * rows + at) * LANES + i % LANES].is_finite())
}

/// What a language head does to its products.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub weight: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub scale: f32,
    /// Largest magnitude of a logit, `cap * tanh(logit / cap)`. Bello et al. 2016, <https://arxiv.org/abs/1611.09940>
    pub softcap: Option<f32>,
}

multiversion! {
    /// Adds a bias, scales and caps the first `n` columns of `values: [panel][rows][16]`.
    fn amend / amend_at(values: &mut [f32], n: usize, rows: usize, bias: Option<&[f32]>, scale: f32, softcap: Option<f32>) {
        for (panel, values) in values.chunks_mut(rows * LANES).enumerate() {
            let bias = bias.map(|bias| Lanes::load_or(&bias[panel * LANES..n.min((panel + 1) * LANES)], 0.0));
            for part in values.chunks_mut(LANES) {
                let mut value = Lanes::load_or(part, 0.0);
                if let Some(bias) = bias {
                    value = value + bias;
                }
                if scale != 1.0 {
                    value = value * Lanes::splat(scale);
                }
                if let Some(cap) = softcap {
                    value = tanh(value / Lanes::splat(cap)) * Lanes::splat(cap);
                }
                value.store_part(part);
            }
        }
    }
}

impl Head<'_> {
    /// Scales and caps logits that have their bias, `[rows, vocab]`.
    pub fn finish(&self, team: &Team<'_>, logits: &mut [f32]) {
        if self.scale != 1.0 || self.softcap.is_some() {
            team.run_mut(logits, 4096, &|_, piece, _| {
                amend(piece, piece.len(), 1, None, self.scale, self.softcap);
            });
        }
    }

    fn amend(&self, piece: &mut Piece<'_>) {
        if self.bias.is_some() || self.scale != 1.0 || self.softcap.is_some() {
            let bias = self.bias.map(|bias| &bias[piece.outputs.clone()]);
            amend(piece.values, piece.outputs.len(), piece.rows.len(), bias, self.scale, self.softcap);
        }
    }
}

/// The largest logits of rows, largest first, of equals the lowest index first, and what normalizes them. Its memory is
/// used again.
#[derive(Default)]
pub struct Leaders {
    best: Best,
    /// `[rows]`, of [`Sums::log_sum_exp`]
    normalizers: Buffer<f32>,
    threads: Vec<Mutex<Thread>>,
    /// Bits of each piece's top and sum, `[rows][piece]`.
    pieces: Vec<AtomicU64>,
    sums: Sums,
}

/// Memory of one thread.
#[derive(Debug, Default)]
struct Thread {
    best: Best,
    tallies: Vec<Tally>,
}

impl Leaders {
    /// Indices and values of a row.
    pub fn row(&self, row: usize) -> &[(u32, f32)] {
        self.best.row(row)
    }

    /// log of the sum of e^logit of a row; 0 where it was not asked for.
    pub fn normalizer(&self, row: usize) -> f32 {
        self.normalizers[row]
    }

    /// Finds the `n` leaders of each row of `head(x)`, `x: [rows, inputs]`, and where asked what normalizes it; true if
    /// all logits are finite.
    pub fn find(
        &mut self,
        team: &Team<'_>,
        product: &mut matmul::Scratch,
        head: &Head<'_>,
        x: &[f32],
        rows: usize,
        n: usize,
        normalize: bool,
    ) -> bool {
        let pieces = head.weight.outputs().div_ceil(PIECE);
        self.threads.resize_with(team.threads().max(self.threads.len()), Mutex::default);
        for thread in &mut self.threads {
            thread.get_mut().unwrap_or_else(PoisonError::into_inner).best.reset(rows, n);
        }
        self.pieces.resize_with(self.pieces.len().max(rows * pieces), AtomicU64::default);
        let (threads, sums) = (&self.threads, &self.pieces);
        let bad = AtomicBool::new(false);
        linear_in_pieces(team, product, x.into(), rows, head.weight, &|mut piece, thread| {
            head.amend(&mut piece);
            let Thread { best, tallies } =
                &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let (n, rows) = (piece.outputs.len(), piece.rows.len());
            tallies.resize(tallies.len().max(rows), Tally::default());
            tally(piece.values, n, normalize, &mut tallies[..rows]);
            for (at, (row, tally)) in piece.rows.clone().zip(&*tallies).enumerate() {
                // Finite values may have squares that are not: they are looked at again, one by one.
                if !tally.squares.is_finite() && !is_finite(piece.values, rows, at, n) {
                    bad.store(true, Ordering::Relaxed);
                }
                let bits = u64::from(tally.top.to_bits()) << 32 | u64::from(tally.sum.to_bits());
                sums[row * pieces + piece.number].store(bits, Ordering::Relaxed);
                best.look(row, piece.outputs.start, piece.values, rows, at, n, tally.top);
            }
        });
        self.merge(rows, n);
        sized(&mut self.normalizers, rows).fill(0.0);
        if normalize {
            self.normalize(rows, pieces);
        }
        !bad.into_inner()
    }

    /// Puts together what threads found.
    fn merge(&mut self, rows: usize, n: usize) {
        self.best.reset(rows, n);
        for thread in &mut self.threads {
            let found = &thread.get_mut().unwrap_or_else(PoisonError::into_inner).best;
            for row in 0..rows {
                found.row(row).iter().for_each(|&(index, value)| self.best.offer(row, index, value));
            }
        }
    }

    /// Puts together what pieces found.
    fn normalize(&mut self, rows: usize, pieces: usize) {
        for (row, normalizer) in self.normalizers[..rows].iter_mut().enumerate() {
            *normalizer = self.sums.log_of_sum(self.pieces[row * pieces..][..pieces].iter().map(|bits| {
                let bits = bits.load(Ordering::Relaxed);
                (f32::from_bits((bits >> 32) as u32), f32::from_bits(bits as u32))
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Source, WeightType};
    use crate::threads::Pool;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn top_is_sorted_and_stable() {
        let x = [1.0, 5.0, 3.0, 5.0, -1.0];
        assert_eq!(Best::default().of(&x, 3), [(1, 5.0), (3, 5.0), (2, 3.0)]);
        assert_eq!(argmax(&x), 1);
        assert!(Best::default().of(&x, 0).is_empty());
        let want = (x.iter().map(|&v| f64::from(v).exp()).sum::<f64>()).ln();
        assert!((f64::from(Sums::default().log_sum_exp(&x)) - want).abs() < 1e-6);
    }

    #[test]
    fn top_equals_a_sort_at_every_length() {
        for length in [1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
            // Many equal values, and some that are ruled out.
            let mut x: Vec<f32> = numbers(length, 5).iter().map(|v| (v * 20.0).round()).collect();
            x.iter_mut().skip(3).step_by(7).for_each(|v| *v = f32::NEG_INFINITY);
            let mut want: Vec<(u32, f32)> = (0..).zip(x.iter().copied()).collect();
            want.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("numbers").then(a.0.cmp(&b.0)));
            for n in [1, 2, 9, length, length + 1] {
                assert_eq!(Best::default().of(&x, n), &want[..n.min(length)], "{length} {n}");
            }
            assert_eq!(argmax(&x), want[0].0);
            let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
            // 256 terms in a lane and 2 ULP of each exponential, and the rounding of the result.
            let bound = 300.0 * f64::from(f32::EPSILON) + 20.0 * f64::from(f32::EPSILON);
            assert!((f64::from(Sums::default().log_sum_exp(&x)) - sum.ln()).abs() <= bound, "{length}");
        }
    }

    #[test]
    fn leaders_of_products_are_those_of_the_logits() {
        let inputs = 40;
        for outputs in [1, 100, PIECE, 2 * PIECE + 7, 9 * PIECE + 16] {
            let values = numbers(outputs * inputs, 3);
            // Equal rows, whose logits are equal: the first one leads.
            let values: Vec<f32> =
                (0..outputs).flat_map(|o| values[o % 90 * inputs..][..inputs].to_vec()).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let source = Source::new(&bytes, DType::F32, [outputs, inputs], [inputs, 1]).expect("fits");
            let bias = numbers(outputs, 4);
            for (threads, rows, to) in [
                (1, 1, WeightType::F32),
                (2, 3, WeightType::Q8),
                (3, 33, WeightType::Q4),
                (2, 600, WeightType::Q8),
            ] {
                Pool::new(threads).run_alone(|team| {
                    let weight = Matrix::pack(&source, to, team).expect("finite");
                    let x = numbers(rows * inputs, 9);
                    for (bias, scale, softcap) in
                        [(None, 1.0, None), (Some(&bias[..]), 1.0, None), (Some(&bias[..]), 0.3, Some(2.0))]
                    {
                        let head = Head { weight: &weight, bias, scale, softcap };
                        let mut scratch = matmul::Scratch::default();
                        let mut logits = vec![0.0; rows * outputs];
                        let target = [matmul::Target::new(&weight, bias, &mut logits)];
                        matmul::linear(team, &mut scratch, x.as_slice().into(), rows, &target);
                        head.finish(team, &mut logits);
                        let mut leaders = Leaders::default();
                        for n in [5, 1] {
                            assert!(leaders.find(team, &mut scratch, &head, &x, rows, n, true));
                            for (row, logits) in logits.chunks(outputs).enumerate() {
                                assert_eq!(
                                    leaders.row(row),
                                    Best::default().of(logits, n),
                                    "{outputs} {rows} {row}"
                                );
                                let (got, want) =
                                    (leaders.normalizer(row), Sums::default().log_sum_exp(logits));
                                assert_eq!(got.to_bits(), want.to_bits(), "{outputs} {rows} {row}");
                            }
                        }
                        let huge = Head { scale: f32::INFINITY, softcap: None, ..head };
                        assert!(!leaders.find(team, &mut scratch, &huge, &x, rows, 1, false));
                    }
                });
            }
        }
    }

    #[test]
    fn every_level_gives_equal_bits() {
        use crate::simd::Level;
        let (rows, n) = (3, 37);
        let values = numbers(rows * 48, 2);
        for level in Level::present() {
            let (mut want, mut got) = ([Tally::default(); 3], [Tally::default(); 3]);
            tally_at(Level::SCALAR, &values, n, true, &mut want);
            tally_at(level, &values, n, true, &mut got);
            for (a, b) in want.iter().zip(&got) {
                assert_eq!(
                    [a.top, a.sum, a.squares].map(f32::to_bits),
                    [b.top, b.sum, b.squares].map(f32::to_bits),
                    "{level:?}"
                );
            }
        }
    }

    #[test]
    fn every_level_puts_pieces_together_and_amends_logits_equally() {
        use crate::simd::testing::{self, every_level_equals_portable};
        for n in 1..40 {
            let (tops, sums) = (testing::with_extremes(n, 1), testing::numbers(n, 2));
            every_level_equals_portable(&n, &|level| {
                vec![together_at(level, &tops, &sums, 0.9), together_at(level, &sums, &sums, 0.9)]
            });
            for values in
                [testing::numbers(n.next_multiple_of(LANES) * 2, 3), testing::with_extremes(64 * 2, 4)]
            {
                for (bias, softcap) in
                    [(None, None), (None, Some(3.0)), (Some(&sums[..]), None), (Some(&sums[..]), Some(3.0))]
                {
                    every_level_equals_portable(&(n, softcap), &|level| {
                        let mut values = values[..n.next_multiple_of(LANES) * 2].to_vec();
                        amend_at(level, &mut values, n, 2, bias, 0.7, softcap);
                        values
                    });
                }
            }
        }
    }
}
