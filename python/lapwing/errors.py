"""The exceptions of Lapwing. All derive from `Error`, so one clause catches every error of a file or a call.

A message states what is wrong, where, what was expected, what was found and the way out. The compiled module
raises the same classes.
"""

from typing import Any


def short_repr(value: Any, max_length: int = 80) -> str:
    """The repr of a value for a message, cut to ``max_length`` characters; never raises."""
    try:
        text = repr(value)
    except Exception:  # an integer of too many digits, deep nesting, or a user's class
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


class Error(Exception):
    """Base of all errors of this package."""


class CheckpointError(Error, ValueError):
    """A file of a checkpoint is missing, damaged, or does not fit the model."""


class SpecError(Error, ValueError):
    """The configuration describes a model that cannot be built."""


class OptionError(Error, ValueError):
    """An option or argument that cannot be honoured."""


class ContextLengthError(Error, ValueError):
    """More tokens than the model's positions or its cache allow."""


class ModelClosedError(Error, RuntimeError):
    """The model was closed before a call, or during one in another thread."""


class NumericalError(Error, ArithmeticError):
    """A computation produced a non-finite value."""


class InternalError(Error, RuntimeError):
    """A bug in Lapwing; please report it."""
