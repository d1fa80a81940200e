//! The roofline of the machine, measured: the peak rates that products are compared with.

use crate::error::Result;
use crate::simd::{Isa, Level, level, multiversion};
use crate::tensor::Buffer;
use crate::threads::Team;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Steps of a burst of multiply-adds: about 0.3 ms.
const STEPS: usize = 200_000;

/// Duration of a measurement: some time slices of the system's scheduler, which last 3 to 10 ms.
const DURATION: Duration = Duration::from_millis(60);

/// Minimum duration of a rate of multiply-adds to count. On a shared Zen 5, single bursts are up to 4 %
/// faster than any second of them, which longer work cannot reach.
const STRETCH: Duration = Duration::from_millis(20);

/// Twelve chains of multiply-adds in the widest vectors of the level; returns the number of multiply-adds.
fn burst(level: Level) -> usize {
    match level.isa() {
        // SAFETY: a `Level` exists only for a detected instruction set.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::burst512() },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { x86::burst256() },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => burst128(),
        _ => {
            let (mut sums, x) = ([0.0f32; 48], std::hint::black_box(0.999f32));
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = *sum * x + 0.9;
                }
            }
            std::hint::black_box(sums);
            48 * STEPS
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn burst128() -> usize {
    use std::arch::aarch64::*;
    // SAFETY: NEON belongs to the architecture.
    unsafe {
        let (x, y) = (vdupq_n_f32(std::hint::black_box(0.999)), vdupq_n_f32(std::hint::black_box(0.9)));
        let mut sums = [vdupq_n_f32(0.0); 24];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = vfmaq_f32(y, *sum, x);
            }
        }
        std::hint::black_box(sums);
    }
    24 * 4 * STEPS
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::STEPS;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub fn burst256() -> usize {
        let (x, y) = (_mm256_set1_ps(std::hint::black_box(0.999)), _mm256_set1_ps(std::hint::black_box(0.9)));
        let mut sums = [_mm256_setzero_ps(); 12];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        std::hint::black_box(sums);
        12 * 8 * STEPS
    }

    #[target_feature(enable = "avx512f")]
    pub fn burst512() -> usize {
        let (x, y) = (_mm512_set1_ps(std::hint::black_box(0.999)), _mm512_set1_ps(std::hint::black_box(0.9)));
        let mut sums = [_mm512_setzero_ps(); 12];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        std::hint::black_box(sums);
        12 * 16 * STEPS
    }
}

/// Peak rate of f32 multiply-adds of the whole team, in billions per second; the best of some stretches.
pub fn multiply_adds(team: &Team<'_>) -> f64 {
    let (level, threads) = (level(), team.threads());
    best(team, || {
        let made = AtomicUsize::new(0);
        let begin = Instant::now();
        team.run(threads, &|_, _| {
            while begin.elapsed() < STRETCH {
                made.fetch_add(burst(level), Ordering::Relaxed);
            }
        });
        made.into_inner()
    })
}

/// The best rate of a work over [`DURATION`], in billions of its return value per second; each thread has a
/// core.
fn best(team: &Team<'_>, mut work: impl FnMut() -> usize) -> f64 {
    let _pinned = team.pin();
    let (begin, mut best) = (Instant::now(), 0.0f64);
    loop {
        let start = Instant::now();
        let done = work() as f64;
        best = best.max(done / start.elapsed().as_secs_f64().max(1e-9) / 1e9);
        if begin.elapsed() >= DURATION {
            return best;
        }
    }
}

multiversion! {
    /// Sum of words, so that all of them are read.
    fn words / words_at (x: &[i32]) -> i32 {
        let mut sums = [0i32; 64];
        for chunk in x.chunks_exact(64) {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum = sum.wrapping_add(*v);
            }
        }
        sums.iter().fold(0, |a, v| a.wrapping_add(*v))
    }
}

/// A buffer larger than the caches, to measure the read bandwidth with.
pub struct ReadBuffer(Buffer<i32>);

impl ReadBuffer {
    /// A buffer of `bytes`, written once.
    ///
    /// # Errors
    /// The allocation fails.
    pub fn new(bytes: usize) -> Result<ReadBuffer> {
        let mut buffer = Buffer::zeroed(bytes / 4)?;
        buffer.fill(1);
        Ok(ReadBuffer(buffer))
    }

    /// Bytes read per second by all threads, in billions; the best of some passes over the whole buffer.
    pub fn read(&self, team: &Team<'_>) -> f64 {
        let (level, pieces) = (level(), 16 * team.threads());
        let piece = self.0.len() / pieces.max(1);
        best(team, || {
            team.run(pieces, &|i, _| {
                std::hint::black_box(words_at(level, &self.0[i * piece..(i + 1) * piece]));
            });
            pieces * piece * 4
        })
    }
}
