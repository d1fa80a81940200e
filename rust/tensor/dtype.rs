//! Element types: of stored tensors and of packed weights.

use crate::error::{Error, Result};

/// Type of a tensor in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F32,
    F16,
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// Parses `float32`, `float16` or `bfloat16`.
    pub fn parse(name: &str) -> Result<DType> {
        match name {
            "float32" => Ok(DType::F32),
            "float16" => Ok(DType::F16),
            "bfloat16" => Ok(DType::Bf16),
            other => Err(Error::Checkpoint(format!(
                "element type {other:?} is not supported: expected float32, float16 or bfloat16"
            ))),
        }
    }
}

/// Type of a packed weight matrix in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightType {
    F32,
    Bf16,
    F16,
    Q8,
    /// Token tables and language heads of models in q4.
    Q6,
    Q4,
}

impl WeightType {
    const ALL: [WeightType; 6] =
        [WeightType::F32, WeightType::Bf16, WeightType::F16, WeightType::Q8, WeightType::Q6, WeightType::Q4];

    /// Its name in the public interface.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "f32",
            WeightType::Bf16 => "bf16",
            WeightType::F16 => "f16",
            WeightType::Q8 => "q8",
            WeightType::Q6 => "q6",
            WeightType::Q4 => "q4",
        }
    }

    /// The type with a name.
    pub fn named(name: &str) -> Option<WeightType> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Parses a type that a model can be converted to: `f32`, `bf16`, `f16`, `q8` or `q4`.
    pub fn parse(name: &str) -> Result<WeightType> {
        Self::named(name).filter(|&t| t != WeightType::Q6).ok_or_else(|| {
            Error::Option(format!(
                "weights={name:?} is unknown: expected \"stored\", \"f32\", \"bf16\", \"f16\", \"q8\" or \"q4\""
            ))
        })
    }
}
