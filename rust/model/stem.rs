//! Stems turn the input of a model into the first hidden states. A stem owns its description, checks, tensors
//! and forward pass, like the body of a block.

use super::bounds::{finite, norms, positive, refuse, size, vocabulary};
use super::describe::{Norm as NormSpec, mirror, one};
use super::rows::Span;
use super::walk::{Linear, Use, Walk};
use crate::error::{Error, Result};
use crate::matmul::{self, Matrix, linear};
use crate::ops::norm::Norm;
use crate::tensor::{Buffer, sized};
use crate::threads::Team;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mirror!(/// Mask tokens count as dropped (ESM).
TokenDropout { mask: usize, kept: f64 });

mirror!(/// Token, position and segment tables with a norm and a projection.
TokenStemSpec {
    vocab_size: usize,
    #[serde(default)] embedding_size: Option<usize>,
    #[serde(default = "one")] scale: f64,
    #[serde(default)] projection_bias: bool,
    #[serde(default)] project_before_positions: bool,
    #[serde(default)] positions: usize,
    #[serde(default)] segments: usize,
    #[serde(default)] norm: Option<NormSpec>,
    #[serde(default)] norm_before_positions: bool,
    #[serde(default)] unplaced: Option<usize>,
    #[serde(default)] padding: Option<usize>,
    #[serde(default)] dropout: Option<TokenDropout>,
});

/// The description of a stem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StemSpec {
    Tokens(TokenStemSpec),
}

/// A loaded stem.
pub enum Stem {
    Tokens(TokenStem),
}

/// Input of a stem.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub ids: &'a [u32],
    pub segments: Option<&'a [u32]>,
}

impl StemSpec {
    pub(super) fn validate(&self, place: &str, decoder: bool) -> Result<()> {
        match self {
            StemSpec::Tokens(spec) => spec.validate(place, decoder),
        }
    }

    /// Number of positions of the stem; `None` without a bound.
    pub fn longest(&self) -> Option<usize> {
        match self {
            StemSpec::Tokens(spec) => (spec.positions > 0).then_some(spec.positions),
        }
    }

    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        match self {
            StemSpec::Tokens(spec) => spec.vocab_size,
        }
    }

    /// Refuses ids beyond the tables.
    pub(super) fn check(&self, input: Input<'_>) -> Result<()> {
        let StemSpec::Tokens(spec) = self;
        check_ids("token id", input.ids, spec.vocab_size)?;
        match input.segments {
            Some(_) if spec.segments == 0 => {
                Err(Error::Option("segment_ids were given: this model has no segments".to_owned()))
            }
            Some(segments) => check_ids("segment id", segments, spec.segments),
            None => Ok(()),
        }
    }
}

/// Refuses ids beyond a table; `what` names them in the message.
fn check_ids(what: &str, ids: &[u32], count: usize) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= count) {
        Some(i) => Err(Error::Option(format!(
            "{what} {} at position {i} is out of range: expected 0 to {}",
            ids[i],
            count - 1
        ))),
        None => Ok(()),
    }
}

impl Stem {
    pub(super) fn load(spec: &StemSpec, walk: &mut Walk<'_>, name: &str, width: usize) -> Stem {
        match spec {
            StemSpec::Tokens(spec) => Stem::Tokens(TokenStem::load(spec, walk, name, width)),
        }
    }

    /// Writes the first hidden states, `[rows, width]`, to `scratch.x`.
    pub fn forward(&self, team: &Team<'_>, input: Input<'_>, spans: &[Span], scratch: Scratch<'_>) {
        match self {
            Stem::Tokens(stem) => stem.forward(team, input, spans, scratch),
        }
    }
}

/// Reused memory of a stem.
pub struct Scratch<'a> {
    /// Hidden states.
    pub x: &'a mut Buffer<f32>,
    /// States before the projection.
    pub narrow: &'a mut Buffer<f32>,
    pub product: &'a mut matmul::Scratch,
}

impl TokenStemSpec {
    fn validate(&self, place: &str, decoder: bool) -> Result<()> {
        vocabulary(place, "vocab_size", self.vocab_size)?;
        if let Some(e) = self.embedding_size {
            size(place, "embedding_size", e)?;
        } else {
            let needless = [
                ("projection_bias", self.projection_bias),
                ("project_before_positions", self.project_before_positions),
            ];
            if let Some((field, _)) = needless.iter().find(|(_, given)| *given) {
                return refuse(place, field, true, "false where there is no embedding_size");
            }
        }
        if self.positions > 0 {
            size(place, "positions", self.positions)?;
        }
        if self.segments > 0 {
            size(place, "segments", self.segments)?;
        }
        finite(place, "scale", self.scale)?;
        if let Some(d) = &self.dropout {
            positive(place, "dropout.kept", d.kept)?;
            if decoder {
                return refuse(place, "dropout", "given", "none in a decoder");
            }
        }
        if let Some(padding) = self.padding {
            if decoder {
                return refuse(place, "padding", padding, "none in a decoder");
            }
            if self.positions == 0 {
                return refuse(place, "padding", padding, "none without a table of positions");
            }
        }
        norms(place, &[("norm", &self.norm)])
    }
}

