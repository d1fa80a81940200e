//! Packed weight matrices.

use super::panel::PANEL;
use crate::error::{Error, Result};
use crate::tensor::{Buffer, WeightType};
use std::ops::Range;
use std::sync::Arc;

/// Storage of packed weights.
pub enum Storage {
    Owned(Buffer<u8>),
    /// A part of a mapped file; its offset is a multiple of 64.
    Mapped {
        map: Arc<memmap2::Mmap>,
        offset: usize,
        length: usize,
    },
}

impl Storage {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Storage::Owned(buffer) => buffer,
            Storage::Mapped { map, offset, length } => &map[*offset..*offset + *length],
        }
    }
}

/// Rounding of activations before products: [`Activations::weights`] gives the weights that it applies to;
/// others keep their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// To 16 bits, one scale for 256 inputs: no measurable loss.
    #[default]
    Int16,
    /// To 8 bits, one scale for 32 inputs: faster on CPUs with dot products of bytes.
    Int8,
    /// To bf16, in products with bf16 weights, which otherwise take f32: faster on CPUs with dot products of
    /// bf16.
    Bf16,
}

impl Activations {
    /// The name in the public interface.
    pub fn name(self) -> &'static str {
        match self {
            Activations::Int16 => "int16",
            Activations::Int8 => "int8",
            Activations::Bf16 => "bf16",
        }
    }

    /// The one type of weights that these activations apply to; `None` where they go with any.
    pub fn weights(self) -> Option<WeightType> {
        match self {
            Activations::Int16 => None,
            Activations::Int8 => Some(WeightType::Q8),
            Activations::Bf16 => Some(WeightType::Bf16),
        }
    }

    /// Reads `int16`, `int8` or `bf16`.
    pub fn parse(name: &str) -> Result<Activations> {
        match name {
            "int16" => Ok(Activations::Int16),
            "int8" => Ok(Activations::Int8),
            "bf16" => Ok(Activations::Bf16),
            other => Err(Error::Option(format!(
                "activations={other:?} is unknown: expected \"int16\", \"int8\" or \"bf16\""
            ))),
        }
    }
}

/// A weight matrix `[outputs, inputs]`, packed for the kernels in panels of 16 outputs.
pub struct Matrix {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) weight_type: WeightType,
    /// Activations of products with this matrix, where its type has a choice.
    pub(super) activations: Activations,
    pub(super) data: Storage,
}

impl Matrix {
    /// An empty matrix.
    pub fn empty() -> Matrix {
        let data = Storage::Owned(Buffer::zeroed(0).expect("one byte"));
        Matrix { outputs: 0, inputs: 0, weight_type: WeightType::F32, activations: Activations::Int16, data }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// The same matrix with other activations in products, where they apply to its type.
    pub fn with_activations(self, activations: Activations) -> Matrix {
        let fits = match activations {
            Activations::Int16 => true,
            Activations::Int8 => matches!(self.weight_type, WeightType::Q8 | WeightType::Q6),
            Activations::Bf16 => self.weight_type == WeightType::Bf16,
        };
        Matrix { activations: if fits { activations } else { Activations::default() }, ..self }
    }

    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// The packed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.as_bytes().len()
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Bytes of a panel.
    pub(super) fn panel(&self, panel: usize) -> &[u8] {
        self.some_panels(panel..panel + 1)
    }

    /// Bytes of some panels, which follow each other in memory.
    pub(super) fn some_panels(&self, panels: Range<usize>) -> &[u8] {
        let bytes = self.bytes() / self.panels();
        &self.as_bytes()[panels.start * bytes..panels.end * bytes]
    }
}
