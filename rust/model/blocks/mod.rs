//! Residual blocks, `x = residual_norm(x + residual_scale * output_norm(body(input_norm(x))))`.
//!
//! A block owns its body, an operator. Each operator has one file here with its description, checks, tensors,
//! state and forward pass, and one line in [`bodies!`] below. All blocks share the residual [`Stream`] and
//! the [`Pass`] over some rows of a batch.

mod attention;
mod convolution;
mod cross_attention;
mod disentangled_attention;
mod experts;
mod feed_forward;
mod operator;
mod pass;
pub mod positions;
mod short_convolution;
mod stream;

use super::bounds::Site;
use super::cache::Cache;
use super::describe::{Norm, mirror, one};
use super::state::{State, StateKind, StatePlace};
use super::walk::Walk;
use crate::error::Result;
use crate::matmul;
use crate::ops::kv::{Sequence, Sequences};
use crate::tensor::Buffer;
use crate::threads::Team;
use operator::{Capture, Operator};
pub use operator::{Captured, Widths};
pub use pass::{Part, Pass};
use stream::{Edges, Stream};

/// Makes the enums over all operators: descriptions, loaded bodies, and their scratch memory.
macro_rules! bodies {
    ($($name:ident in $module:ident;)*) => {
        /// The description of a body.
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        pub enum BodySpec {
            $($name(Box<<$module::$name as Operator>::Spec>),)*
        }

        /// A loaded body.
        pub enum Body {
            $($name(Box<$module::$name>),)*
        }

        /// Scratch memory of every kind of body.
        #[derive(Default)]
        pub struct BodyScratch {
            $($module: <$module::$name as Operator>::Scratch,)*
        }

        impl BodySpec {
            /// Name of its tensors within a layer, unless the block gives another.
            pub fn default_name(&self) -> &'static str {
                match self { $(BodySpec::$name(_) => $module::$name::NAME,)* }
            }

            pub(super) fn validate(&self, place: &str, site: &Site) -> Result<()> {
                match self { $(BodySpec::$name(spec) => $module::$name::validate(spec, place, site),)* }
            }

            fn load(&self, walk: &mut Walk<'_>, name: &str, widths: Widths) -> Body {
                match self {
                    $(BodySpec::$name(spec) => {
                        Body::$name(Box::new($module::$name::load(spec, walk, name, widths)))
                    })*
                }
            }

            /// Whether it reads the stack's table of relative positions.
            pub fn reads_relative(&self) -> bool {
                match self { $(BodySpec::$name(_) => $module::$name::READS_RELATIVE,)* }
            }

            /// The state that the body keeps of a sequence between steps.
            pub fn state(&self, hidden: usize) -> StateKind {
                match self { $(BodySpec::$name(spec) => $module::$name::state(spec, hidden),)* }
            }

            /// Networks with tensors of their own: one, or the experts.
            pub fn networks(&self) -> usize {
                match self { $(BodySpec::$name(spec) => $module::$name::networks(spec),)* }
            }

            /// Rotation of its queries and keys.
            pub fn rotary(&self) -> Option<&positions::Rotary> {
                match self { $(BodySpec::$name(spec) => $module::$name::rotary(spec),)* }
            }
        }

        impl Body {
            /// An output row depends only on its own input row and on the source.
            pub fn is_row_wise(&self) -> bool {
                match self { $(Body::$name(_) => $module::$name::ROW_WISE,)* }
            }

            /// It can store the state of all rows first and compute the output of some of them later.
            pub fn splits(&self) -> bool {
                match self { $(Body::$name(_) => $module::$name::SPLITS,)* }
            }

            /// The attention probabilities that it can capture.
            pub fn captured(&self) -> Option<Captured> {
                match self { $(Body::$name(_) => $module::$name::CAPTURED,)* }
            }

            fn forward(
                &self,
                pass: &Pass<'_>,
                stream: &mut Stream<'_>,
                state: State<'_>,
                scratch: &mut BodyScratch,
                capture: Capture<'_>,
            ) {
                match self {
                    $(Body::$name(body) => body.forward(pass, stream, state, &mut scratch.$module, capture),)*
                }
            }
        }
    };
}

