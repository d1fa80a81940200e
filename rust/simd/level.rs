//! Which instruction set to use: the best that the machine has, or the one that `LAPWING_ISA` names.

use crate::error::{Error, Result};
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

/// Instruction sets with kernels of their own, from the plainest up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Portable code.
    Scalar,
    /// AVX2, FMA and F16C: x86-64 since 2013-2015.
    Avx2,
    /// AVX2 with AVX-VNNI, which multiplies and adds integers of 8 and 16 bits in 256-bit registers: Alder Lake, Zen 5.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI: Ice Lake, Zen 4.
    Avx512,
    /// Advanced SIMD, present on every 64-bit ARM.
    Neon,
    /// NEON with FEAT_DotProd, dot products of four bytes: Cortex-A55 and A76, Apple M1.
    Dotprod,
    /// NEON with FEAT_DotProd and FEAT_I8MM, products of small matrices of bytes: Neoverse V1, Cortex-A510, Apple M2.
    I8mm,
}

impl Level {
    pub const ALL: [Level; 7] =
        [Level::Scalar, Level::Avx2, Level::AvxVnni, Level::Avx512, Level::Neon, Level::Dotprod, Level::I8mm];

    /// The name in `LAPWING_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Avx512 => "avx512",
            Level::Neon => "neon",
            Level::Dotprod => "dotprod",
            Level::I8mm => "i8mm",
        }
    }

    /// Whether this machine can run it.
    pub fn available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => Level::Avx2.available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                Level::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Level::Neon => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Level::Dotprod => Level::Neon.available() && is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Level::I8mm => Level::Dotprod.available() && is_aarch64_feature_detected!("i8mm"),
            #[allow(unreachable_patterns, reason = "which arms remain depends on the architecture")]
            _ => false,
        }
    }

    /// Every level that this machine can run.
    pub fn present() -> Vec<Level> {
        Level::ALL.into_iter().filter(|level| level.available()).collect()
    }
}

/// Whether code of the level may use AVX-512 BF16, products of pairs of bf16: Zen 4, Cooper Lake and Sapphire Rapids, not Ice Lake.
pub fn multiplies_bf16(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    return level == Level::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = level;
        false
    }
}

fn choose() -> Result<Level> {
    let present = Level::present();
    let best = *present.last().expect("scalar code is always available");
    let Ok(name) = std::env::var("LAPWING_ISA") else { return Ok(best) };
    if name.is_empty() || name == "auto" {
        return Ok(best);
    }
    let names = || present.iter().map(|l| l.name()).collect::<Vec<_>>().join(", ");
    match Level::ALL.into_iter().find(|l| l.name() == name) {
        Some(level) if level.available() => Ok(level),
        Some(_) => Err(Error::Option(format!(
            "LAPWING_ISA={name} is not available on this machine: expected one of {}",
            names()
        ))),
        None => Err(Error::Option(format!("LAPWING_ISA={name:?} is unknown: expected one of {}", names()))),
    }
}

static LEVEL: OnceLock<Result<Level>> = OnceLock::new();

/// The level in use; an error where `LAPWING_ISA` names one that cannot be had.
pub fn level_or_error() -> Result<Level> {
    LEVEL.get_or_init(choose).clone()
}

/// The level in use. Loading a model has refused a bad `LAPWING_ISA` before; scalar code is the safe answer.
#[inline]
pub fn level() -> Level {
    match LEVEL.get_or_init(choose) {
        Ok(level) => *level,
        Err(_) => Level::Scalar,
    }
}

/// Compiles a function once per instruction set and picks the version by [`level`].
///
/// `multiversion! { pub fn f / f_at (x: &mut [f32]) -> f32 { body } }` makes `f(x)` and, for tests and
/// callers that hold a level, `f_at(level, x)`. In the body `Lanes` is the level's [`Vector`](super::Vector); it must only call
/// `#[inline(always)]` code.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident / $at:ident ( $($arg:ident : $type:ty),* $(,)? ) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[inline]
        #[allow(dead_code, reason = "some callers only use the version that takes a level")]
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            $at($crate::simd::level(), $($arg),*)
        }

        /// The same at a given level, which the machine must have.
        #[allow(unused_imports, reason = "not every function has vectors in it")]
        $vis fn $at(level: $crate::simd::Level, $($arg: $type),*) $(-> $ret)? {
            use $crate::simd::Vector as _;
            fn portable($($arg: $type),*) $(-> $ret)? {
                #[allow(dead_code, reason = "as above")]
                type Lanes = $crate::simd::Portable;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) $(-> $ret)? {
                #[allow(dead_code, reason = "as above")]
                type Lanes = $crate::simd::Avx2;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn avx512($($arg: $type),*) $(-> $ret)? {
                #[allow(dead_code, reason = "as above")]
                type Lanes = $crate::simd::Avx512;
                $body
            }
            #[cfg(target_arch = "aarch64")]
            fn neon($($arg: $type),*) $(-> $ret)? {
                #[allow(dead_code, reason = "as above")]
                type Lanes = $crate::simd::Neon;
                $body
            }
            match level {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a level in use has been detected on this machine.
                $crate::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::simd::Level::Avx2 | $crate::simd::Level::AvxVnni => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::simd::Level::Neon | $crate::simd::Level::Dotprod | $crate::simd::Level::I8mm => {
                    neon($($arg),*)
                }
                _ => portable($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests of kernels go through the levels that are present: `LAPWING_TEST_ISA` tells which ones must be, so that a
    /// run on a machine chosen for them cannot pass without them.
    #[test]
    fn the_expected_levels_are_detected() {
        let present: Vec<&str> = Level::present().into_iter().map(Level::name).collect();
        println!("levels: {}", present.join(", "));
        assert_eq!(present[0], "scalar");
        if let Ok(expected) = std::env::var("LAPWING_TEST_ISA") {
            assert_eq!(present.join(","), expected);
        }
    }
}
