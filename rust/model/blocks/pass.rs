//! A pass over some rows of a batch.

use crate::model::rows::View;
use crate::threads::Team;

/// The input of a body besides its weights, its stream and its state.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub team: &'a Team<'a>,
    pub view: &'a View,
    pub rows: usize,
    pub hidden: usize,
    pub part: Part,
    /// Number of the view, which identifies its tables of positions.
    pub stamp: u64,
    /// Normalized table of relative positions, shared by the layers; may be empty.
    pub relative: &'a [f32],
}

/// The part of the work that a body computes for the rows of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// Stores the state of the rows, without output.
    Store,
    /// Computes the output of rows whose state is stored.
    Output,
}
