//! A pass over some rows of a batch, as the blocks see it.

use crate::model::rows::View;
use crate::threads::Team;

/// Everything a body reads besides its weights, its input and its state.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub team: &'a Team<'a>,
    pub view: &'a View,
    pub rows: usize,
    pub hidden: usize,
    pub part: Part,
    /// Number of the view, by which tables of positions are known to be its own.
    pub stamp: u64,
    /// Normalized table of relative positions that the layers share; empty without one.
    pub relative: &'a [f32],
}

/// What a body that splits computes of the rows of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    /// Stores the rows' state and gives no output.
    Store,
    /// Gives the output of rows whose state is stored.
    Output,
}
