//! Sixteen f32 lanes as a plain array: the compiler turns the loops into the vectors of the instruction set
//! that the surrounding function is compiled for, and the arithmetic is the same everywhere.

use super::multiversion;

/// How many partial sums every reduction keeps, on every machine.
pub const LANES: usize = 16;

/// Sixteen values; operations act lane by lane.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

macro_rules! lanewise {
    ($a:expr, |$x:ident| $e:expr) => {{
        let a = $a.0;
        let mut out = [0.0f32; LANES];
        let mut i = 0;
        while i < LANES {
            let $x = a[i];
            out[i] = $e;
            i += 1;
        }
        Lanes(out)
    }};
    ($a:expr, $b:expr, |$x:ident, $y:ident| $e:expr) => {{
        let (a, b) = ($a.0, $b.0);
        let mut out = [0.0f32; LANES];
        let mut i = 0;
        while i < LANES {
            let ($x, $y) = (a[i], b[i]);
            out[i] = $e;
            i += 1;
        }
        Lanes(out)
    }};
}

impl Lanes {
    #[inline(always)]
    pub fn splat(value: f32) -> Lanes {
        Lanes([value; LANES])
    }

    /// The first sixteen values of `x`.
    #[inline(always)]
    pub fn load(x: &[f32]) -> Lanes {
        Lanes(x[..LANES].try_into().expect("sixteen values"))
    }

    /// Up to sixteen values, the rest filled.
    #[inline(always)]
    pub fn load_or(x: &[f32], fill: f32) -> Lanes {
        let mut out = [fill; LANES];
        out[..x.len()].copy_from_slice(x);
        Lanes(out)
    }

    /// Writes sixteen values.
    #[inline(always)]
    pub fn store(self, out: &mut [f32]) {
        out[..LANES].copy_from_slice(&self.0);
    }

    /// Writes as many values as `out` holds, at most sixteen.
    #[inline(always)]
    pub fn store_part(self, out: &mut [f32]) {
        let n = out.len();
        out.copy_from_slice(&self.0[..n]);
    }

    /// `self * b + c` in one rounding.
    #[inline(always)]
    pub fn mul_add(self, b: Lanes, c: Lanes) -> Lanes {
        let mut out = c.0;
        let mut i = 0;
        while i < LANES {
            out[i] = self.0[i].mul_add(b.0[i], out[i]);
            i += 1;
        }
        Lanes(out)
    }

    /// The larger; `other` where either is not a number.
    #[inline(always)]
    pub fn max(self, other: Lanes) -> Lanes {
        lanewise!(self, other, |x, y| if x > y { x } else { y })
    }

    /// The smaller; `other` where either is not a number.
    #[inline(always)]
    pub fn min(self, other: Lanes) -> Lanes {
        lanewise!(self, other, |x, y| if x < y { x } else { y })
    }

    #[inline(always)]
    pub fn abs(self) -> Lanes {
        lanewise!(self, |x| f32::from_bits(x.to_bits() & 0x7fff_ffff))
    }

    #[inline(always)]
    pub fn sqrt(self) -> Lanes {
        lanewise!(self, |x| x.sqrt())
    }

    /// Magnitude of `self`, sign of `sign`.
    #[inline(always)]
    pub fn copysign(self, sign: Lanes) -> Lanes {
        lanewise!(self, sign, |x, y| f32::from_bits(
            (x.to_bits() & 0x7fff_ffff) | (y.to_bits() & 0x8000_0000)
        ))
    }

    /// `a` where `self < limit`, else `b`.
    #[inline(always)]
    pub fn select_below(self, limit: f32, a: Lanes, b: Lanes) -> Lanes {
        let mut out = b.0;
        let mut i = 0;
        while i < LANES {
            out[i] = if self.0[i] < limit { a.0[i] } else { out[i] };
            i += 1;
        }
        Lanes(out)
    }

    /// Sum of the lanes: eight and eight, four and four, two and two, one and one.
    #[inline(always)]
    pub fn fold_sum(self) -> f32 {
        let a = self.0;
        let mut b = [0.0f32; 8];
        for i in 0..8 {
            b[i] = a[i] + a[i + 8];
        }
        let c = [b[0] + b[4], b[1] + b[5], b[2] + b[6], b[3] + b[7]];
        (c[0] + c[2]) + (c[1] + c[3])
    }

    /// The largest lane.
    #[inline(always)]
    pub fn fold_max(self) -> f32 {
        self.0.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
    }
}

impl std::ops::Add for Lanes {
    type Output = Lanes;
    #[inline(always)]
    fn add(self, other: Lanes) -> Lanes {
        lanewise!(self, other, |x, y| x + y)
    }
}

impl std::ops::Sub for Lanes {
    type Output = Lanes;
    #[inline(always)]
    fn sub(self, other: Lanes) -> Lanes {
        lanewise!(self, other, |x, y| x - y)
    }
}

impl std::ops::Mul for Lanes {
    type Output = Lanes;
    #[inline(always)]
    fn mul(self, other: Lanes) -> Lanes {
        lanewise!(self, other, |x, y| x * y)
    }
}

impl std::ops::Div for Lanes {
    type Output = Lanes;
    #[inline(always)]
    fn div(self, other: Lanes) -> Lanes {
        lanewise!(self, other, |x, y| x / y)
    }
}

/// Folds `f` over `x`, sixteen at a time; the last step is filled with `fill`.
#[inline(always)]
pub(crate) fn fold(x: &[f32], fill: f32, start: Lanes, f: impl Fn(Lanes, Lanes) -> Lanes) -> Lanes {
    let mut acc = start;
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        acc = f(acc, Lanes::load(chunk));
    }
    if !chunks.remainder().is_empty() {
        acc = f(acc, Lanes::load_or(chunks.remainder(), fill));
    }
    acc
}

multiversion! {
    /// Sum in sixteen lanes.
    pub fn sum / sum_at(x: &[f32]) -> f32 {
        fold(x, 0.0, Lanes::splat(0.0), |a, v| a + v).fold_sum()
    }
}

multiversion! {
    /// Sum of squares in sixteen lanes.
    pub fn sum_of_squares / sum_of_squares_at(x: &[f32]) -> f32 {
        fold(x, 0.0, Lanes::splat(0.0), |a, v| v.mul_add(v, a)).fold_sum()
    }
}

/// Largest value; minus infinity for none. To be inlined in code compiled for an instruction set.
#[inline(always)]
pub fn lanes_max(x: &[f32]) -> f32 {
    fold(x, f32::NEG_INFINITY, Lanes::splat(f32::NEG_INFINITY), |a, v| v.max(a)).fold_max()
}

multiversion! {
    /// Largest value; minus infinity for none.
    pub fn maximum / maximum_at(x: &[f32]) -> f32 {
        lanes_max(x)
    }
}

multiversion! {
    /// `out = out + scale * x`, each in one rounding.
    pub fn add_scaled / add_scaled_at(out: &mut [f32], scale: f32, x: &[f32]) {
        for (o, v) in out.iter_mut().zip(x) {
            *o = scale.mul_add(*v, *o);
        }
    }
}

multiversion! {
    /// `out = out * x`.
    pub fn multiply_by / multiply_by_at(out: &mut [f32], x: &[f32]) {
        for (o, v) in out.iter_mut().zip(x) {
            *o *= *v;
        }
    }
}