/// Tables of a token stem.
pub struct TokenStem {
    spec: TokenStemSpec,
    width: usize,
    token: Arc<Matrix>,
    position: Vec<f32>,
    segment: Vec<f32>,
    norm: Option<Norm>,
    projection: Option<Linear>,
}

impl TokenStem {
    fn load(spec: &TokenStemSpec, walk: &mut Walk<'_>, stack: &str, width: usize) -> TokenStem {
        let name = format!("{stack}.embedding");
        let token_width = spec.embedding_size.unwrap_or(width);
        let table_width = if spec.project_before_positions { width } else { token_width };
        let mut table = |part: &str, rows: usize| match rows {
            0 => Vec::new(),
            _ => walk.values(format!("{name}.{part}.weight"), vec![rows, table_width]),
        };
        // The last row belongs to padding.
        let positions = spec.positions + usize::from(spec.padding.is_some());
        let (position, segment) = (table("position", positions), table("segment", spec.segments));
        TokenStem {
            width,
            token: walk.matrix(format!("{name}.token.weight"), spec.vocab_size, token_width, Use::Vocabulary),
            position,
            segment,
            norm: walk.norm(&format!("{name}.norm"), spec.norm.as_ref(), &[table_width]),
            projection: spec.embedding_size.map(|_| {
                walk.linear(&format!("{name}.projection"), width, token_width, spec.projection_bias)
            }),
            spec: spec.clone(),
        }
    }

    /// Rows of the token table, scaled.
    fn gather(&self, team: &Team<'_>, ids: &[u32], out: &mut [f32]) {
        let (width, scale) = (self.token.inputs(), self.spec.scale as f32);
        let rows = 16;
        team.run_mut(out, rows * width, &|i, piece, _| {
            for (r, row) in piece.chunks_mut(width).enumerate() {
                self.token.row_into(ids[i * rows + r] as usize, row);
                if scale != 1.0 {
                    row.iter_mut().for_each(|v| *v *= scale);
                }
            }
        });
    }

    fn forward(&self, team: &Team<'_>, input: Input<'_>, spans: &[Span], scratch: Scratch<'_>) {
        let Scratch { x, narrow, product } = scratch;
        let (s, ids, rows) = (&self.spec, input.ids, input.ids.len());
        let token_width = self.token.inputs();
        let width = if s.project_before_positions { self.width } else { token_width };
        let late = if s.project_before_positions { None } else { self.projection.as_ref() };
        let out = match &self.projection {
            Some(projection) if s.project_before_positions => {
                let tokens = sized(narrow, rows * token_width);
                self.gather(team, ids, tokens);
                let out = sized(x, rows * width);
                linear(team, product, (&*tokens).into(), rows, &[projection.target(out)]);
                out
            }
            _ => {
                let out = sized(if late.is_some() { &mut *narrow } else { &mut *x }, rows * width);
                self.gather(team, ids, out);
                out
            }
        };
        if let Some(d) = &s.dropout {
            for span in spans {
                let first = span.rows.start * width;
                drop_masked(d, &ids[span.rows.clone()], &mut out[first..], width);
            }
        }
        if let Some(norm) = self.norm.as_ref().filter(|_| s.norm_before_positions) {
            norm.normalize_in_place(team, out, width);
        }
        self.add_tables(input, spans, out, width);
        if let Some(norm) = self.norm.as_ref().filter(|_| !s.norm_before_positions) {
            norm.normalize_in_place(team, out, width);
        }
        if let Some(projection) = late {
            let tokens = &narrow[..rows * width];
            linear(team, product, tokens.into(), rows, &[projection.target(sized(x, rows * self.width))]);
        }
    }

    /// Adds positions and segments.
    fn add_tables(&self, input: Input<'_>, spans: &[Span], out: &mut [f32], width: usize) {
        let s = &self.spec;
        for span in spans {
            let mut padded = 0;
            for row in span.rows.clone() {
                let out = &mut out[row * width..][..width];
                let mut add = |table: &[f32], index: usize| {
                    for (o, v) in out.iter_mut().zip(&table[index * width..][..width]) {
                        *o += v;
                    }
                };
                if s.segments > 0 {
                    add(&self.segment, input.segments.map_or(0, |t| t[row] as usize));
                }
                let id = Some(input.ids[row] as usize);
                if s.positions > 0 && s.padding == id {
                    padded += 1;
                    add(&self.position, s.positions);
                } else if s.positions > 0 && s.unplaced != id {
                    add(&self.position, span.first + row - span.rows.start - padded);
                }
            }
        }
    }
}

/// Clears the rows of mask tokens of one sequence and scales the others, as if the masked ones had been
/// dropped.
fn drop_masked(d: &TokenDropout, ids: &[u32], x: &mut [f32], width: usize) {
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
