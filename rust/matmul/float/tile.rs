//! Shared by the kernels of float weights: their operands and the tiles that they compute.

use crate::matmul::panel::PANEL;

/// Operands of a kernel.
pub const F32: u8 = 0;
pub const BF16: u8 = 1;
pub const F16: u8 = 2;
/// bf16, the second of each two inputs first.
pub const SWAPPED: u8 = 3;
/// Pairs of bf16 by pairs of bf16.
#[cfg(target_arch = "x86_64")]
pub const HALVES: u8 = 4;

/// Prefetch distance of a matrix-vector product. Measured on Zen 5: 4 KB brings streams of 2-byte weights
/// from 0.69 to 0.77 of the read bandwidth.
#[cfg(target_arch = "x86_64")]
pub const PREFETCH_BYTES: usize = 4 * 1024;

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
pub const LINE: usize = 64;

/// What a kernel computes: M rows by the 16 outputs of P panels, over some inputs.
///
/// A kernel may be called where the CPU has its instructions, M and P are its numbers of rows and panels, and each
/// field holds what its line promises.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "only kernels of x86 prefetch and read whole rows")
)]
pub struct Tile {
    /// Number of inputs.
    pub length: usize,
    /// The weights of these inputs in the first panel; f32 where the kernel is for converted weights.
    pub w: *const u8,
    /// Bytes from a panel to the next.
    pub w_stride: usize,
    /// The activations of M rows; pairs of bf16 for the kernels of pairs.
    pub x: *const f32,
    /// Values from a row of activations to the next; 1 where rows are interleaved.
    pub x_stride: usize,
    /// Results `[M][16]` of the first panel.
    pub c: *mut f32,
    /// Values from the results of a panel to those of the next.
    pub c_stride: usize,
    /// Whether the results start at zero instead of being added to.
    pub first: bool,
    /// While a kernel reads a panel it prefetches as many bytes from here on; kernels for few rows prefetch for all
    /// panels, `w_stride` bytes apart. Any address will do.
    pub ahead: *const u8,
    /// Bytes of 16 weights as they are packed, by which kernels for converted weights move `ahead`.
    pub packed_bytes: usize,
}

/// Computes a tile.
pub type Kernel = unsafe fn(&Tile);

/// Bytes of 16 weights.
pub const fn size<const W: u8>() -> usize {
    if W == F32 { 4 * PANEL } else { 2 * PANEL }
}
