"""Static embeddings: a table of vectors by token, as model2vec and sentence-transformers' StaticEmbedding save it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from ..spec import Model, Stack, TokenStem
from .tensor import Array, Tensor, to_f32

NAMES = ("embedding.weight", "embeddings")
"""Names of the table: sentence-transformers' and model2vec's."""


def table(stored: Mapping[str, Tensor], place: Path) -> tuple[Model, dict[str, Tensor]]:
    """An encoder without layers, and its table: a row for each token of the vocabulary.

    ``mapping`` names the row of each token, and ``weights`` multiplies its row.
    """
    name = next((name for name in NAMES if name in stored), None)
    unknown = sorted(set(stored) - {*NAMES, "mapping", "weights"})
    if name is None or unknown or len(stored[name].shape) != 2:
        found = ", ".join(f"{one} {list(tensor.shape)}" for one, tensor in stored.items())
        raise CheckpointError(f"{place} has the tensors {found}: expected a matrix {' or '.join(NAMES)}")
    tensor = stored[name]
    if "mapping" in stored or "weights" in stored:
        tensor = _folded(tensor, stored.get("mapping"), stored.get("weights"), place)
    tokens, width = tensor.shape
    stack = Stack(hidden_size=width, stem=TokenStem(vocab_size=tokens), layers=(), max_length=1 << 20)
    return Model(encoder=stack), {"encoder.embedding.token.weight": tensor}


def _folded(tensor: Tensor, mapping: Tensor | None, factors: Tensor | None, place: Path) -> Tensor:
    if mapping is not None:
        raise CheckpointError(
            f"{place} has a mapping of tokens to rows, which is not supported: save it with one row for each token"
        )
    assert factors is not None
    if factors.shape != tensor.shape[:1] or factors.dtype not in ("float32", "float16", "bfloat16"):
        raise CheckpointError(f"{place} has weights {list(factors.shape)} {factors.dtype}: expected {tensor.shape[0]}")
    source, scale = tensor, factors

    def read() -> Array:
        rows = to_f32(source.read(), source.dtype)
        return np.asarray(rows * to_f32(scale.read(), scale.dtype)[:, None], np.float32)

    return Tensor(source.name, "float32", source.shape, read)
