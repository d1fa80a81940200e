//! The feed-forward network: `down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))` without a
//! gate.

use super::operator::{Capture, Operator, Widths};
use super::pass::Pass;
use super::stream::Stream;
use crate::error::Result;
use crate::matmul::Target;
use crate::model::bounds::{Site, refuse, size};
use crate::model::describe::mirror;
use crate::model::state::State;
use crate::model::walk::{Linear, Walk};
use crate::simd::Activation;
use crate::tensor::{Buffer, sized};

mirror!(/// A network of two layers.
FeedForwardSpec {
    width: usize,
    activation: Activation,
    #[serde(default)] gated: bool,
    #[serde(default)] gate_bias: bool,
    #[serde(default)] up_bias: bool,
    #[serde(default)] down_bias: bool,
});

/// A loaded feed-forward network.
pub struct FeedForward {
    spec: FeedForwardSpec,
    gate: Option<Linear>,
    up: Linear,
    pub(super) down: Linear,
}

impl Operator for FeedForward {
    type Spec = FeedForwardSpec;
    /// Output of the first layer, `[rows, width]`.
    type Scratch = Buffer<f32>;
    const NAME: &'static str = "feed_forward";
    const ROW_WISE: bool = true;

    fn validate(f: &FeedForwardSpec, place: &str, _site: &Site) -> Result<()> {
        size(place, "width", f.width)?;
        if f.gate_bias && !f.gated {
            return refuse(place, "gate_bias", true, "false where gated is false");
        }
        Ok(())
    }

    fn load(f: &FeedForwardSpec, walk: &mut Walk<'_>, name: &str, widths: Widths) -> FeedForward {
        let width = widths.hidden;
        FeedForward {
            gate: f.gated.then(|| walk.linear(&format!("{name}.gate"), f.width, width, f.gate_bias)),
            up: walk.linear(&format!("{name}.up"), f.width, width, f.up_bias),
            down: walk.linear(&format!("{name}.down"), width, f.width, f.down_bias),
            spec: f.clone(),
        }
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        stream: &mut Stream<'_>,
        _state: State<'_>,
        inner: &mut Buffer<f32>,
        _capture: Capture<'_>,
    ) {
        let inner = sized(inner, pass.rows * self.spec.width);
        stream.products(pass, &[self.inner(inner)]);
        stream.project(pass, &self.down, inner);
    }
}

impl FeedForward {
    /// Width of the inner states.
    pub(super) fn width(&self) -> usize {
        self.spec.width
    }

    /// The product that gives the inner states, `[rows, width]`.
    pub(super) fn inner<'a>(&'a self, out: &'a mut [f32]) -> Target<'a> {
        Target {
            gate: self.gate.as_ref().map(|g| (&*g.weight, g.bias.as_deref())),
            activation: self.spec.activation,
            ..self.up.target(out)
        }
    }
}
