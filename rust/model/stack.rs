//! A stack: embedding, layers, final norm, over a ragged batch without padding.

use super::block::{Part, Pass, Span, Workspace};
use super::cache::Cache;
use super::spec;
use super::view::Views;
use super::weights::StackWeights;
use crate::error::{Error, Result};
use crate::matmul::linear;
use crate::tensor::sized;
use crate::threads::Team;

/// What to collect on the way through a stack.
#[derive(Default)]
pub struct Watching {
    /// Collects the embedding and the output of every layer, `[rows, hidden]` each.
    pub states: Option<Vec<Vec<f32>>>,
    /// Layer whose self-attention probabilities are collected.
    pub attention: Option<usize>,
    /// Layer whose cross-attention probabilities are collected.
    pub cross_attention: Option<usize>,
    /// `[heads, queries, keys]` of each sequence in turn.
    pub probabilities: Vec<f32>,
}

impl Watching {
    /// Whether nothing is collected.
    pub fn is_idle(&self) -> bool {
        self.states.is_none() && self.attention.is_none() && self.cross_attention.is_none()
    }
}

/// Refuses ids that the stack has no row for; `what` names them in the message.
pub fn check_ids(what: &str, ids: &[u32], count: usize) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= count) {
        Some(i) => Err(Error::Option(format!(
            "{what} {} at position {i} is out of range: expected 0 to {}",
            ids[i],
            count - 1
        ))),
        None => Ok(()),
    }
}

/// Embeds `ids` into `work.x`.
pub fn embed(
    team: &Team<'_>,
    s: &spec::Stack,
    w: &StackWeights,
    work: &mut Workspace,
    ids: &[u32],
    segments: Option<&[u32]>,
    spans: &[Span],
) {
    let (width, token_width) = (s.hidden_size, s.embedding_width());
    let table_width = if s.project_before_positions { width } else { token_width };
    let (mut x, mut narrow) = (std::mem::take(&mut work.x), std::mem::take(&mut work.narrow));
    let early = w.projection.is_some() && s.project_before_positions;
    let scale = s.embedding_scale as f32;
    let gather = |out: &mut [f32]| {
        let rows = 16;
        team.run_mut(out, rows * token_width, &|i, piece, _| {
            for (r, row) in piece.chunks_mut(token_width).enumerate() {
                w.token.row_into(ids[i * rows + r] as usize, row);
                if scale != 1.0 {
                    row.iter_mut().for_each(|v| *v *= scale);
                }
            }
        });
    };
    let project = |work: &mut Workspace, from: &[f32], to: &mut [f32]| {
        let p = w.projection.as_ref().expect("called where there is one");
        linear(team, &mut work.product, from.into(), ids.len(), &[p.target(to)]);
    };
    let out = sized(&mut x, ids.len() * table_width);
    if early {
        let tokens = sized(&mut narrow, ids.len() * token_width);
        gather(tokens);
        project(work, tokens, out);
    } else {
        gather(out);
    }
    if let Some(d) = &s.token_dropout {
        for span in spans {
            drop_masked(d, &ids[span.rows.clone()], &mut out[span.rows.start * table_width..], table_width);
        }
    }
    let norm = |out: &mut [f32]| {
        if let Some(norm) = &w.embedding_norm {
            norm.normalize_in_place(team, out, table_width);
        }
    };
    if s.norm_before_positions {
        norm(out);
    }
    for span in spans {
        for row in span.rows.clone() {
            let out = &mut out[row * table_width..][..table_width];
            let mut add = |table: &[f32], index: usize| {
                for (o, v) in out.iter_mut().zip(&table[index * table_width..][..table_width]) {
                    *o += v;
                }
            };
            if s.segments > 0 {
                add(&w.segment, segments.map_or(0, |t| t[row] as usize));
            }
            if s.positions > 0 && s.unplaced != Some(ids[row] as usize) {
                add(&w.position, span.first + row - span.rows.start);
            }
        }
    }
    if !s.norm_before_positions {
        norm(out);
    }
    if w.projection.is_some() && !early {
        let tokens = sized(&mut narrow, out.len());
        tokens.copy_from_slice(out);
        project(work, tokens, sized(&mut x, ids.len() * width));
    }
    (work.x, work.narrow) = (x, narrow);
}

/// Clears the rows of mask tokens of one sequence and scales the others, as if they had been dropped.
fn drop_masked(d: &spec::TokenDropout, ids: &[u32], x: &mut [f32], width: usize) {
    let masked = ids.iter().filter(|&&id| id as usize == d.mask).count();
    let observed = masked as f32 / ids.len() as f32;
    for (&id, row) in ids.iter().zip(x.chunks_mut(width)) {
        if id as usize == d.mask {
            row.fill(0.0);
        } else {
            row.iter_mut().for_each(|v| *v = *v * d.kept as f32 / (1.0 - observed));
        }
    }
}

/// Moves some rows, in ascending order, to the front.
fn gather(x: &mut [f32], rows: &[usize], width: usize) {
    for (to, row) in rows.iter().enumerate() {
        x.copy_within(row * width..(row + 1) * width, to * width);
    }
}

