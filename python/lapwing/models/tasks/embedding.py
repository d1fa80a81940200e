"""Embeddings of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...progress import Callback
from ..base import DEFAULT_BATCH_TOKENS, BaseModel
from ..pooling import EmbeddingPipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class Embedder(BaseModel):
    """Embeds texts, if the checkpoint says how."""

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Floats:
        """Embeddings as the checkpoint's sentence-transformers files specify: float32 [n, dim], or [dim] for
        one text.

        Args:
            normalize: scales to unit length; None follows the checkpoint.
            prompt: prepended to each text; ``prompt_name`` selects one of the checkpoint's prompts.
            truncate: True truncates texts that are too long, False raises ContextLengthError; None truncates
                only if the checkpoint sets a bound (``max_seq_length`` of sentence-transformers).
            max_tokens: maximum length of a text in tokens, instead of the checkpoint's bound.
            truncate_dim: keeps the first dimensions only (Kusupati et al. 2022, Matryoshka); None follows the
                checkpoint. The rest is cut off at the end, as in sentence-transformers: vectors of a checkpoint that
                normalizes get shorter than 1. ``normalize=True`` scales what is left to unit length.
        """
        return EmbeddingPipeline.of(self).embed(
            texts,
            normalize=normalize,
            prompt=prompt,
            prompt_name=prompt_name,
            truncate=truncate,
            max_tokens=max_tokens,
            truncate_dim=truncate_dim,
            batch_tokens=batch_tokens,
            progress=progress,
        )
