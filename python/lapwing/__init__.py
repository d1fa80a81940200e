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
    from .explain import Explanation, LensToken, LogitLens
    from .loading import LoadOptions, load
    from .models import BaseModel, GenerateOptions, Seq2Seq, SingleOptions, TextEncoder, TextGenerator
    from .results import (
        Answer,
        Chunk,
        Classification,
        EncoderOutput,
        Fill,
        Generation,
        Hit,
        Hypothesis,
        Label,
        ModelInfo,
        Pair,
        Ranked,
        Score,
        SparseEmbedding,
        Tag,
        TokenLogprob,
        Translation,
    )
    from .tokenizer import Encoding, Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "BaseModel",
    "Chat",
    "CheckpointError",
    "Chunk",
    "Classification",
    "ContextLengthError",
    "EncoderOutput",
    "Encoding",
    "Error",
    "Explanation",
    "Fill",
    "GenerateOptions",
    "Generation",
    "Hit",
    "Hypothesis",
    "InternalError",
    "Label",
    "LensToken",
    "LoadOptions",
    "LogitLens",
    "ModelClosedError",
    "ModelInfo",
    "NumericalError",
    "OptionError",
    "Pair",
    "Ranked",
    "Score",
    "Seq2Seq",
    "SingleOptions",
    "SparseEmbedding",
    "SpecError",
    "Tag",
    "TextEncoder",
    "TextGenerator",
    "TokenLogprob",
    "Tokenizer",
    "Translation",
    "__version__",
    "load",
]

_HOMES = {
    "chat": ("Chat",),
    "explain": ("Explanation", "LensToken", "LogitLens"),
    "loading": ("LoadOptions", "load"),
    "models": ("BaseModel", "GenerateOptions", "Seq2Seq", "SingleOptions", "TextEncoder", "TextGenerator"),
    "results": (
        "Answer",
        "Chunk",
        "Classification",
        "EncoderOutput",
        "Fill",
        "Generation",
        "Hit",
        "Hypothesis",
        "Label",
        "ModelInfo",
        "Pair",
        "Ranked",
        "Score",
        "SparseEmbedding",
        "Tag",
        "TokenLogprob",
        "Translation",
    ),
    "tokenizer": ("Encoding", "Tokenizer"),
}

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        # The heavy parts (numpy, tokenizers, the compiled core) are imported when first used.
        for home, names in _HOMES.items():
            if name in names:
                from importlib import import_module

                value = getattr(import_module(f".{home}", __name__), name)
                globals()[name] = value
                return value
        from .foreign import missing_name

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{missing_name(name)}")


def __dir__() -> list[str]:
    return sorted(__all__)
