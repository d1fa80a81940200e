//! The residual stream around one block: the source of its input and the target of its output.

use super::pass::Pass;
use crate::matmul::{self, Input, Target, linear};
use crate::model::walk::Linear;
use crate::ops::norm::Norm;
use crate::simd::add_scaled;
use crate::tensor::{Buffer, sized};

/// The norms of a block and how its output is added.
pub struct Edges {
    pub input_norm: Option<Norm>,
    pub output_norm: Option<Norm>,
    pub residual_norm: Option<Norm>,
    pub scale: f32,
    /// The residual is the normalized input of the block.
    pub after_norm: bool,
    /// The block reads the input of the layer.
    pub from_layer_input: bool,
}

/// The residual stream as one block uses it.
pub struct Stream<'a> {
    pub(super) x: &'a mut Buffer<f32>,
    pub(super) layer_input: &'a Buffer<f32>,
    pub(super) normed: &'a mut Buffer<f32>,
    pub(super) y: &'a mut Buffer<f32>,
    pub product: &'a mut matmul::Scratch,
    pub(super) edges: &'a Edges,
}

impl Stream<'_> {
    /// The block's input after its norm, `[rows, hidden]`, and the memory of products.
    pub fn input(&mut self, pass: &Pass<'_>) -> (&[f32], &mut matmul::Scratch) {
        let n = pass.rows * pass.hidden;
        let x = if self.edges.from_layer_input { &self.layer_input[..n] } else { &self.x[..n] };
        let normed = sized(self.normed, n);
        match &self.edges.input_norm {
            Some(norm) => norm.normalize(pass.team, x, pass.hidden, normed),
            None => normed.copy_from_slice(x),
        }
        (normed, self.product)
    }

    /// The block's first products, of its normalized input. The norm runs as the products' prologue, unless
    /// the residual needs the normalized input too.
    pub fn products(&mut self, pass: &Pass<'_>, targets: &[Target<'_>]) {
        if self.edges.after_norm {
            let (input, product) = self.input(pass);
            linear(pass.team, product, input.into(), pass.rows, targets);
            return;
        }
        let n = pass.rows * pass.hidden;
        let values = if self.edges.from_layer_input { &self.layer_input[..n] } else { &self.x[..n] };
        let normalize;
        let input = match &self.edges.input_norm {
            None => Input::from(values),
            Some(norm) => {
                normalize = |row: usize, x: &[f32], to: &mut [f32]| norm.row(row, x, to);
                Input { values, prologue: Some(&normalize) }
            }
        };
        linear(pass.team, self.product, input, pass.rows, targets);
    }

    /// The block's last product, of `input: [rows, _]`, and the residual; without a norm in between the
    /// residual is the epilogue of the product.
    pub fn project(&mut self, pass: &Pass<'_>, last: &Linear, input: &[f32]) {
        let n = pass.rows * pass.hidden;
        if self.edges.output_norm.is_some() || self.edges.after_norm {
            let y = sized(self.y, n);
            linear(pass.team, self.product, input.into(), pass.rows, &[last.target(y)]);
            self.residual(pass);
            return;
        }
        let x = &mut self.x[..n];
        let sum = Target { add: Some(self.edges.scale), ..last.target(x) };
        linear(pass.team, self.product, input.into(), pass.rows, &[sum]);
        if let Some(norm) = &self.edges.residual_norm {
            norm.normalize_in_place(pass.team, &mut self.x[..n], pass.hidden);
        }
    }

    /// The normalized input, memory for an output that the body computes itself, each `[rows, hidden]`, and
    /// scratch of products; [`Stream::residual`] adds the output.
    pub fn input_and_output(&mut self, pass: &Pass<'_>) -> (&[f32], &mut [f32], &mut matmul::Scratch) {
        let n = pass.rows * pass.hidden;
        self.input(pass);
        (&self.normed[..n], sized(self.y, n), self.product)
    }

    /// Adds the output: `x = residual_norm(x + scale * output_norm(y))`.
    pub fn residual(&mut self, pass: &Pass<'_>) {
        let n = pass.rows * pass.hidden;
        let (x, y) = (&mut self.x[..n], &mut self.y[..n]);
        if let Some(norm) = &self.edges.output_norm {
            norm.normalize_in_place(pass.team, y, pass.hidden);
        }
        if self.edges.after_norm {
            x.copy_from_slice(&self.normed[..n]);
        }
        add_scaled(x, self.edges.scale, y);
        if let Some(norm) = &self.edges.residual_norm {
            norm.normalize_in_place(pass.team, x, pass.hidden);
        }
    }
}
