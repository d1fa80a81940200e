//! Packing of weight matrices, and unpacking of single rows.

use super::matrix::{Activations, Matrix, Storage};
use super::panel::PANEL;
use super::{float, q4, q6, q8};
use crate::error::{Error, Result};
use crate::tensor::{Buffer, Source, WeightType};
use crate::threads::Team;
use std::sync::atomic::{AtomicBool, Ordering};

/// Version of the packed layouts: incremented whenever the bytes of any of them change.
pub const LAYOUT_VERSION: u32 = 8;

/// Bytes of one panel.
fn panel_bytes(weight_type: WeightType, inputs: usize) -> Option<usize> {
    match weight_type {
        WeightType::F32 => inputs.checked_mul(4 * PANEL),
        WeightType::F16 => inputs.checked_mul(2 * PANEL),
        WeightType::Bf16 => inputs.div_ceil(2).checked_mul(4 * PANEL),
        WeightType::Q8 => q8::panel_bytes(inputs),
        WeightType::Q6 => q6::panel_bytes(inputs),
        WeightType::Q4 => q4::panel_bytes(inputs),
    }
}

impl Matrix {
    /// Packed bytes.
    pub fn size(outputs: usize, inputs: usize, weight_type: WeightType) -> Result<usize> {
        panel_bytes(weight_type, inputs)
            .and_then(|b| b.checked_mul(outputs.div_ceil(PANEL)))
            .ok_or_else(|| Error::Memory(format!("a matrix of {outputs} x {inputs} is too large")))
    }

    /// Packs `source` as `to`, quantizing where the type requires it.
    ///
    /// # Errors
    /// A weight is not finite or out of the type's range; the allocation fails.
    pub fn pack(source: &Source<'_>, to: WeightType, team: &Team<'_>) -> Result<Matrix> {
        let (outputs, inputs) = (source.rows(), source.columns());
        let mut data = Buffer::<u8>::zeroed(Self::size(outputs, inputs, to)?)?;
        let bytes = panel_bytes(to, inputs).unwrap_or_default();
        let bad = AtomicBool::new(false);
        if bytes > 0 {
            team.run_mut(&mut data, bytes, &|panel, out, _| {
                let mut rows = vec![0.0f32; PANEL * inputs];
                let n = PANEL.min(outputs - panel * PANEL);
                for (i, row) in rows.chunks_exact_mut(inputs).take(n).enumerate() {
                    source.row_into(panel * PANEL + i, row);
                }
                let fits = all_finite(&rows)
                    && match to {
                        WeightType::Q8 => q8::pack(&rows, inputs, out),
                        WeightType::Q6 => q6::pack(&rows, inputs, out),
                        WeightType::Q4 => q4::pack(&rows, inputs, out),
                        _ => float::pack(to, &rows, inputs, out),
                    };
                if !fits {
                    bad.store(true, Ordering::Relaxed);
                }
            });
        }
        if bad.load(Ordering::Relaxed) {
            return Err(Self::explain(source, to));
        }
        Ok(Matrix {
            outputs,
            inputs,
            weight_type: to,
            activations: Activations::Int16,
            data: Storage::Owned(data),
        })
    }

    /// The error for the value that could not be packed.
    fn explain(source: &Source<'_>, to: WeightType) -> Error {
        let mut row = vec![0.0; source.columns()];
        let (mut largest, mut at) = (0.0f32, [0, 0]);
        for r in 0..source.rows() {
            source.row_into(r, &mut row);
            if let Some(c) = row.iter().position(|v| !v.is_finite()) {
                return Error::Checkpoint(format!(
                    "the weight at [{r}, {c}] is {}: expected a finite number",
                    row[c]
                ));
            }
            for (c, v) in row.iter().enumerate() {
                if v.abs() > largest.abs() {
                    (largest, at) = (*v, [r, c]);
                }
            }
        }
        let wider = if to == WeightType::Bf16 { "weights=\"f32\"" } else { "weights=\"bf16\" or \"f32\"" };
        Error::Checkpoint(format!(
            "the weight at {at:?} is {largest:e}: too large for weights={:?}; load with {wider}",
            to.name()
        ))
    }

    /// A matrix from packed bytes, as `as_bytes` returned them.
    ///
    /// # Errors
    /// The number of bytes does not match the shape, or they are not aligned.
    pub fn from_parts(
        outputs: usize,
        inputs: usize,
        weight_type: WeightType,
        data: Storage,
    ) -> Result<Matrix> {
        let expected = Self::size(outputs, inputs, weight_type)?;
        let got = data.bytes();
        if got.len() != expected || !(got.as_ptr() as usize).is_multiple_of(64) {
            return Err(Error::Checkpoint(format!(
                "packed weights of {outputs} x {inputs} have {} bytes: expected {expected}, aligned",
                got.len()
            )));
        }
        Ok(Matrix { outputs, inputs, weight_type, activations: Activations::Int16, data })
    }

    /// One row as f32 (the embedding of a token); `out` holds `inputs` values.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.outputs && out.len() == self.inputs, "a row of the matrix");
        let (panel, row) = (self.panel(row / PANEL), row % PANEL);
        match self.weight_type {
            WeightType::Q8 => q8::unpack(panel, row, out),
            WeightType::Q6 => q6::unpack(panel, row, out),
            WeightType::Q4 => q4::unpack(panel, self.inputs, row, out),
            _ => float::unpack(self.weight_type, panel, row, out),
        }
    }
}

fn all_finite(x: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    x.iter().fold(true, |ok, v| ok & (v.to_bits() & EXPONENT != EXPONENT))
}
