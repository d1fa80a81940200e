//! The macro for all descriptions, and the description of norms.

use crate::ops::norm::NormKind;

/// A description with its fields; unknown fields are refused.
macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$attribute])* pub $field: $type),* }
    };
}
pub(super) use mirror;

pub(super) fn one() -> f64 {
    1.0
}

mirror!(/// Normalization over the last dimension.
Norm {
    kind: NormKind,
    eps: f64,
    weight: bool,
    #[serde(default)] bias: bool,
});
