//! Sizes that all packed layouts share.

/// Outputs in a panel.
pub const PANEL: usize = 16;
/// Inputs in a block.
pub const SUPERBLOCK: usize = 256;
/// Inputs that share a scale, in weights and in 8-bit activations of `q8`.
pub const GROUP: usize = 32;
/// Groups in a block.
pub const GROUPS: usize = SUPERBLOCK / GROUP;
