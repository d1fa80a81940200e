"""The exceptions of Lapwing. All derive from `Error`, so one clause catches whatever a file or a call can bring.

A message says what, where, what was expected, what was found and the way out. The compiled module raises
these same classes.
"""

from typing import Any


def short_repr(value: Any, most: int = 80) -> str:
    """A value as a message shows it: of at most so many characters, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # a whole number of very many digits, or somebody's own class
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


class Error(Exception):
    """Base of all errors of this package."""


class CheckpointError(Error, ValueError):
    """A file of a checkpoint is missing, damaged, or holds something other than the model needs."""


class SpecError(Error, ValueError):
    """The configuration describes a model that cannot be built."""


class OptionError(Error, ValueError):
    """An option or argument that cannot be honoured."""


class ContextLengthError(Error, ValueError):
    """More tokens than the model's positions, or than the cache may hold."""


class ModelClosedError(Error, RuntimeError):
    """The model was closed, before a call or while it ran in another thread."""


class NumericalError(Error, ArithmeticError):
    """A computation met a value that is not a number."""


class InternalError(Error, RuntimeError):
    """A mistake in Lapwing itself; please report it."""
