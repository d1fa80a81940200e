//! Matrix products `y = x @ weight.T` with packed weights (first version: plain loops).

pub mod micro;

use crate::error::Result;
use crate::simd::{Activation, activate};
use crate::tensor::{Buffer, Source, WeightType};
use crate::threads::Team;

/// A weight matrix `[outputs, inputs]`, packed for the kernels.
pub struct Matrix {
    outputs: usize,
    inputs: usize,
    weight_type: WeightType,
    data: Buffer<f32>,
}

impl Matrix {
    /// Packs `source` as `to`, quantizing where that type asks for it.
    pub fn pack(source: &Source<'_>, to: WeightType, _team: &Team) -> Result<Matrix> {
        let (outputs, inputs) = (source.rows(), source.columns());
        let mut data = Buffer::zeroed(outputs * inputs)?;
        for (row, out) in data.chunks_mut(inputs.max(1)).enumerate() {
            source.row_into(row, out);
        }
        Ok(Matrix { outputs, inputs, weight_type: to, data })
    }

    /// A matrix of nothing.
    pub fn empty() -> Matrix {
        let data = Buffer::zeroed(0).expect("one byte");
        Matrix { outputs: 0, inputs: 0, weight_type: WeightType::F32, data }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.data.len() * 4
    }

    /// One row as f32 (the embedding of a token); `out` holds `inputs` values.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.inputs..][..self.inputs]);
    }
}

/// Memory that products reuse between calls: strips of prepared activations.
#[derive(Default)]
pub struct Scratch {}

/// One product of a region and where it goes: with `y = weight x + bias` and `g = gate x + gate bias`,
/// `z = activation(g) * y` where there is a gate, else `activation(y)`; then `out = z`, or
/// `out += add * z`.
pub struct Target<'a> {
    pub weight: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub gate: Option<(&'a Matrix, Option<&'a [f32]>)>,
    pub activation: Activation,
    pub add: Option<f32>,
    /// `[rows, stride]`, of which the first `weight.outputs()` columns are written.
    pub out: &'a mut [f32],
    pub stride: usize,
}

/// Computes all `targets` from the same activations `x: [rows, inputs]`, in one parallel region.
///
/// Each output is one chain of sums in a fixed order, so it does not depend on the number of rows, the
/// other targets, the threads or the instruction set.
pub fn linear(_team: &Team, _scratch: &mut Scratch, x: &[f32], rows: usize, targets: &mut [Target<'_>]) {
    for t in targets {
        let (n, k) = (t.weight.outputs, t.weight.inputs);
        let product = |w: &Matrix, bias: Option<&[f32]>, r: usize, j: usize| {
            let sum = (0..k).fold(0.0f32, |s, i| w.data[j * k + i].mul_add(x[r * k + i], s));
            sum + bias.map_or(0.0, |b| b[j])
        };
        for r in 0..rows {
            for j in 0..n {
                let y = product(t.weight, t.bias, r, j);
                let z = match &t.gate {
                    Some((gate, bias)) => {
                        let mut g = [product(gate, *bias, r, j)];
                        activate(t.activation, &mut g);
                        g[0] * y
                    }
                    None => {
                        let mut v = [y];
                        activate(t.activation, &mut v);
                        v[0]
                    }
                };
                let o = &mut t.out[r * t.stride + j];
                *o = match t.add {
                    Some(scale) => scale.mul_add(z, *o),
                    None => z,
                };
            }
        }
    }
}
