//! The interface of an operator, the body of a residual block.

use super::pass::Pass;
use super::positions::Rotary;
use super::stream::Stream;
use crate::error::Result;
use crate::model::bounds::Site;
use crate::model::state::{State, StateKind};
use crate::model::walk::Walk;

/// Widths of the states that a body reads.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    pub hidden: usize,
    /// The encoder's final states, which cross-attention reads; 0 without an encoder.
    pub source: usize,
}

/// The attention probabilities that a body can capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured {
    SelfAttention,
    CrossAttention,
}

/// Captured probabilities, `[heads, queries, keys]` of each sequence.
pub type Capture<'a> = Option<&'a mut Vec<f32>>;

/// The body of a block.
pub trait Operator: Sized {
    /// Its description.
    type Spec;
    /// Reused memory of passes.
    type Scratch: Default + Send;
    /// Name of its tensors within a layer.
    const NAME: &'static str;
    /// An output row depends only on its own input row and on the source.
    const ROW_WISE: bool = false;
    /// It can store the state of all rows first and compute the output of some of them later ([`Part`]).
    const SPLITS: bool = false;
    const CAPTURED: Option<Captured> = None;
    /// It reads the stack's table of relative positions.
    const READS_RELATIVE: bool = false;

    /// Refuses sizes and numbers that are out of bounds.
    fn validate(spec: &Self::Spec, place: &str, site: &Site) -> Result<()>;

    /// Takes its tensors, named `{name}.{part}`.
    fn load(spec: &Self::Spec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> Self;

    /// The state that it keeps of a sequence between steps.
    fn state(_spec: &Self::Spec, _hidden: usize) -> StateKind {
        StateKind::None
    }

    /// Networks with tensors of their own.
    fn networks(_spec: &Self::Spec) -> usize {
        1
    }

    /// Rotation of its queries and keys.
    fn rotary(_spec: &Self::Spec) -> Option<&Rotary> {
        None
    }

    /// Runs over the rows of a pass: reads the input of the stream and adds the output to it.
    fn forward(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        state: State<'_>,
        scratch: &mut Self::Scratch,
        capture: Capture<'_>,
    );
}
