//! Products with `f32`, `bf16` and `f16` weights: one chain of fused multiply-adds per output.
//!
//! A panel is `[input][16 outputs]`, with bf16 `[input pair][16 outputs][2]`, padded with zeros beside an odd
//! last input: a shift gives vectors of the first inputs, a mask those of the second, and products of pairs
//! read this order directly.
//!
//! bf16 weights multiply f32 activations, input after input, or activations rounded to bf16. The latter
//! follow the order of AVX-512 BF16 on every level: for each pair of inputs `c = fma(x1, w1, c)`, then `c =
//! fma(x0, w0, c)`, each rounded to nearest even. Intel defines VDPBF16PS so, and a Zen 5 gave these bits in
//! millions of draws. VDPBF16PS also treats subnormal inputs as zeros and flushes subnormal results, whatever
//! MXCSR says, where the other levels keep them: bits are equal as long as weights and sums stay normal.
//! Subnormal activations become zeros on every level ([`Layout::Bf16AsF32`]).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tile;
#[cfg(target_arch = "x86_64")]
pub mod x86;

use super::layout::Layout;
use super::panel::{PANEL, SUPERBLOCK};
use super::subproduct::Subproduct;
use crate::tensor::{Buffer, WeightType};
use half::{bf16, f16};

/// Panels that a product with one row reads side by side: a single chain would be bound by its latency.
pub const SIDE_BY_SIDE: usize = 4;

/// Maximum number of rows for which kernels read the packed weights; with more, parts of a panel are
/// converted to f32 once.
pub const FEW_ROWS: usize = 4;

/// Rows in a tile of pairs of bf16.
pub const PAIRS_HEIGHT: usize = 6;

/// Products of an instruction set.
pub struct Float {
    pub product: Product,
    /// The layout of activations in f32.
    pub layout: Layout,
    /// Maximum number of rows in a tile, where they are many.
    pub height: usize,
}

/// Computes a subproduct; see [`super::driver::product`].
pub type Product = fn(Layout, Subproduct<'_>, &mut Buffer<f32>, &mut [f32]);

fn index(weight_type: WeightType, input: usize, output: usize) -> usize {
    match weight_type {
        WeightType::Bf16 => input / 2 * 2 * PANEL + output * 2 + input % 2,
        _ => input * PANEL + output,
    }
}

/// Packs 16 rows; false where a value is out of the type's range.
pub fn pack(to: WeightType, rows: &[f32], inputs: usize, out: &mut [u8]) -> bool {
    let mut fits = true;
    for (i, row) in rows.chunks_exact(inputs).enumerate() {
        for (k, &v) in row.iter().enumerate() {
            let at = index(to, k, i);
            match to {
                WeightType::F32 => out[4 * at..4 * at + 4].copy_from_slice(&v.to_le_bytes()),
                WeightType::F16 => {
                    let h = f16::from_f32(v);
                    fits &= h.is_finite();
                    out[2 * at..2 * at + 2].copy_from_slice(&h.to_le_bytes());
                }
                _ => {
                    let h = bf16::from_f32(v);
                    fits &= h.is_finite();
                    out[2 * at..2 * at + 2].copy_from_slice(&h.to_le_bytes());
                }
            }
        }
    }
    fits
}

fn value(weight_type: WeightType, panel: &[u8], input: usize, output: usize) -> f32 {
    let at = index(weight_type, input, output);
    match weight_type {
        WeightType::F32 => f32::from_le_bytes(panel[4 * at..4 * at + 4].try_into().expect("four bytes")),
        WeightType::F16 => f16::from_le_bytes([panel[2 * at], panel[2 * at + 1]]).to_f32(),
        _ => bf16::from_le_bytes([panel[2 * at], panel[2 * at + 1]]).to_f32(),
    }
}

/// One row of a panel.
pub fn unpack(weight_type: WeightType, panel: &[u8], row: usize, out: &mut [f32]) {
    for (k, o) in out.iter_mut().enumerate() {
        *o = value(weight_type, panel, k, row);
    }
}

/// Portable code; the other levels equal it to the bit.
pub fn scalar(layout: Layout, part: Subproduct<'_>, _: &mut Buffer<f32>, out: &mut [f32]) {
    let Subproduct { weight: w, panels, x: view, tiles, .. } = part;
    let (first_row, rows) = view.packed.rows_of(&tiles);
    let (inputs, weight_type) = (w.inputs(), w.weight_type());
    // In `Bf16AsF32` the second of each pair comes first.
    let swap = usize::from(layout == Layout::Bf16AsF32);
    for (p, panel) in panels.enumerate() {
        let bytes = w.panel(panel);
        for tile in tiles.clone() {
            let (start, m) = view.packed.tiles[tile];
            let c = &mut out[(p * rows + start - first_row) * PANEL..][..m * PANEL];
            c.fill(0.0);
            for block in 0..inputs.div_ceil(SUPERBLOCK) {
                let (x, _) = view.float(layout, block, tile);
                for (k, x) in x.chunks_exact(m).enumerate() {
                    for j in 0..PANEL {
                        let weight = value(weight_type, bytes, (block * SUPERBLOCK + k) ^ swap, j);
                        for i in 0..m {
                            c[i * PANEL + j] = x[i].mul_add(weight, c[i * PANEL + j]);
                        }
                    }
                }
            }
        }
    }
}
