//! The epilogue of a product, applied while its results are in the L1 cache: bias, activation, gate, and the
//! store to the output rows.

use super::panel::PANEL;
use crate::simd::{Activation, apply, multiversion, prefetch_at, with_activation};
use crate::tensor::Disjoint;

/// Rows ahead at which residuals are prefetched: they lie a whole row apart, a stride that hardware
/// prefetchers miss. Measured on Zen 5.
const PREFETCH_ROWS: usize = 16;

/// A panel's results, `[row][16]`, and the bias of its outputs.
#[derive(Clone, Copy)]
pub struct PanelResults<'a> {
    pub values: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

impl<'a> PanelResults<'a> {
    /// Results of the panel that begins with output `first`, with its part of a bias for all `n` outputs.
    pub fn new(values: &'a [f32], bias: Option<&'a [f32]>, first: usize) -> PanelResults<'a> {
        PanelResults { values, bias: bias.map(|b| &b[first..b.len().min(first + PANEL)]) }
    }
}

/// The output of a panel: columns `at..at + n` of the first row, rows `stride` apart; with `add`, results are
/// multiplied by it and added in one rounding.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    pub out: &'a Disjoint<'a, f32>,
    pub at: usize,
    pub stride: usize,
    pub n: usize,
    pub add: Option<f32>,
}

multiversion! {
    /// Applies the epilogue to a panel: `activation(y + bias)`, or `(y + bias) * activation(gate + its
    /// bias)`.
    pub fn epilogue / epilogue_at (
        y: PanelResults<'_>,
        gate: Option<PanelResults<'_>>,
        activation: Activation,
        to: Destination<'_>,
    ) {
        // No bias adds nothing, not zero: -0 stays -0.
        let bias = y.bias.map(|b| Lanes::load_or(b, 0.0));
        let gate_bias = gate.and_then(|g| g.bias).map(|b| Lanes::load_or(b, 0.0));
        with_activation!(activation, ACTIVATION => {
            let mut at = to.at;
            let mut row = 0;
            while row < y.values.len() {
                let mut z = Lanes::load(&y.values[row..]);
                if let Some(bias) = bias {
                    z = z + bias;
                }
                if let Some(gate) = gate {
                    let mut g = Lanes::load(&gate.values[row..]);
                    if let Some(bias) = gate_bias {
                        g = g + bias;
                    }
                    z = z * apply(ACTIVATION, g);
                } else {
                    z = apply(ACTIVATION, z);
                }
                // SAFETY: each panel of each row belongs to one chunk.
                let row_out = unsafe { to.out.slice(at, to.n) };
                if let Some(scale) = to.add {
                    prefetch_at(to.out.address(at + PREFETCH_ROWS * to.stride).cast(), 4 * PANEL);
                    z = Lanes::splat(scale).mul_add(z, Lanes::load_or(row_out, 0.0));
                }
                z.store_part(row_out);
                at += to.stride;
                row += PANEL;
            }
        });
    }
}
