"""Fast transformer language models on CPUs, from plain Hugging Face checkpoints.

>>> import lapwing
>>> model = lapwing.load("lapwing/tiny-en-de")
>>> model.translate("A man is riding a bicycle.").text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    CheckpointError,
    ContextLengthError,
    Error,
    InternalError,
    ModelClosedError,
    NumericalError,
    OptionError,
    SpecError,
)

if TYPE_CHECKING:
    from .chat import Chat
    from .loading import load
    from .models import Seq2Seq, TextEncoder, TextGenerator
    from .tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "CheckpointError",
    "ContextLengthError",
    "Error",
    "InternalError",
    "ModelClosedError",
    "NumericalError",
    "OptionError",
    "Seq2Seq",
    "SpecError",
    "TextEncoder",
    "TextGenerator",
    "Tokenizer",
    "__version__",
    "load",
]

_HOMES = {
    "Chat": "chat",
    "Seq2Seq": "models",
    "TextEncoder": "models",
    "TextGenerator": "models",
    "Tokenizer": "tokenizer",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    # The heavy parts (numpy, tokenizers, the compiled core) are imported when first used.
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
