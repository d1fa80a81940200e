//! Top-k and log-sum-exp of rows: of stored rows, or of the products of a language head as they are computed,
//! none of which is stored.
//!
//! Rows are scanned in pieces of [`PIECE`] values. The statistics of a piece do not depend on the others, and
//! pieces are combined in one order, so both ways give the same bits.

use crate::matmul::{self, Matrix, PIECE, Piece, linear_in_pieces};
use crate::simd::{LANES, exp, log, maximum, multiversion, tanh};
use crate::tensor::{Buffer, sized};
use crate::threads::Team;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Statistics of one row of a piece.
#[derive(Debug, Clone, Copy, Default)]
struct PieceStats {
    max: f32,
    /// Sum of e^(value - max), where requested.
    sum: f32,
    /// Sum of squares: not finite where a value is not.
    squares: f32,
}

multiversion! {
    /// Statistics of the first `n` columns of each row of a piece, `values: [panel][row][16]`.
    fn piece_stats / piece_stats_at(values: &[f32], n: usize, sums: bool, out: &mut [PieceStats]) {
        let stride = out.len() * LANES;
        for (row, out) in out.iter_mut().enumerate() {
            let lowest = f32::NEG_INFINITY;
            let (mut max, mut squares) = (Lanes::splat(lowest), Lanes::splat(0.0));
            let (mut at, mut left) = (row * LANES, n);
            while left > 0 {
                let part = &values[at..at + left.min(LANES)];
                max = Lanes::load_or(part, lowest).max(max);
                let value = Lanes::load_or(part, 0.0);
                squares = value.mul_add(value, squares);
                (at, left) = (at + stride, left - part.len());
            }
            let max = max.fold_max();
            let mut sum = Lanes::splat(0.0);
            if sums && max > lowest {
                let (mut at, mut left) = (row * LANES, n);
                while left > 0 {
                    let part = &values[at..at + left.min(LANES)];
                    sum = sum + exp(Lanes::load_or(part, lowest) - Lanes::splat(max));
                    (at, left) = (at + stride, left - part.len());
                }
            }
            *out = PieceStats { max, sum: sum.fold_sum(), squares: squares.fold_sum() };
        }
    }
}

multiversion! {
    /// Combines the pieces' sums of e^(value - max of the piece) into the sum of e^(value - max).
    fn combine / combine_at(maxima: &[f32], sums: &[f32], max: f32) -> f32 {
        let mut sum = Lanes::splat(0.0);
        for (maxima, sums) in maxima.chunks(LANES).zip(sums.chunks(LANES)) {
            let part = exp(Lanes::load_or(maxima, f32::NEG_INFINITY) - Lanes::splat(max));
            sum = part.mul_add(Lanes::load_or(sums, 0.0), sum);
        }
        sum.fold_sum()
    }
}

/// Log-sum-exp of rows, with scratch that is reused.
#[derive(Debug, Default)]
pub struct Sums {
    maxima: Vec<f32>,
    sums: Vec<f32>,
}

impl Sums {
    /// log of the sum of e^logit: subtracted from a logit it gives the log-probability.
    pub fn log_sum_exp(&mut self, logits: &[f32]) -> f32 {
        self.of_pieces(logits.chunks(PIECE).map(|piece| {
            let mut one = [PieceStats::default()];
            piece_stats(piece, piece.len(), true, &mut one);
            (one[0].max, one[0].sum)
        }))
    }

    /// [`Sums::log_sum_exp`] from each piece's maximum and sum.
    fn of_pieces(&mut self, pieces: impl Iterator<Item = (f32, f32)>) -> f32 {
        let Sums { maxima, sums } = self;
        maxima.clear();
        sums.clear();
        for (max, sum) in pieces {
            maxima.push(max);
            sums.push(sum);
        }
        let max = maximum(maxima);
        if max == f32::NEG_INFINITY {
            return max;
        }
        (f64::from(max) + log(f64::from(combine(maxima, sums, max)))) as f32
    }
}