bodies! {
    Attention in attention;
    CrossAttention in cross_attention;
    DisentangledAttention in disentangled_attention;
    FeedForward in feed_forward;
    Convolution in convolution;
    ShortConvolution in short_convolution;
    Experts in experts;
}

impl BodySpec {
    /// Whether it attends to an encoder's states.
    pub fn reads_source(&self) -> bool {
        matches!(self.state(1), StateKind::Sources(_))
    }
}

mirror!(/// A residual block around a body.
BlockSpec {
    body: BodySpec,
    /// Name of its tensors within the layer; the body's own where absent.
    #[serde(default)] name: Option<String>,
    #[serde(default)] input_norm: Option<Norm>,
    #[serde(default)] output_norm: Option<Norm>,
    #[serde(default)] residual_norm: Option<Norm>,
    #[serde(default = "one")] residual_scale: f64,
    #[serde(default)] residual_after_norm: bool,
    #[serde(default)] from_layer_input: bool,
});

impl BlockSpec {
    /// Name of its tensors within the layer.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.body.default_name())
    }
}

/// A loaded block.
pub struct Block {
    pub body: Body,
    /// The place of its state in a cache.
    pub place: StatePlace,
    edges: Edges,
}

/// Hidden states and scratch of the blocks; reused, so a step makes no large allocations.
#[derive(Default)]
pub struct Scratch {
    /// Hidden states, `[rows, hidden]`.
    pub x: Buffer<f32>,
    /// The input of the current layer, if one of its blocks reads it.
    pub layer_input: Buffer<f32>,
    normed: Buffer<f32>,
    y: Buffer<f32>,
    pub product: matmul::Scratch,
    bodies: BodyScratch,
}

impl Block {
    pub(super) fn load(
        spec: &BlockSpec,
        walk: &mut Walk<'_>,
        layer: &str,
        widths: Widths,
        place: StatePlace,
    ) -> Block {
        let name = format!("{layer}.{}", spec.name());
        let mut norm = |part: &str, norm: &Option<Norm>| {
            walk.norm(&format!("{name}.{part}"), norm.as_ref(), &[widths.hidden])
        };
        let edges = Edges {
            input_norm: norm("input_norm", &spec.input_norm),
            output_norm: norm("output_norm", &spec.output_norm),
            residual_norm: norm("residual_norm", &spec.residual_norm),
            scale: spec.residual_scale as f32,
            after_norm: spec.residual_after_norm,
            from_layer_input: spec.from_layer_input,
        };
        Block { body: spec.body.load(walk, &name, widths), place, edges }
    }

    /// Whether it reads the layer's input instead of the running states.
    pub fn reads_layer_input(&self) -> bool {
        self.edges.from_layer_input
    }

    /// Stores what the block's cross-attention, if it is one, reads of the sources' states, `[rows, width]`.
    pub fn store_source(
        &self,
        team: &Team<'_>,
        scratch: &mut Scratch,
        states: &[f32],
        sources: &[Sequence],
        cache: &mut Cache,
    ) {
        if let Body::CrossAttention(attention) = &self.body {
            let (kv, tables) = cache.state(self.place).blocks();
            let memory = (&mut scratch.product, &mut scratch.bodies.cross_attention);
            attention.store_source(team, memory, states, Sequences { list: sources, tables }, kv);
        }
    }

    /// Runs over the rows of a pass, on `scratch.x`.
    pub fn forward(&self, pass: &Pass<'_>, state: State<'_>, scratch: &mut Scratch, capture: Capture<'_>) {
        let Scratch { x, layer_input, normed, y, product, bodies } = scratch;
        let mut stream = Stream { x, layer_input, normed, y, product, edges: &self.edges };
        self.body.forward(pass, &mut stream, state, bodies, capture);
    }
}
