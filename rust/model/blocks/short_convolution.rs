//! The gated short convolution of LFM2: `[b, c, x] = input(h)`, `y = output(c * conv(b * x))`, with a causal
//! depthwise convolution over a few tokens. The state of a sequence is the last inputs of the convolution.
//! Liquid AI 2025, <https://arxiv.org/abs/2511.23404>

use super::operator::{Capture, Operator, Widths};
use super::pass::Pass;
use super::stream::Stream;
use crate::error::Result;
use crate::model::bounds::{Site, refuse};
use crate::model::describe::mirror;
use crate::model::rows::Span;
use crate::model::state::{State, StateKind};
use crate::model::walk::{Linear, Walk};
use crate::simd::{LANES, multiversion};
use crate::tensor::{Buffer, sized};

/// Maximum kernel size in tokens.
const MAX_KERNEL: usize = 64;

mirror!(/// A gated causal depthwise convolution.
ShortConvolutionSpec { kernel: usize, #[serde(default)] bias: bool });

/// A loaded short convolution.
pub struct ShortConvolution {
    kernel: usize,
    input: Linear,
    /// `[kernel, hidden]`, the weights of the oldest token first.
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    output: Linear,
}

/// Reused memory of passes.
#[derive(Default)]
pub struct Scratch {
    /// `[rows, 3 * hidden]`: the gates b and c, and x.
    projected: Buffer<f32>,
    /// Inputs of one sequence: the state, then those of the pass, `[kernel - 1 + rows, hidden]`.
    inputs: Buffer<f32>,
    /// `[rows, hidden]`
    context: Buffer<f32>,
}

multiversion! {
    /// `out = a * b`
    fn multiply / multiply_at(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((a, b), out) in a.chunks(LANES).zip(b.chunks(LANES)).zip(out.chunks_mut(LANES)) {
            (Lanes::load_or(a, 0.0) * Lanes::load_or(b, 0.0)).store_part(out);
        }
    }
}

multiversion! {
    /// One row of the output: `c * (bias + sum over t of weight[t] * inputs[t])`, the sum in the order of the
    /// tokens.
    fn convolve / convolve_at(inputs: &[f32], weight: &[f32], bias: &[f32], c: &[f32], out: &mut [f32]) {
        let width = out.len();
        let mut i = 0;
        while i < width {
            let end = (i + LANES).min(width);
            let mut sum = if bias.is_empty() { Lanes::splat(0.0) } else { Lanes::load_or(&bias[i..end], 0.0) };
            let mut at = 0;
            while at < weight.len() {
                let x = Lanes::load_or(&inputs[at + i..at + end], 0.0);
                sum = Lanes::load_or(&weight[at + i..at + end], 0.0).mul_add(x, sum);
                at += width;
            }
            (Lanes::load_or(&c[i..end], 0.0) * sum).store_part(&mut out[i..end]);
            i = end;
        }
    }
}

impl Operator for ShortConvolution {
    type Spec = ShortConvolutionSpec;
    type Scratch = Scratch;
    const NAME: &'static str = "short_convolution";

    fn validate(c: &ShortConvolutionSpec, place: &str, _site: &Site) -> Result<()> {
        if c.kernel < 2 || c.kernel > MAX_KERNEL {
            return refuse(place, "kernel", c.kernel, "2 to 64");
        }
        Ok(())
    }

    fn load(c: &ShortConvolutionSpec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> ShortConvolution {
        let width = widths.hidden;
        let stored = walk.values(format!("{name}.convolution.weight"), vec![width, c.kernel]);
        // Transposed, so that the channels of a token are contiguous; a listing walk has no weights.
        let taps = if stored.is_empty() { 0 } else { c.kernel };
        let weight = (0..taps).flat_map(|t| (0..width).map(move |i| (i, t)));
        ShortConvolution {
            kernel: c.kernel,
            input: walk.linear(&format!("{name}.input"), 3 * width, width, c.bias),
            weight: weight.map(|(i, t)| stored[i * c.kernel + t]).collect(),
            bias: c.bias.then(|| walk.values(format!("{name}.convolution.bias"), vec![width])),
            output: walk.linear(&format!("{name}.output"), width, width, c.bias),
        }
    }

    fn state(c: &ShortConvolutionSpec, hidden: usize) -> StateKind {
        StateKind::Slots((c.kernel - 1) * hidden)
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        state: State<'_>,
        scratch: &mut Scratch,
        _capture: Capture<'_>,
    ) {
        let mut state = state.slots();
        let (rows, width) = (pass.rows, pass.hidden);
        let Scratch { projected, inputs, context } = scratch;
        let projected = sized(projected, rows * 3 * width);
        stream.products(pass, &[self.input.target(projected)]);
        let (projected, context) = (&*projected, sized(context, rows * width));
        for span in &pass.view.spans {
            let kept = (self.kernel - 1) * width;
            let inputs = sized(inputs, kept + span.rows.len() * width);
            match state.current(span.sequence) {
                Some(tail) => inputs[..kept].copy_from_slice(tail),
                None => inputs[..kept].fill(0.0),
            }
            self.span(
                pass,
                span,
                projected,
                inputs,
                &mut context[span.rows.start * width..span.rows.end * width],
            );
            let end = span.first + span.rows.len();
            state.write(span.sequence, span.first, end, |position, tail| {
                tail.copy_from_slice(&inputs[(position - span.first) * width..][..kept]);
            });
        }
        stream.project(pass, &self.output, context);
    }
}

impl ShortConvolution {
    /// The rows of one sequence: appends to `inputs`, and convolves.
    fn span(&self, pass: &Pass<'_>, span: &Span, projected: &[f32], inputs: &mut [f32], out: &mut [f32]) {
        let (width, team) = (pass.hidden, pass.team);
        // Rows of a chunk of work.
        let rows = (16 * 1024 / width).max(1);
        let part =
            |row: usize, part: usize| &projected[((span.rows.start + row) * 3 + part) * width..][..width];
        team.run_mut(&mut inputs[(self.kernel - 1) * width..], rows * width, &|i, piece, _| {
            for (r, to) in piece.chunks_exact_mut(width).enumerate() {
                multiply(part(i * rows + r, 0), part(i * rows + r, 2), to);
            }
        });
        let (inputs, bias) = (&*inputs, self.bias.as_deref().unwrap_or(&[]));
        team.run_mut(out, rows * width, &|i, piece, _| {
            for (r, to) in piece.chunks_exact_mut(width).enumerate() {
                let row = i * rows + r;
                convolve(&inputs[row * width..], &self.weight, bias, part(row, 1), to);
            }
        });
    }
}
