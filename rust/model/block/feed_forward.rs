//! The feed-forward network: `down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` where nothing gates.

use super::{End, Pass, Source, Workspace};
use crate::matmul::Target;
use crate::model::spec;
use crate::model::weights::FeedForwardWeights;
use crate::tensor::sized;

impl Workspace {
    /// The feed-forward network of a source.
    pub(super) fn inner(
        &mut self,
        pass: &Pass<'_>,
        f: &spec::FeedForward,
        w: &FeedForwardWeights,
        source: Source<'_>,
    ) {
        let mut buffer = std::mem::take(&mut self.inner);
        let inner = sized(&mut buffer, pass.rows * f.width);
        let up = Target {
            gate: w.gate.as_ref().map(|g| (&*g.weight, g.bias.as_deref())),
            activation: f.activation,
            ..w.up.target(inner)
        };
        self.products(pass, source, &[up]);
        self.project(pass, &w.down, inner, Some(End::of_feed_forward(f, w)));
        self.inner = buffer;
    }

    /// The feed-forward block with its norms and residual.
    pub fn feed_forward(&mut self, pass: &Pass<'_>, f: &spec::FeedForward, w: &FeedForwardWeights) {
        let source = self.source(pass, w.input_norm.as_ref(), f.residual_after_norm);
        self.inner(pass, f, w, source);
    }
}
