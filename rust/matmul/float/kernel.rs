//! Shared by the x86-64 kernels of float weights.

use crate::matmul::panel::PANEL;

/// Operands of a kernel.
pub const F32: u8 = 0;
pub const BF16: u8 = 1;
pub const F16: u8 = 2;
/// bf16, the second of each two inputs first.
pub const SWAPPED: u8 = 3;
/// Pairs of bf16 by pairs of bf16.
pub const HALVES: u8 = 4;

/// Prefetch distance of a matrix-vector product. Measured on Zen 5: 4 KB brings streams of 2-byte weights
/// from 0.69 to 0.77 of the read bandwidth.
pub const PREFETCH_BYTES: usize = 4 * 1024;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// `(length, w, w_stride, x, x_stride, c, c_stride, first, ahead)`: some rows by one or more panels, `length`
/// inputs. Panels lie `w_stride` bytes apart from `w` on, their results `c_stride` values apart from `c` on,
/// starting at zero where `first`; rows of activations lie `x_stride` values apart from `x` on, where 1 means
/// interleaved. While a kernel reads a panel it prefetches as many bytes from `ahead` on; kernels for few
/// rows prefetch for all panels, `w_stride` bytes apart.
pub type Kernel = unsafe fn(usize, *const u8, usize, *const f32, usize, *mut f32, usize, bool, *const u8);

/// Bytes of 16 weights.
pub const fn size<const W: u8>() -> usize {
    if W == F32 { 4 * PANEL } else { 2 * PANEL }
}
