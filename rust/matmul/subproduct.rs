//! The unit of work of the drivers.

use super::activations::ActivationView;
use super::matrix::Matrix;
use std::ops::Range;

/// The product of some panels of a matrix with some tiles of activations; results are `[panel][row][16]`.
#[derive(Clone)]
pub struct Subproduct<'a> {
    pub weight: &'a Matrix,
    pub panels: Range<usize>,
    pub x: ActivationView<'a>,
    pub tiles: Range<usize>,
    /// Rows for which the kernels are chosen: those of the region.
    pub rows: usize,
}