/// Index of the largest value; the lowest one of equal values.
pub fn argmax(values: &[f32]) -> u32 {
    let max = maximum(values);
    let piece = values.chunks(PIECE).position(|piece| maximum(piece) == max).unwrap_or(0);
    let first = piece * PIECE;
    (first + values[first..].iter().position(|&v| v == max).unwrap_or(0)) as u32
}

/// The `n` largest values of each row so far, largest first, equal values by index. Its memory is reused.
#[derive(Debug, Default)]
pub struct TopK {
    n: usize,
    counts: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl TopK {
    /// Indices and values of the `n` largest values of one row.
    pub fn of(&mut self, values: &[f32], n: usize) -> &[(u32, f32)] {
        self.reset(1, n);
        for (number, piece) in values.chunks(PIECE).enumerate() {
            self.scan(0, number * PIECE, piece, 1, 0, piece.len(), maximum(piece));
        }
        self.row(0)
    }

    /// [`TopK::of`] for some indices with their values.
    pub fn among(&mut self, values: impl Iterator<Item = (u32, f32)>, n: usize) -> &[(u32, f32)] {
        self.reset(1, n);
        values.for_each(|(index, value)| self.offer(0, index, value));
        self.row(0)
    }

    fn reset(&mut self, rows: usize, n: usize) {
        self.n = n;
        self.counts.clear();
        self.counts.resize(rows, 0);
        self.entries.resize(self.entries.len().max(rows * n), (0, 0.0));
    }

    fn row(&self, row: usize) -> &[(u32, f32)] {
        &self.entries[row * self.n..][..self.counts[row]]
    }

    /// Whether a value belongs to the `n` largest so far.
    fn admits(&self, row: usize, index: u32, value: f32) -> bool {
        match self.row(row).last() {
            Some(&(last, min)) if self.counts[row] == self.n => value > min || value == min && index < last,
            _ => self.n > 0,
        }
    }

    fn offer(&mut self, row: usize, index: u32, value: f32) {
        if !self.admits(row, index, value) {
            return;
        }
        let at = self.row(row).partition_point(|&(i, v)| v > value || v == value && i < index);
        let count = (self.counts[row] + 1).min(self.n);
        self.counts[row] = count;
        let entries = &mut self.entries[row * self.n..][..count];
        entries[at..].rotate_right(1);
        entries[at] = (index, value);
    }

    /// Scans `n` values from index `first` on, with maximum `max`: those of row `at` of
    /// `values: [panel][rows][16]`.
    fn scan(&mut self, row: usize, first: usize, values: &[f32], rows: usize, at: usize, n: usize, max: f32) {
        // Most pieces hold no value of the top k.
        if !self.admits(row, first as u32, max) {
            return;
        }
        for start in (0..n).step_by(LANES) {
            let part = &values[start * rows + at * LANES..][..LANES.min(n - start)];
            let index = (first + start) as u32;
            // Compared here first, while the values are in registers.
            let min =
                if self.counts[row] == self.n { self.row(row)[self.n - 1].1 } else { f32::NEG_INFINITY };
            if part.iter().fold(false, |any, &v| any | (v >= min)) {
                part.iter().zip(index..).for_each(|(&v, index)| self.offer(row, index, v));
            }
        }
    }
}

/// Whether the first `n` values of row `at` of `values: [panel][rows][16]` are finite.
fn is_finite(values: &[f32], rows: usize, at: usize, n: usize) -> bool {
    (0..n).all(|i| values[(i / LANES * rows + at) * LANES + i % LANES].is_finite())
}

/// The product of a language head, and the epilogue that makes logits of its outputs.
#[derive(Clone, Copy)]
pub struct LogitEpilogue<'a> {
    pub weight: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub scale: f32,
    /// Largest magnitude of a logit, `cap * tanh(logit / cap)`. Bello et al. 2016,
    /// <https://arxiv.org/abs/1611.09940>
    pub softcap: Option<f32>,
}

