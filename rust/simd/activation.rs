//! Activation functions, element by element.

use super::lanes::{LANES, Vector};
use super::level::multiversion;
use super::math::{erf, exp, sigmoid, tanh};

/// Activations by name, as in the description of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Identity,
    /// max(x, 0)
    Relu,
    /// max(x, 0)^2
    Relu2,
    /// x (1 + erf(x / sqrt 2)) / 2. Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    GeluTanh,
    /// x sigmoid(1.702 x)
    QuickGelu,
    /// x sigmoid(x)
    Silu,
    Tanh,
    Sigmoid,
}

/// An activation of sixteen values.
#[inline(always)]
pub fn apply<V: Vector>(activation: Activation, x: V) -> V {
    let half = V::splat(0.5);
    let one = V::splat(1.0);
    match activation {
        Activation::Identity => x,
        Activation::Relu => relu(x),
        Activation::Relu2 => relu(x) * relu(x),
        Activation::Gelu => x * half * (one + erf(x * V::splat(std::f32::consts::FRAC_1_SQRT_2))),
        Activation::GeluTanh => {
            let cube = x * x * x;
            let inner = V::splat(0.797_884_6) * cube.mul_add(V::splat(0.044_715), x);
            half * x * (one + tanh(inner))
        }
        Activation::QuickGelu => x * sigmoid(V::splat(1.702) * x),
        Activation::Silu => x / (one + exp(V::splat(0.0) - x)),
        Activation::Tanh => tanh(x),
        Activation::Sigmoid => sigmoid(x),
    }
}

/// max(x, 0), and NaN where x is.
#[inline(always)]
fn relu<V: Vector>(x: V) -> V {
    V::splat(0.0).max(x)
}

/// Runs `body` with the activation as a constant of the given name, so that loops in it do not branch on it
/// for each value.
macro_rules! with_activation {
    ($activation:expr, $name:ident => $body:block) => {
        $crate::simd::with_activation!(
            @each $activation, $name, $body;
            Identity Relu Relu2 Gelu GeluTanh QuickGelu Silu Tanh Sigmoid
        )
    };
    (@each $activation:expr, $name:ident, $body:block; $($variant:ident)*) => {
        match $activation {
            $($crate::simd::Activation::$variant => {
                const $name: $crate::simd::Activation = $crate::simd::Activation::$variant;
                $body
            })*
        }
    };
}
pub(crate) use with_activation;

multiversion! {
    /// Applies `activation` to each value in place.
    pub fn activate / activate_at(activation: Activation, x: &mut [f32]) {
        with_activation!(activation, ACTIVATION => {
            let mut chunks = x.chunks_exact_mut(LANES);
            for chunk in &mut chunks {
                apply(ACTIVATION, Lanes::load(chunk)).store(chunk);
            }
            let rest = chunks.into_remainder();
            if !rest.is_empty() {
                apply(ACTIVATION, Lanes::load_or(rest, 0.0)).store_part(rest);
            }
        });
    }
}

#[cfg(test)]
impl Activation {
    pub const ALL: [Activation; 9] = [
        Activation::Identity,
        Activation::Relu,
        Activation::Relu2,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Sigmoid,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;

    #[test]
    fn every_level_gives_equal_bits_at_every_length() {
        for length in 0..67 {
            let x: Vec<f32> = (0..length).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.21).collect();
            for activation in Activation::ALL {
                let mut want = x.clone();
                activate_at(Level::SCALAR, activation, &mut want);
                for level in Level::present() {
                    let mut got = x.clone();
                    activate_at(level, activation, &mut got);
                    for (a, b) in want.iter().zip(&got) {
                        assert_eq!(a.to_bits(), b.to_bits(), "{activation:?} {level:?} {length}");
                    }
                }
            }
        }
    }
}
