//! What the x86-64 kernels of float weights share.

use crate::matmul::panel::PANEL;

/// What a kernel multiplies.
pub const F32: u8 = 0;
pub const BF16: u8 = 1;
pub const F16: u8 = 2;
/// bf16, of each two inputs the second first.
pub const SWAPPED: u8 = 3;
/// Pairs of bf16 by pairs of bf16.
pub const HALVES: u8 = 4;

/// Bytes ahead of the reading that a matrix-vector product asks the memory for. Measured on Zen 5: 4 KB
/// brings streams of 2-byte weights from 0.69 to 0.77 of the read bandwidth.
pub const PREFETCH_BYTES: usize = 4 * 1024;

/// Bytes of a line of the caches.
pub const LINE: usize = 64;

/// `(length, w, w_stride, x, x_stride, c, c_stride, first, ahead)`: some rows by one panel or more, `length` inputs. Panels lie
/// `w_stride` bytes apart from `w` on, their results `c_stride` values apart from `c` on, which start at zero where `first`; rows
/// of activations `x_stride` values apart from `x` on, where 1 means that they are interleaved. While a kernel reads a panel's
/// weights it asks for as many bytes from `ahead` on; one for a few rows asks for those of all panels, `w_stride` bytes apart.
pub type Kernel = unsafe fn(usize, *const u8, usize, *const f32, usize, *mut f32, usize, bool, *const u8);

/// Bytes of 16 weights.
pub const fn size<const W: u8>() -> usize {
    if W == F32 { 4 * PANEL } else { 2 * PANEL }
}
