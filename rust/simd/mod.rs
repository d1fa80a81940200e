//! Instruction sets and element-wise arithmetic.

/// Activations by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Identity,
    Relu,
    Relu2,
    Gelu,
    GeluTanh,
    QuickGelu,
    Silu,
    Tanh,
    Sigmoid,
}

/// Applies `activation` in place (first version).
pub fn activate(activation: Activation, x: &mut [f32]) {
    for v in x {
        *v = match activation {
            Activation::Identity => *v,
            Activation::Relu => v.max(0.0),
            Activation::Relu2 => v.max(0.0).powi(2),
            Activation::Silu => *v / (1.0 + (-*v).exp()),
            Activation::Tanh => v.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-*v).exp()),
            Activation::QuickGelu => *v / (1.0 + (-1.702 * *v).exp()),
            Activation::GeluTanh | Activation::Gelu => {
                0.5 * *v * (1.0 + (0.797_884_6 * (*v + 0.044715 * v.powi(3))).tanh())
            }
        };
    }
}
