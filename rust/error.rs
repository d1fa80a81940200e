//! The one error type. A message says what is wrong, where, what was expected, what was found and the
//! way out; lower case, no final period.

/// Each variant becomes the exception of the same name in Python (`lapwing.CheckpointError`, ...).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A file or tensor of the checkpoint is malformed or does not fit the description.
    #[error("{0}")]
    Checkpoint(String),
    /// The description of the model is impossible.
    #[error("{0}")]
    Spec(String),
    /// An argument of a call is out of range or cannot be honoured.
    #[error("{0}")]
    Option(String),
    /// A sequence is longer than the model allows.
    #[error("{0}")]
    ContextLength(String),
    /// A result is NaN or infinite.
    #[error("{0}")]
    Numerical(String),
    /// Memory could not be allocated.
    #[error("{0}")]
    Memory(String),
    /// The model was closed, before the call or while it ran.
    #[error("{0}")]
    Closed(String),
    /// The caller asked to stop (Ctrl-C, a closed iterator).
    #[error("interrupted")]
    Interrupted,
    /// A bug in this library.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The error of a panic, which is always a bug of this library.
    pub fn of_panic(panic: &(dyn std::any::Any + Send)) -> Error {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Error::Internal(format!(
            "a bug in lapwing, please report it: {}",
            text.unwrap_or_else(|| "unknown".to_owned())
        ))
    }
}

/// Result with [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;
