//! DeBERTa's attention, with separate scores for content and position.
//! He et al. 2021, <https://arxiv.org/abs/2006.03654>

use super::attention::check_heads;
use super::operator::{Capture, Captured, Operator, Widths};
use super::pass::Pass;
use super::stream::Stream;
use crate::error::Result;
use crate::matmul::dense::{Shape, multiply};
use crate::matmul::{self, linear};
use crate::model::bounds::{MAX_SIZE, Site, finite, refuse, size};
use crate::model::describe::mirror;
use crate::model::state::State;
use crate::model::walk::{Linear, Walk};
use crate::ops::softmax::softmax;
use crate::simd::level;
use crate::tensor::Disjoint;
use crate::threads::Team;
use std::sync::{Mutex, PoisonError};

mirror!(/// Scores of content to content, content to position and position to content.
DisentangledAttentionSpec {
    heads: usize,
    head_dim: usize,
    scale: f64,
    #[serde(default)] query_bias: bool,
    #[serde(default)] key_bias: bool,
    #[serde(default)] value_bias: bool,
    #[serde(default)] output_bias: bool,
    span: usize,
    buckets: usize,
    max_distance: usize,
    content_to_position: bool,
    position_to_content: bool,
    share_key: bool,
});

/// Loaded disentangled attention.
pub struct DisentangledAttention {
    spec: DisentangledAttentionSpec,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    position_query: Option<Linear>,
    position_key: Option<Linear>,
}

impl Operator for DisentangledAttention {
    type Spec = DisentangledAttentionSpec;
    type Scratch = ();
    const NAME: &'static str = "attention";
    const CAPTURED: Option<Captured> = Some(Captured::SelfAttention);
    const READS_RELATIVE: bool = true;

    fn validate(d: &DisentangledAttentionSpec, place: &str, site: &Site) -> Result<()> {
        check_heads(place, d.heads, d.heads, d.head_dim)?;
        finite(place, "scale", d.scale)?;
        size(place, "span", d.span)?;
        size(place, "max_distance", d.max_distance)?;
        if site.relative_rows != Some(2 * d.span) {
            return refuse(place, "span", d.span, "half of the rows of the stack's relative table");
        }
        if d.buckets > MAX_SIZE || (d.buckets > 0 && (d.buckets < 4 || d.max_distance <= d.buckets / 2)) {
            return refuse(place, "buckets", d.buckets, "0, or 4 to 2 * max_distance - 1");
        }
        if site.decoder {
            return refuse(
                place,
                "kind",
                "disentangled_attention",
                "one only in an encoder: it is not causal",
            );
        }
        Ok(())
    }

    fn load(d: &DisentangledAttentionSpec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> Self {
        let (width, inner) = (widths.hidden, d.heads * d.head_dim);
        let mut linear = |part: &str, bias| walk.linear(&format!("{name}.{part}"), inner, width, bias);
        let (query, key) = (linear("query", d.query_bias), linear("key", d.key_bias));
        let value = linear("value", d.value_bias);
        let own = |wanted: bool| wanted && !d.share_key;
        let position_query = own(d.position_to_content).then(|| linear("position_query", d.query_bias));
        let position_key = own(d.content_to_position).then(|| linear("position_key", d.key_bias));
        let output = walk.linear(&format!("{name}.output"), width, inner, d.output_bias);
        DisentangledAttention { query, key, value, output, position_query, position_key, spec: d.clone() }
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        _: State<'_>,
        _: &mut (),
        capture: Capture<'_>,
    ) {
        let (team, width) = (pass.team, self.spec.heads * self.spec.head_dim);
        let (x, product) = stream.input(pass);
        let q = project(team, product, &self.query, x, pass.rows);
        let k = project(team, product, &self.key, x, pass.rows);
        let v = project(team, product, &self.value, x, pass.rows);
        let relative = self.relative(pass, product);
        let heads = Heads { spec: &self.spec, q: &q, k: &k, v: &v, relative: &relative };

        let mut context = vec![0.0; pass.rows * width];
        let out = Disjoint::new(&mut context);
        let captured = Mutex::new(Vec::new());
        let wanted = capture.is_some();
        team.run(pass.view.spans.len() * self.spec.heads, &|item, _| {
            let (span, head) = (&pass.view.spans[item / self.spec.heads], item % self.spec.heads);
            let scores = heads.attend(span.rows.clone(), head, &out);
            if wanted {
                captured.lock().unwrap_or_else(PoisonError::into_inner).push((item, scores));
            }
        });
        if let Some(capture) = capture {
            let mut found = captured.into_inner().unwrap_or_else(PoisonError::into_inner);
            found.sort_by_key(|(item, _)| *item);
            found.into_iter().for_each(|(_, p)| capture.extend(p));
        }
        stream.project(pass, &self.output, &context);
    }
}

/// Projections of the table rows within the distances of the longest sequence.
struct Relative {
    rows: usize,
    /// Table row at index `longest - 1 + query - key`.
    columns: Vec<usize>,
    longest: usize,
    key: Option<Vec<f32>>,
    query: Option<Vec<f32>>,
}

impl DisentangledAttention {
    fn relative(&self, pass: &Pass<'_>, product: &mut matmul::Scratch) -> Relative {
        let d = &self.spec;
        let longest = pass.view.spans.iter().map(|span| span.rows.len()).max().unwrap_or(1).max(1);
        let reach = longest as isize - 1;
        let rows: Vec<usize> = (-reach..=reach).map(|distance| row(d, distance)).collect();
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        let count = last + 1 - first;
        let table = &pass.relative[first * pass.hidden..(last + 1) * pass.hidden];
        let mut projected = |own: &Option<Linear>, shared: &Linear| {
            project(pass.team, product, own.as_ref().unwrap_or(shared), table, count)
        };
        Relative {
            rows: count,
            columns: rows.iter().map(|row| row - first).collect(),
            longest,
            key: d.content_to_position.then(|| projected(&self.position_key, &self.key)),
            query: d.position_to_content.then(|| projected(&self.position_query, &self.query)),
        }
    }
}

/// Input of the heads of a pass.
struct Heads<'a> {
    spec: &'a DisentangledAttentionSpec,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    relative: &'a Relative,
}

