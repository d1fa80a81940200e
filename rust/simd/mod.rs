//! Instruction sets, sixteen lanes of f32, and element-wise arithmetic with equal bits on each of them.
//!
//! Element-wise code is written once over a [`Vector`] of sixteen f32 values and compiled once per
//! instruction set by [`multiversion!`], which names its vector type `Lanes`; [`level`] chooses the version
//! at run time. All operations are IEEE operations in a fixed order, so every version gives the same bits.

mod activation;
mod lanes;
mod level;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
pub mod testing;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use activation::with_activation;
pub use activation::{Activation, activate, apply};
pub use lanes::{
    LANES, Portable, ROUND, Vector, add_scaled, lanes_max, maximum, prefetch, prefetch_at, sum,
    sum_of_squares, to_f16, to_f32_at,
};
pub use level::{Isa, Level, level, level_or_error, multiplies_bf16};
pub use math::{erf, exp, log, sigmoid, tanh};

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::f16_to_f32;

/// Vector types of the instruction sets, for the expansion of [`multiversion!`] alone: their methods are
/// safe, but sound only inside functions that are compiled for the instruction set and reached through a
/// [`Level`].
pub(crate) mod vectors {
    #[cfg(target_arch = "aarch64")]
    pub(crate) use super::neon::Neon;
    #[cfg(target_arch = "x86_64")]
    pub(crate) use super::x86::{Avx2, Avx512};
}

pub(crate) use level::multiversion;
