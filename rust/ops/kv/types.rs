//! Sizes and element types of blocks of keys and values.

use crate::error::{Error, Result};

/// Tokens in a block.
pub const KV_BLOCK: usize = 32;

/// Blocks that are allocated together.
pub const SEGMENT: usize = 16;

/// Element type of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    F32,
    F16,
    Q8,
}

impl KvType {
    /// Its name in the public interface.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8 => "q8",
        }
    }

    /// Parses `f32`, `f16` or `q8`.
    pub fn parse(name: &str) -> Result<KvType> {
        match name {
            "f32" => Ok(KvType::F32),
            "f16" => Ok(KvType::F16),
            "q8" => Ok(KvType::Q8),
            other => Err(Error::Option(format!(
                "kv_cache={other:?} is unknown: expected \"auto\", \"f32\", \"f16\" or \"q8\""
            ))),
        }
    }
}

/// Elements of a block: f32, or the bits of f16.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
}
