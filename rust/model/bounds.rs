//! Bounds of sizes and numbers in a description.

use super::describe::Norm;
use crate::error::{Error, Result};

/// Maximum size in a description: larger ones are mistakes, and a product of three sizes fits in 64 bits.
pub(super) const MAX_SIZE: usize = 1 << 20;

pub(super) fn refuse<T>(place: &str, field: &str, got: impl std::fmt::Display, expected: &str) -> Result<T> {
    Err(Error::Spec(format!("{place}.{field} is {got}: expected {expected}")))
}

pub(super) fn size(place: &str, field: &str, value: usize) -> Result<()> {
    if value == 0 || value > MAX_SIZE {
        return refuse(place, field, value, "1 to 1048576");
    }
    Ok(())
}

pub(super) fn finite(place: &str, field: &str, value: f64) -> Result<()> {
    if !value.is_finite() || value.abs() > 1e30 {
        return refuse(place, field, value, "a finite number");
    }
    Ok(())
}

pub(super) fn positive(place: &str, field: &str, value: f64) -> Result<()> {
    finite(place, field, value)?;
    if value <= 0.0 {
        return refuse(place, field, value, "a number above zero");
    }
    Ok(())
}

/// Entries of a vocabulary.
pub(super) fn vocabulary(place: &str, field: &str, value: usize) -> Result<()> {
    if value == 0 || value / 4 > MAX_SIZE {
        return refuse(place, field, value, "1 to 4194304");
    }
    Ok(())
}

/// Checks the norms that are present.
pub(super) fn norms(place: &str, norms: &[(&str, &Option<Norm>)]) -> Result<()> {
    for (name, norm) in norms {
        if let Some(norm) = norm
            && !(norm.eps.is_finite() && (0.0..=1.0).contains(&norm.eps))
        {
            return refuse(&format!("{place}.{name}"), "eps", norm.eps, "0 to 1");
        }
    }
    Ok(())
}

/// The context of a body's description that its bounds depend on.
pub struct Site {
    pub hidden_size: usize,
    /// Rows of the stack's table of relative positions.
    pub relative_rows: Option<usize>,
    pub decoder: bool,
    /// The stack is a decoder beside an encoder.
    pub source: bool,
}