impl Heads<'_> {
    /// One head of the sequence in `rows`: writes its context, returns its probabilities `[n, n]`.
    fn attend(&self, rows: std::ops::Range<usize>, head: usize, out: &Disjoint<'_, f32>) -> Vec<f32> {
        let (d, dim, relative) = (self.spec, self.spec.head_dim, self.relative);
        let (n, start, width) = (rows.len(), rows.start, d.heads * dim);
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
        let (q, k, v) = (column(self.q, n, start), column(self.k, n, start), column(self.v, n, start));
        let mut scores = product(&q, &transposed(&k, n), n);
        let (count, longest) = (relative.rows, relative.longest);
        let by_row = |x: &[f32], p: &[f32]| product(x, &transposed(&column(p, count, 0), count), count);
        if let Some(p) = &relative.key {
            let by_row = by_row(&q, p);
            for (i, scores) in scores.chunks_exact_mut(n).enumerate() {
                let by_row = &by_row[i * count..][..count];
                for (j, score) in scores.iter_mut().enumerate() {
                    *score += by_row[relative.columns[longest - 1 + i - j]];
                }
            }
        }
        if let Some(p) = &relative.query {
            let by_row = by_row(&k, p);
            for (i, scores) in scores.chunks_exact_mut(n).enumerate() {
                for (j, score) in scores.iter_mut().enumerate() {
                    *score += by_row[j * count + relative.columns[longest - 1 + i - j]];
                }
            }
        }
        scores.iter_mut().for_each(|s| *s *= d.scale as f32);
        scores.chunks_mut(n).for_each(softmax);
        let mut mixed = vec![0.0; n * dim];
        let shape = Shape { rows: n, columns: dim, depth: n, a_stride: n, b_stride: dim, c_stride: dim };
        multiply(level(), &shape, &scores, &v, &mut mixed, false);
        for (r, from) in mixed.chunks(dim).enumerate() {
            // SAFETY: each head of each row belongs to one item of work.
            unsafe { out.slice((start + r) * width + head * dim, dim) }.copy_from_slice(from);
        }
        scores
    }
}

/// Row of the table of relative positions for `distance = query - key`; monotonic in the distance.
fn row(d: &DisentangledAttentionSpec, distance: isize) -> usize {
    let bucket = if d.buckets > 0 { log_bucket(distance, d) } else { distance };
    (bucket + d.span as isize).clamp(0, 2 * d.span as isize - 1) as usize
}

/// Exact up to half of the buckets, logarithmic beyond.
fn log_bucket(distance: isize, d: &DisentangledAttentionSpec) -> isize {
    let middle = (d.buckets / 2) as isize;
    let absolute = distance.abs();
    if absolute <= middle {
        return distance;
    }
    // In single precision, as in the reference: where the exact ratio is an integer, as at powers of one
    // base, the bucket depends on the rounding.
    let log = |x: f64| crate::simd::log(f64::from(x as f32)) as f32;
    let m = middle as f64;
    let ratio = log(absolute as f64 / m) / log((d.max_distance - 1) as f64 / m);
    // The table ends at `span`; the ratio is infinite if no distance exceeds half of the buckets.
    let far = (ratio * (m - 1.0) as f32).ceil().min(d.span as f32) as isize + middle;
    far * distance.signum()
}

fn project(team: &Team<'_>, product: &mut matmul::Scratch, l: &Linear, x: &[f32], rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * l.weight.outputs()];
    linear(team, product, x.into(), rows, &[l.target(&mut out)]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_at_powers_of_one_base_are_those_of_the_reference() {
        // From transformers' make_log_bucket_position; in double precision the last ones are one larger.
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
            let d = DisentangledAttentionSpec {
                heads: 1,
                head_dim: 1,
                scale: 1.0,
                query_bias: false,
                key_bias: false,
                value_bias: false,
                output_bias: false,
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
}
