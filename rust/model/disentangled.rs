//! DeBERTa's attention, with separate scores for content and position, and its convolution.
//! He et al. 2021, <https://arxiv.org/abs/2006.03654>

use super::block::{Pass, Watch, Workspace};
use super::spec;
use super::weights::{AttentionWeights, ConvolutionWeights, Linear};
use crate::matmul::dense::{Shape, multiply};
use crate::matmul::linear;
use crate::simd::{exp, level, multiversion};
use crate::tensor::Disjoint;

/// Row of the table of relative positions for `distance = query - key`; it never falls as the distance grows.
fn row(d: &spec::Disentangled, distance: isize) -> usize {
    let bucket = if d.buckets > 0 { log_bucket(distance, d) } else { distance };
    (bucket + d.span as isize).clamp(0, 2 * d.span as isize - 1) as usize
}

/// Exact up to half of the buckets, logarithmic beyond.
fn log_bucket(distance: isize, d: &spec::Disentangled) -> isize {
    let middle = (d.buckets / 2) as isize;
    let absolute = distance.abs();
    if absolute <= middle {
        return distance;
    }
    // In single precision, as the reference has it: where the ratio is a whole number but for rounding, as at
    // powers of one base, the bucket depends on it.
    let log = |x: f64| crate::simd::log(f64::from(x as f32)) as f32;
    let m = middle as f64;
    let ratio = log(absolute as f64 / m) / log((d.max_distance - 1) as f64 / m);
    // The table ends at `span`; without a longer distance than half of the buckets the ratio is infinite.
    let far = (ratio * (m - 1.0) as f32).ceil().min(d.span as f32) as isize + middle;
    far * distance.signum()
}