/// Whether a row of the layer's output needs nothing of other rows but the keys and values of those before it.
fn sees_what_came_before(layer: &spec::Layer) -> bool {
    layer.attention.causal && layer.attention.disentangled.is_none() && layer.convolution.is_none()
}

/// Runs the layers and the final norm over `work.x`. Keys and values of each layer go to `cache`. Where only some rows, in
/// ascending order, are `wanted`, they alone are left, and the last layer does no more for the others than to store their
/// keys and values.
pub fn layers(
    team: &Team<'_>,
    s: &spec::Stack,
    w: &StackWeights,
    work: &mut Workspace,
    spans: &[Span],
    cache: &mut Cache,
    cross: Option<&mut Cache>,
    wanted: Option<&[usize]>,
    watching: &mut Watching,
) -> Result<()> {
    let mut views = std::mem::take(&mut work.views);
    let rows = spans.last().map_or(0, |span| span.rows.end);
    let wanted = wanted.filter(|wanted| wanted.len() < rows);
    views.all.fill(spans.iter().cloned(), cross.is_some());
    views.wanted.fill(views.all.pick(wanted.unwrap_or_default()), cross.is_some());
    let result = layers_of(team, s, w, work, &views, rows, cache, cross, wanted, watching);
    work.views = views;
    result
}

/// [`layers`] over the `rows` of a view.
fn layers_of(
    team: &Team<'_>,
    s: &spec::Stack,
    w: &StackWeights,
    work: &mut Workspace,
    views: &Views,
    rows: usize,
    cache: &mut Cache,
    cross: Option<&mut Cache>,
    wanted: Option<&[usize]>,
    watching: &mut Watching,
) -> Result<()> {
    let (mut blocks, tables) = cache.parts();
    let mut cross = cross.map(Cache::parts);
    let tables = [tables, cross.as_ref().map_or(&[], |(_, tables)| *tables)];
    let (hidden, part) = (s.hidden_size, Part::All);
    let mut pass = Pass { team, view: &views.all, tables, rows, hidden, part };
    let mut n = rows * s.hidden_size;
    work.begin();
    let keep = |work: &Workspace, n: usize, watching: &mut Watching| {
        if let Some(states) = &mut watching.states {
            states.push(work.x[..n].to_vec());
        }
    };
    keep(work, n, watching);
    for (i, (layer, lw)) in s.layers.iter().zip(&w.layers).enumerate() {
        if let Some(wanted) = wanted.filter(|_| i + 1 == s.layers.len() && sees_what_came_before(layer)) {
            let keys = Pass { part: Part::Keys, ..pass };
            work.self_attention(&keys, &layer.attention, &lw.attention, blocks.kv(i), None);
            if wanted.is_empty() {
                return team.check();
            }
            gather(&mut work.x, wanted, s.hidden_size);
            pass = Pass { view: &views.wanted, rows: wanted.len(), part: Part::Queries, ..pass };
            n = wanted.len() * s.hidden_size;
            work.begin();
        }
        let input = layer.convolution.as_ref().map(|_| work.x[..n].to_vec());
        {
            let kv = blocks.kv(i);
            let watch = (watching.attention == Some(i)).then_some(&mut watching.probabilities);
            if layer.attention.disentangled.is_some() {
                super::disentangled::attention(
                    work,
                    &pass,
                    &layer.attention,
                    &lw.attention,
                    &w.relative,
                    watch,
                );
            } else if layer.parallel {
                work.parallel(&pass, layer, lw, kv, watch);
            } else {
                work.self_attention(&pass, &layer.attention, &lw.attention, kv, watch);
            }
        }
        if let (Some(a), Some(cw), Some((blocks, _))) =
            (&layer.cross_attention, &lw.cross_attention, &mut cross)
        {
            let watch = (watching.cross_attention == Some(i)).then_some(&mut watching.probabilities);
            work.cross_attention(&pass, a, cw, blocks.kv(i), watch);
        }
        if !layer.parallel {
            work.feed_forward(&pass, &layer.feed_forward, &lw.feed_forward);
        }
        if let (Some(c), Some(cw), Some(input)) = (&layer.convolution, &lw.convolution, input) {
            super::disentangled::convolution(&pass, c, cw, &input, &mut work.x[..n]);
        }
        team.check()?;
        if i + 1 < s.layers.len() {
            keep(work, n, watching);
        }
    }
    if let Some(wanted) = wanted.filter(|_| pass.part == Part::All) {
        gather(&mut work.x, wanted, s.hidden_size);
        pass.rows = wanted.len();
        n = wanted.len() * s.hidden_size;
    }
    let rows = pass.rows;
    if let Some(norm) = &w.norm {
        norm.normalize_in_place(team, &mut work.x[..n], s.hidden_size);
    }
    if let Some(output) = &w.output {
        let width = output.weight.outputs();
        let x = sized(&mut work.narrow, n);
        x.copy_from_slice(&work.x[..n]);
        let out = sized(&mut work.x, rows * width);
        linear(team, &mut work.product, (&*x).into(), rows, &[output.target(out)]);
    }
    if let Some(states) = &mut watching.states {
        states.push(work.x[..rows * s.output_width()].to_vec());
    }
    team.check()
}
