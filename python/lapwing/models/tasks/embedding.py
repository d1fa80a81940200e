"""Embeddings of texts."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np

from ...errors import OptionError
from ...progress import Callback
from ...results import Hit, Pair, SparseEmbedding
from .. import search
from ..arguments import choice, is_text, one_or_many, whole
from ..base import DEFAULT_BATCH_TOKENS, BaseModel
from ..feed import over_iterators
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


def _ranges_given(options: Mapping[str, Any]) -> None:
    if options.get("precision") in ("int8", "uint8") and options.get("ranges") is None:
        raise OptionError("ranges is None, which takes those of all texts: an iterator of texts needs them given")


class Embedder(BaseModel):
    """Embeds texts, if the checkpoint says how."""

    @overload
    def embed(self, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Floats: ...
    @overload
    def embed(
        self,
        texts: str | Sequence[str],
        *,
        precision: Literal["float32", "int8", "uint8", "binary", "ubinary"],
        ranges: Any = None,
        **options: Unpack[EmbedOptions],
    ) -> NDArray[Any]: ...
    @overload
    def embed(
        self,
        texts: Iterator[str],
        *,
        precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] = "float32",
        ranges: Any = None,
        **options: Unpack[EmbedOptions],
    ) -> Generator[NDArray[Any], None, None]: ...
    @over_iterators(is_text, _ranges_given)
    def embed(
        self,
        texts: str | Sequence[str] | Iterator[str],
        *,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        truncate_dim: int | None = None,
        precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] = "float32",
        ranges: Any = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> NDArray[Any] | Generator[NDArray[Any], None, None]:
        """Embeddings as the checkpoint's sentence-transformers files specify: float32 [n, dim], or [dim] for
        one text. For an iterator of texts, a generator of their vectors: [dim] each, computed in windows.

        Args:
            normalize: scales to unit length; None follows the checkpoint.
            prompt: prepended to each text; ``prompt_name`` selects one of the checkpoint's prompts.
            truncate: True truncates texts that are too long, False raises ContextLengthError; None truncates
                only if the checkpoint sets a bound (``max_seq_length`` of sentence-transformers).
            max_tokens: maximum length of a text in tokens, instead of the checkpoint's bound.
            truncate_dim: keeps the first dimensions only (Kusupati et al. 2022, Matryoshka); None follows the
                checkpoint. The rest is cut off at the end, as in sentence-transformers: vectors of a checkpoint that
                normalizes get shorter than 1. ``normalize=True`` scales what is left to unit length.
            precision: "int8" and "uint8" divide the range of each dimension into 256 steps; "binary" (int8) and
                "ubinary" (uint8) keep the signs, eight in a byte: as sentence-transformers' quantize_embeddings.
            ranges: of "int8" and "uint8": minimum and maximum of each dimension, [2, dim]; None takes those of the
                texts of this call.
        """
        choice("precision", precision, search.PRECISIONS)
        found = EmbeddingPipeline.of(self).embed(
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
        if precision == "float32" and ranges is None:
            return found
        codes = search.quantize(np.atleast_2d(found), precision, ranges)
        return codes[0] if found.ndim == 1 else codes

    def encode_query(self, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Floats:
        """`embed` for search queries: with the prompt "query", if the checkpoint has one and the call gives none, and
        by the route for queries of a checkpoint with a Router."""
        return EmbeddingPipeline.of(self).embed(texts, kind="query", **options)

    def encode_document(self, texts: str | Sequence[str], **options: Unpack[EmbedOptions]) -> Floats:
        """`embed` for documents: with the first of the prompts "document", "passage" and "corpus" that the checkpoint
        has, if the call gives none, and by the route for documents of a checkpoint with a Router."""
        return EmbeddingPipeline.of(self).embed(texts, kind="document", **options)

    def similarity(self, left: Any, right: Any) -> Floats:
        """Similarities of vectors, float32 [left, right]: the measure that the checkpoint names (cosine, dot product,
        or negative Euclidean or Manhattan distance).

        Args:
            left: vectors [n, width], or one.
            right: the others.
        """
        pipeline = EmbeddingPipeline.of(self)
        rows = search.as_vectors("left", left)
        return search.similarity(rows, search.as_vectors("right", right, rows.shape[1]), pipeline.recipe.similarity)

    def semantic_search(
        self, queries: Any, corpus: Any, *, top_k: int = 10, **options: Unpack[EmbedOptions]
    ) -> list[list[Hit]]:
        """For each query the most similar entries of a corpus, best first; exact.

        Args:
            queries: texts, which `encode_query` embeds, or their vectors [n, width].
            corpus: texts, which `encode_document` embeds, or their vectors.
            top_k: number of entries for each query.
            options: those of `embed`, for texts.
        """
        whole("top_k", top_k)
        pipeline = EmbeddingPipeline.of(self)
        sides: list[Floats] = []
        for name, value, kind in (("queries", queries, "query"), ("corpus", corpus, "document")):
            texts = isinstance(value, str) or (not isinstance(value, np.ndarray) and all(map(is_text, value)))
            given = pipeline.embed(value, kind=kind, **options) if texts else value
            sides.append(search.as_vectors(name, given, sides[0].shape[1] if sides else None))
        found = search.top(sides[0], sides[1], pipeline.recipe.similarity, top_k)
        return [[Hit(index=index, score=score) for index, score in near] for near in found]

    def paraphrase_mining(
        self, texts: Sequence[str], *, top_k: int = 100, max_pairs: int = 500_000, **options: Unpack[EmbedOptions]
    ) -> list[Pair]:
        """The most similar pairs of a list of texts, best first; exact.

        Args:
            top_k: number of most similar others that each text is paired with.
            max_pairs: maximum number of pairs.
            options: those of `embed`.
        """
        whole("top_k", top_k)
        whole("max_pairs", max_pairs)
        pipeline = EmbeddingPipeline.of(self)
        vectors = np.atleast_2d(pipeline.embed(texts, **options))
        found = search.pairs(vectors, pipeline.recipe.similarity, top_k, max_pairs)
        return [Pair(score=score, first=i, second=j) for score, i, j in found]

    @overload
    def embed_sparse(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        texts: str,
        *,
        kind: Literal["query", "document"] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> SparseEmbedding: ...
    @overload
    def embed_sparse(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[SparseEmbedding]: ...
    def embed_sparse(
        self,
        texts: str | Sequence[str],
        *,
        kind: Literal["query", "document"] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> SparseEmbedding | list[SparseEmbedding]:
        """Weights of the vocabulary's terms, for checkpoints with a SpladePooling: log(1 + max(logit, 0)) of the
        masked-language head, its maximum (or sum) over the tokens. Formal et al. 2021, https://arxiv.org/abs/2109.10086

        Args:
            kind: "query" or "document" uses the checkpoint's prompt for them.
            prompt: as in `embed`, like the other options.
        """
        items, single = one_or_many(texts, is_text, "text")
        if kind is not None:
            choice("kind", kind, ("query", "document"))
        found = EmbeddingPipeline.of_kind(self, "sparse").sparse(
            items,
            kind=kind,
            prompt=prompt,
            prompt_name=prompt_name,
            truncate=truncate,
            max_tokens=max_tokens,
            batch_tokens=batch_tokens,
            progress=progress,
        )
        return found[0] if single else found

    @overload
    def embed_tokens(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        texts: str,
        *,
        kind: Literal["query", "document"] = "document",
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Floats: ...
    @overload
    def embed_tokens(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Floats]: ...
    def embed_tokens(
        self,
        texts: str | Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Floats | list[Floats]:
        """A vector of each token, float32 [tokens, width], for checkpoints of late interaction (ColBERT) as
        sentence-transformers, pylate and the ColBERT repository save them. Queries get the checkpoint's marker and are
        filled up with mask tokens; documents lose their punctuation. Texts are cut off at the checkpoint's lengths.
        Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832

        Args:
            kind: whether the texts are queries or documents.
            prompt: as in `embed`, like the other options.
        """
        items, single = one_or_many(texts, is_text, "text")
        choice("kind", kind, ("query", "document"))
        found = EmbeddingPipeline.of_kind(self, "late").tokens(
            items,
            kind=kind,
            prompt=prompt,
            prompt_name=prompt_name,
            batch_tokens=batch_tokens,
            progress=progress,
        )
        return found[0] if single else found