multiversion! {
    /// Adds a bias, scales and caps the first `n` columns of `values: [panel][rows][16]`.
    fn epilogue / epilogue_at(values: &mut [f32], n: usize, rows: usize, bias: Option<&[f32]>, scale: f32, softcap: Option<f32>) {
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

impl LogitEpilogue<'_> {
    /// Scales and caps logits that have their bias, `[rows, vocab]`.
    pub fn finish(&self, team: &Team<'_>, logits: &mut [f32]) {
        if self.scale != 1.0 || self.softcap.is_some() {
            team.run_mut(logits, 4096, &|_, piece, _| {
                epilogue(piece, piece.len(), 1, None, self.scale, self.softcap);
            });
        }
    }

    fn apply(&self, piece: &mut Piece<'_>) {
        if self.bias.is_some() || self.scale != 1.0 || self.softcap.is_some() {
            let bias = self.bias.map(|bias| &bias[piece.outputs.clone()]);
            epilogue(piece.values, piece.outputs.len(), piece.rows.len(), bias, self.scale, self.softcap);
        }
    }
}

/// The largest logits of rows, largest first, equal logits by index, and their log-sum-exp. Its memory is
/// reused.
#[derive(Default)]
pub struct TopLogits {
    best: TopK,
    /// Log-sum-exp, `[rows]`.
    normalizers: Buffer<f32>,
    /// `[rows]`
    finite: Vec<AtomicBool>,
    threads: Vec<Mutex<ThreadScratch>>,
    /// Bits of each piece's maximum and sum, `[rows][piece]`.
    pieces: Vec<AtomicU64>,
    sums: Sums,
}

/// Scratch of one thread.
#[derive(Debug, Default)]
struct ThreadScratch {
    best: TopK,
    stats: Vec<PieceStats>,
}

impl TopLogits {
    /// Indices and values of a row.
    pub fn row(&self, row: usize) -> &[(u32, f32)] {
        self.best.row(row)
    }

    /// Log-sum-exp of a row; 0 where it was not requested.
    pub fn normalizer(&self, row: usize) -> f32 {
        self.normalizers[row]
    }

    /// Whether all logits of a row are finite. The other results of a row that has others mean nothing.
    pub fn is_finite(&self, row: usize) -> bool {
        self.finite[row].load(Ordering::Relaxed)
    }

    /// Finds the `n` largest logits of each row of `head(x)`, `x: [rows, inputs]`, and with `normalize` its
    /// log-sum-exp. Returns whether the logits of all rows are finite.
    pub fn find(
        &mut self,
        team: &Team<'_>,
        product: &mut matmul::Scratch,
        head: &LogitEpilogue<'_>,
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
        self.finite.clear();
        self.finite.resize_with(rows, || AtomicBool::new(true));
        let (threads, sums, finite) = (&self.threads, &self.pieces, &self.finite);
        linear_in_pieces(team, product, x.into(), rows, head.weight, &|mut piece, thread| {
            head.apply(&mut piece);
            let ThreadScratch { best, stats } =
                &mut *threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let (n, rows) = (piece.outputs.len(), piece.rows.len());
            stats.resize(stats.len().max(rows), PieceStats::default());
            piece_stats(piece.values, n, normalize, &mut stats[..rows]);
            for (at, (row, stats)) in piece.rows.clone().zip(&*stats).enumerate() {
                // The squares of finite values may overflow: then the values are checked one by one.
                if !stats.squares.is_finite() && !is_finite(piece.values, rows, at, n) {
                    finite[row].store(false, Ordering::Relaxed);
                }
                let bits = u64::from(stats.max.to_bits()) << 32 | u64::from(stats.sum.to_bits());
                sums[row * pieces + piece.number].store(bits, Ordering::Relaxed);
                best.scan(row, piece.outputs.start, piece.values, rows, at, n, stats.max);
            }
        });
        self.merge(rows, n);
        sized(&mut self.normalizers, rows).fill(0.0);
        if normalize {
            self.normalize(rows, pieces);
        }
        (0..rows).all(|row| self.is_finite(row))
    }

    /// Merges the threads' top k.
    fn merge(&mut self, rows: usize, n: usize) {
        self.best.reset(rows, n);
        for thread in &mut self.threads {
            let found = &thread.get_mut().unwrap_or_else(PoisonError::into_inner).best;
            for row in 0..rows {
                found.row(row).iter().for_each(|&(index, value)| self.best.offer(row, index, value));
            }
        }
    }

    /// Combines the pieces' maxima and sums.
    fn normalize(&mut self, rows: usize, pieces: usize) {
        for (row, normalizer) in self.normalizers[..rows].iter_mut().enumerate() {
            *normalizer = self.sums.of_pieces(self.pieces[row * pieces..][..pieces].iter().map(|bits| {
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
    fn top_k_is_sorted_and_stable() {
        let x = [1.0, 5.0, 3.0, 5.0, -1.0];
        assert_eq!(TopK::default().of(&x, 3), [(1, 5.0), (3, 5.0), (2, 3.0)]);
        assert_eq!(argmax(&x), 1);
        assert!(TopK::default().of(&x, 0).is_empty());
        let want = (x.iter().map(|&v| f64::from(v).exp()).sum::<f64>()).ln();
        assert!((f64::from(Sums::default().log_sum_exp(&x)) - want).abs() < 1e-6);
    }

    #[test]
    fn top_k_equals_a_sort_at_every_length() {
        for length in [1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
            // Many equal values, and some that are forbidden.
            let mut x: Vec<f32> = numbers(length, 5).iter().map(|v| (v * 20.0).round()).collect();
            x.iter_mut().skip(3).step_by(7).for_each(|v| *v = f32::NEG_INFINITY);
            let mut want: Vec<(u32, f32)> = (0..).zip(x.iter().copied()).collect();
            want.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("numbers").then(a.0.cmp(&b.0)));
            for n in [1, 2, 9, length, length + 1] {
                assert_eq!(TopK::default().of(&x, n), &want[..n.min(length)], "{length} {n}");
            }
            assert_eq!(argmax(&x), want[0].0);
            let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
            // 256 terms in a lane and 2 ULP of each exponential, and the rounding of the result.
            let bound = 300.0 * f64::from(f32::EPSILON) + 20.0 * f64::from(f32::EPSILON);
            assert!((f64::from(Sums::default().log_sum_exp(&x)) - sum.ln()).abs() <= bound, "{length}");
        }
    }

    #[test]
    fn top_logits_of_products_equal_those_of_stored_logits() {
        let inputs = 40;
        for outputs in [1, 100, PIECE, 2 * PIECE + 7, 9 * PIECE + 16] {
            let values = numbers(outputs * inputs, 3);
            // Equal rows of weights give equal logits: the first one is reported.
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
                        let head = LogitEpilogue { weight: &weight, bias, scale, softcap };
                        let mut scratch = matmul::Scratch::default();
                        let mut logits = vec![0.0; rows * outputs];
                        let target = [matmul::Target::new(&weight, bias, &mut logits)];
                        matmul::linear(team, &mut scratch, x.as_slice().into(), rows, &target);
                        head.finish(team, &mut logits);
                        let mut top = TopLogits::default();
                        for n in [5, 1] {
                            assert!(top.find(team, &mut scratch, &head, &x, rows, n, true));
                            for (row, logits) in logits.chunks(outputs).enumerate() {
                                assert_eq!(
                                    top.row(row),
                                    TopK::default().of(logits, n),
                                    "{outputs} {rows} {row}"
                                );
                                let (got, want) = (top.normalizer(row), Sums::default().log_sum_exp(logits));
                                assert_eq!(got.to_bits(), want.to_bits(), "{outputs} {rows} {row}");
                            }
                        }
                        let huge = LogitEpilogue { scale: f32::INFINITY, softcap: None, ..head };
                        assert!(!top.find(team, &mut scratch, &huge, &x, rows, 1, false));
                        assert!((0..rows).all(|row| !top.is_finite(row)));
                    }
                });
            }
        }
    }

    #[test]
    fn a_row_that_is_not_finite_leaves_the_others_alone() {
        let (inputs, outputs, rows) = (40, 2 * PIECE + 7, 5);
        let bytes: Vec<u8> = numbers(outputs * inputs, 3).iter().flat_map(|v| v.to_le_bytes()).collect();
        let source = Source::new(&bytes, DType::F32, [outputs, inputs], [inputs, 1]).expect("fits");
        Pool::new(2).run_alone(|team| {
            for to in [WeightType::F32, WeightType::Q8, WeightType::Q4] {
                let weight = Matrix::pack(&source, to, team).expect("finite");
                let head = LogitEpilogue { weight: &weight, bias: None, scale: 1.0, softcap: None };
                let (mut scratch, x) = (matmul::Scratch::default(), numbers(rows * inputs, 9));
                let (mut good, mut bad) = (TopLogits::default(), TopLogits::default());
                assert!(good.find(team, &mut scratch, &head, &x, rows, 3, true));
                for value in [f32::NAN, f32::INFINITY] {
                    let mut x = x.clone();
                    x[2 * inputs + 7] = value;
                    assert!(!bad.find(team, &mut scratch, &head, &x, rows, 3, true));
                    for row in 0..rows {
                        assert_eq!(bad.is_finite(row), row != 2, "{to:?} {row}");
                        if row != 2 {
                            assert_eq!(
                                (bad.row(row), bad.normalizer(row)),
                                (good.row(row), good.normalizer(row))
                            );
                        }
                    }
                }
                assert!(bad.find(team, &mut scratch, &head, &x, rows, 3, true));
            }
        });
    }

    #[test]
    fn every_level_gives_equal_statistics() {
        use crate::simd::Level;
        let (rows, n) = (3, 37);
        let values = numbers(rows * 48, 2);
        for level in Level::present() {
            let (mut want, mut got) = ([PieceStats::default(); 3], [PieceStats::default(); 3]);
            piece_stats_at(Level::SCALAR, &values, n, true, &mut want);
            piece_stats_at(level, &values, n, true, &mut got);
            for (a, b) in want.iter().zip(&got) {
                assert_eq!(
                    [a.max, a.sum, a.squares].map(f32::to_bits),
                    [b.max, b.sum, b.squares].map(f32::to_bits),
                    "{level:?}"
                );
            }
        }
    }

    #[test]
    fn every_level_combines_pieces_and_applies_the_epilogue_equally() {
        use crate::simd::testing::{self, every_level_equals_portable};
        for n in 1..40 {
            let (maxima, sums) = (testing::with_extremes(n, 1), testing::numbers(n, 2));
            every_level_equals_portable(&n, &|level| {
                vec![combine_at(level, &maxima, &sums, 0.9), combine_at(level, &sums, &sums, 0.9)]
            });
            for values in
                [testing::numbers(n.next_multiple_of(LANES) * 2, 3), testing::with_extremes(64 * 2, 4)]
            {
                for (bias, softcap) in
                    [(None, None), (None, Some(3.0)), (Some(&sums[..]), None), (Some(&sums[..]), Some(3.0))]
                {
                    every_level_equals_portable(&(n, softcap), &|level| {
                        let mut values = values[..n.next_multiple_of(LANES) * 2].to_vec();
                        epilogue_at(level, &mut values, n, 2, bias, 0.7, softcap);
                        values
                    });
                }
            }
        }
    }
}