multiversion! {
    /// Softmax of one row in place.
    fn softmax / softmax_at(x: &mut [f32]) {
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

fn project(work: &mut Workspace, pass: &Pass<'_>, l: &Linear, x: &[f32], rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * l.weight.outputs()];
    linear(pass.team, &mut work.product, x.into(), rows, &[l.target(&mut out)]);
    out
}

/// The whole block: projections, scores, mixture, output, residual and norms, on `work.x`.
pub fn attention(
    work: &mut Workspace,
    pass: &Pass<'_>,
    a: &spec::Attention,
    w: &AttentionWeights,
    relative: &[f32],
    mut watch: Watch<'_>,
) {
    let d = a.disentangled.as_ref().expect("called for disentangled attention");
    let x = work.block_input(pass, w.input_norm.as_ref());
    let q = project(work, pass, &w.query, &x, pass.rows);
    let k = project(work, pass, &w.key, &x, pass.rows);
    let v = project(work, pass, &w.value, &x, pass.rows);
    // Of the table only the rows that the longest sequence can reach.
    let longest = pass.view.spans.iter().map(|span| span.rows.len()).max().unwrap_or(1).max(1);
    let reach = longest as isize - 1;
    let rows: Vec<usize> = (-reach..=reach).map(|distance| row(d, distance)).collect();
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    let table_rows = last + 1 - first;
    let relative = &relative[first * pass.hidden..(last + 1) * pass.hidden];
    // Columns of the products below by `reach + query - key`.
    let columns: Vec<usize> = rows.iter().map(|row| row - first).collect();
    let position_key = d
        .content_to_position
        .then(|| project(work, pass, w.position_key.as_ref().unwrap_or(&w.key), relative, table_rows));
    let position_query = d
        .position_to_content
        .then(|| project(work, pass, w.position_query.as_ref().unwrap_or(&w.query), relative, table_rows));

    let (heads, dim, width) = (a.heads, a.head_dim, a.query_size());
    let mut context = vec![0.0; pass.rows * width];
    let out = Disjoint::new(&mut context);
    let keep = std::sync::Mutex::new(Vec::new());
    let wanted = watch.is_some();
    pass.team.run(pass.view.spans.len() * heads, &|unit, _| {
        let (span, head) = (&pass.view.spans[unit / heads], unit % heads);
        let (n, start) = (span.rows.len(), span.rows.start);
        let column = |x: &[f32], rows: usize, first: usize| -> Vec<f32> {
            (0..rows).flat_map(|r| x[(first + r) * width + head * dim..][..dim].iter().copied()).collect()
        };
        let transposed = |x: &[f32], rows: usize| -> Vec<f32> {
            let mut t = vec![0.0; rows * dim];
            for r in 0..rows {
                for c in 0..dim {
                    t[c * rows + r] = x[r * dim + c];
                }
            }
            t
        };
        let product = |x: &[f32], y: &[f32], columns: usize| -> Vec<f32> {
            let mut out = vec![0.0; n * columns];
            let shape =
                Shape { rows: n, columns, depth: dim, a_stride: dim, b_stride: columns, c_stride: columns };
            multiply(level(), &shape, x, y, &mut out, false);
            out
        };
        let (qh, kh, vh) = (column(&q, n, start), column(&k, n, start), column(&v, n, start));
        let mut scores = product(&qh, &transposed(&kh, n), n);
        if let Some(p) = &position_key {
            let by_row = product(&qh, &transposed(&column(p, table_rows, 0), table_rows), table_rows);
            for (i, scores) in scores.chunks_exact_mut(n).enumerate() {
                let by_row = &by_row[i * table_rows..][..table_rows];
                for (j, score) in scores.iter_mut().enumerate() {
                    *score += by_row[columns[longest - 1 + i - j]];
                }
            }
        }
        if let Some(p) = &position_query {
            let by_row = product(&kh, &transposed(&column(p, table_rows, 0), table_rows), table_rows);
            for (i, scores) in scores.chunks_exact_mut(n).enumerate() {
                for (j, score) in scores.iter_mut().enumerate() {
                    *score += by_row[j * table_rows + columns[longest - 1 + i - j]];
                }
            }
        }
        for s in &mut scores {
            *s *= a.scale as f32;
        }
        scores.chunks_mut(n).for_each(softmax);
        let mut mixed = vec![0.0; n * dim];
        let shape = Shape { rows: n, columns: dim, depth: n, a_stride: n, b_stride: dim, c_stride: dim };
        multiply(level(), &shape, &scores, &vh, &mut mixed, false);
        for (r, from) in mixed.chunks(dim).enumerate() {
            // SAFETY: each head of each row belongs to one unit.
            unsafe { out.slice((start + r) * width + head * dim, dim) }.copy_from_slice(from);
        }
        if wanted {
            keep.lock().expect("no panic while held").push((unit, scores));
        }
    });
    if let Some(watch) = &mut watch {
        let mut kept = keep.into_inner().expect("no panic while held");
        kept.sort_by_key(|(unit, _)| *unit);
        kept.into_iter().for_each(|(_, p)| watch.extend(p));
    }
    let y = project(work, pass, &w.output, &context, pass.rows);
    work.block_output(pass, &y, a, w);
}

/// `states = norm(states + activation(conv1d(input)))`, within each sequence.
pub fn convolution(
    pass: &Pass<'_>,
    c: &spec::Convolution,
    w: &ConvolutionWeights,
    input: &[f32],
    states: &mut [f32],
) {
    let (width, half) = (pass.hidden, c.kernel / 2);
    let per_group = width / c.groups;
    let span_of =
        |row: usize| pass.view.spans.iter().find(|s| s.rows.contains(&row)).expect("every row has a span");
    pass.team.run_mut(states, width, &|row, out, _| {
        let span = span_of(row);
        let mut y = w.bias.clone();
        for (o, y) in y.iter_mut().enumerate() {
            let group = o / per_group * per_group;
            for i in 0..per_group {
                for t in 0..c.kernel {
                    let at = row + t;
                    if at >= span.rows.start + half && at < span.rows.end + half {
                        let weight = w.weight[(o * per_group + i) * c.kernel + t];
                        *y = weight.mul_add(input[(at - half) * width + group + i], *y);
                    }
                }
            }
        }
        crate::simd::activate(c.activation, &mut y);
        for (o, y) in out.iter_mut().zip(&y) {
            *o += y;
        }
    });
    w.norm.normalize_in_place(pass.team, states, width);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_at_powers_of_one_base_are_those_of_the_reference() {
        // What transformers' make_log_bucket_position gives; in double precision the last ones are one more.
        for (buckets, max_distance, distance, bucket) in [
            (4, 7, 18, 4),
            (4, 7, 54, 5),
            (4, 7, 1458, 8),
            (32, 129, 32, 21),
            (32, 129, 64, 26),
            (32, 129, 256, 36),
            (128, 513, 128, 85),
            (128, 513, 1024, 148),
            (256, 512, 511, 255),
        ] {
            let d = spec::Disentangled {
                span: 1000,
                buckets,
                max_distance,
                content_to_position: true,
                position_to_content: true,
                share_key: false,
            };
            assert_eq!(log_bucket(distance, &d), bucket, "{buckets} {max_distance} {distance}");
            assert_eq!(log_bucket(-distance, &d), -bucket, "{buckets} {max_distance} {distance}");
        }
    }

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
