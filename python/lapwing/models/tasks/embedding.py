"""Embeddings of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ...progress import Callback
from ..base import DEFAULT_BATCH_TOKENS, BaseModel
from ..pooling import EmbeddingPipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    Floats = NDArray[np.float32]


class EmbedOptions(TypedDict, total=False):
    """The options of `Embedder.embed`."""

    normalize: bool | None
    prompt: str | None
    prompt_name: str | None
    truncate: bool | None
    max_tokens: int | None
    truncate_dim: int | None
    batch_tokens: int
    progress: bool | Callback | None


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

    def encode_query(self, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Floats:
        """`embed` for search queries: with the prompt "query", if the checkpoint has one and the call gives none, and
        by the route for queries of a checkpoint with a Router."""
        return EmbeddingPipeline.of(self).embed(texts, kind="query", **options)

    def encode_document(self, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Floats:
        """`embed` for documents: with the first of the prompts "document", "passage" and "corpus" that the checkpoint
        has, if the call gives none, and by the route for documents of a checkpoint with a Router."""
        return EmbeddingPipeline.of(self).embed(texts, kind="document", **options)
