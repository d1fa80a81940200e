//! The instruction set in use: the best of the machine, or the one that `LAPWING_ISA` names.

use crate::error::{Error, Result};
#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

/// Instruction sets with kernels of their own, from the plainest up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Portable code.
    Scalar,
    /// AVX2, FMA and F16C: x86-64 since 2013-2015.
    Avx2,
    /// AVX2 with AVX-VNNI, multiply-adds of 8-bit and 16-bit integers in 256-bit registers: Alder Lake, Zen
    /// 5.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI: Ice Lake, Zen 4.
    Avx512,
    /// Advanced SIMD, present on every 64-bit ARM.
    Neon,
    /// NEON with FEAT_DotProd, dot products of four bytes: Cortex-A55 and A76, Apple M1.
    Dotprod,
    /// NEON with FEAT_DotProd and FEAT_I8MM, products of small matrices of bytes: Neoverse V1, Cortex-A510,
    /// Apple M2.
    I8mm,
}

impl Isa {
    const ALL: [Isa; 7] =
        [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Neon, Isa::Dotprod, Isa::I8mm];

    /// The name in `LAPWING_ISA`.
    fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
        }
    }

    /// Whether this machine has it.
    fn detected(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.detected() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.detected()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => Isa::Neon.detected() && is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::I8mm => Isa::Dotprod.detected() && is_aarch64_feature_detected!("i8mm"),
            #[allow(unreachable_patterns, reason = "which arms remain depends on the architecture")]
            _ => false,
        }
    }
}

/// An instruction set that this machine has: proof that its kernels may run.
///
/// The field is private to this file, and every constructor detects the instruction set first, so safe
/// functions that take a `Level` may execute its instructions without a check:
///
/// ```compile_fail
/// let level = _core::simd::Level(_core::simd::Isa::Avx512);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(Isa);

impl Level {
    /// Portable code, which every machine runs.
    pub const SCALAR: Level = Level(Isa::Scalar);

    fn detect(isa: Isa) -> Option<Level> {
        isa.detected().then_some(Level(isa))
    }

    /// Every level of this machine, from the plainest up.
    pub fn present() -> Vec<Level> {
        Isa::ALL.into_iter().filter_map(Level::detect).collect()
    }

    /// The level of a name in `LAPWING_ISA`; `None` for unknown names and for instruction sets that this
    /// machine lacks.
    pub fn named(name: &str) -> Option<Level> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).and_then(Level::detect)
    }

    /// The instruction set, to match on.
    #[inline]
    pub fn isa(self) -> Isa {
        self.0
    }

    /// The name in `LAPWING_ISA`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

/// Whether the level includes AVX-512 BF16, products of pairs of bf16: Zen 4, Cooper Lake and Sapphire
/// Rapids, not Ice Lake.
pub fn multiplies_bf16(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    return level.isa() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
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
    match Level::named(&name) {
        Some(level) => Ok(level),
        None if Isa::ALL.into_iter().any(|isa| isa.name() == name) => Err(Error::Option(format!(
            "LAPWING_ISA={name} is not available on this machine: expected one of {}",
            names()
        ))),
        None => Err(Error::Option(format!("LAPWING_ISA={name:?} is unknown: expected one of {}", names()))),
    }
}

static LEVEL: OnceLock<Result<Level>> = OnceLock::new();

/// The level in use; an error where `LAPWING_ISA` names one that is unknown or not available.
pub fn level_or_error() -> Result<Level> {
    LEVEL.get_or_init(choose).clone()
}

/// The level in use. Loading a model has refused a bad `LAPWING_ISA` before; scalar code is the safe
/// fallback.
#[inline]
pub fn level() -> Level {
    match LEVEL.get_or_init(choose) {
        Ok(level) => *level,
        Err(_) => Level::SCALAR,
    }
}

/// Compiles a function once per instruction set and picks the version by [`level`].
///
/// `multiversion! { pub fn f / f_at (x: &mut [f32]) -> f32 { body } }` defines `f(x)` and, for tests and
/// callers that hold a level, `f_at(level, x)`. In the body `Lanes` is the level's [`Vector`](super::Vector);
/// it must only call `#[inline(always)]` code.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident / $at:ident ( $($arg:ident : $type:ty),* $(,)? ) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[inline]
        #[allow(dead_code, reason = "some callers only use the version that takes a level")]
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            $at($crate::simd::level(), $($arg),*)
        }

        /// The same at a given level.
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
                type Lanes = $crate::simd::vectors::Avx2;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn avx512($($arg: $type),*) $(-> $ret)? {
                #[allow(dead_code, reason = "as above")]
                type Lanes = $crate::simd::vectors::Avx512;
                $body
            }
            #[cfg(target_arch = "aarch64")]
            fn neon($($arg: $type),*) $(-> $ret)? {
                #[allow(dead_code, reason = "as above")]
                type Lanes = $crate::simd::vectors::Neon;
                $body
            }
            match level.isa() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a `Level` exists only for an instruction set that has been detected.
                $crate::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::simd::Isa::Avx2 | $crate::simd::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::simd::Isa::Neon | $crate::simd::Isa::Dotprod | $crate::simd::Isa::I8mm => {
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

    /// Tests of kernels run on the levels that are present: `LAPWING_TEST_ISA` lists those that must be, so
    /// that a run on a machine chosen for them cannot pass without them.
    #[test]
    fn the_expected_levels_are_detected() {
        let present: Vec<&str> = Level::present().into_iter().map(Level::name).collect();
        println!("levels: {}", present.join(", "));
        assert_eq!(present[0], "scalar");
        if let Ok(expected) = std::env::var("LAPWING_TEST_ISA") {
            assert_eq!(present.join(","), expected);
        }
    }

    /// No constructor yields a level that the machine lacks: `named` finds the present ones only, none of
    /// another architecture among them.
    #[test]
    fn levels_exist_for_detected_instruction_sets_only() {
        let present = Level::present();
        for isa in Isa::ALL {
            let found = Level::named(isa.name());
            assert_eq!(found.is_some(), isa.detected(), "{isa:?}");
            assert_eq!(found, present.iter().copied().find(|level| level.isa() == isa), "{isa:?}");
        }
        let foreign: &[&str] = if cfg!(target_arch = "x86_64") {
            &["neon", "dotprod", "i8mm"]
        } else if cfg!(target_arch = "aarch64") {
            &["avx2", "avxvnni", "avx512"]
        } else {
            &["avx2", "avxvnni", "avx512", "neon", "dotprod", "i8mm"]
        };
        assert!(foreign.iter().all(|name| Level::named(name).is_none()));
        assert_eq!(Level::named("AVX2"), None);
        assert_eq!(Level::named("scalar"), Some(Level::SCALAR));
    }
}
