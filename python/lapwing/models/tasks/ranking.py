"""Documents by their relevance to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...checkpoint import read_object
from ...errors import OptionError, short_repr
from ...progress import Callback
from ...results import Ranked
from ...tokenizer import Encoding
from ..arguments import choice, is_text, one_or_many, optional_flag, optional_text, whole
from ..base import DEFAULT_BATCH_TOKENS
from ..heads import HeadModel
from ..pooling import EmbeddingPipeline
from ..search import similarity
from .classification import apply


class Ranker(HeadModel):
    """Ranks documents: as a cross-encoder, or by embeddings."""

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        scores: Literal["auto", "sigmoid", "none"] = "auto",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        truncate: bool | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Ranked]:
        """The documents sorted by relevance to a query, best first.

        A checkpoint with a one-output head scores each pair (cross-encoder); an embedding model compares
        embeddings, with its prompts "query" and "document" if it has them.

        Args:
            top_k: number of documents to return.
            truncate: truncates texts that are too long, at the tokenizer's ``model_max_length`` if it has one, where
                this is the default.
            scores: for a cross-encoder, "sigmoid" or "none" (raw logits); "auto" follows the checkpoint and
                defaults to the sigmoid.
        """
        if not is_text(query):
            raise OptionError(f"query is {short_repr(query)}: expected one text")
        texts, single = one_or_many(documents, is_text, "documents")
        if single:
            raise OptionError("documents is one text: expected a list")
        if top_k is not None:
            whole("top_k", top_k)
        optional_flag("truncate", truncate)
        prompts = {"query_prompt": query_prompt, "document_prompt": document_prompt}
        named = [name for name, prompt in prompts.items() if optional_text(name, prompt) is not None]
        if self.spec.head is not None:
            if named:
                raise OptionError(f"{named[0]} is set: a cross-encoder has no prompts")
            values = self._cross_scores(query, texts, scores, truncate, batch_tokens, progress)
        else:
            if not isinstance(scores, str) or scores != "auto":
                raise OptionError(f"scores is {short_repr(scores)}: an embedding model always uses its own similarity")
            values = self._bi_scores(query, texts, query_prompt, document_prompt, truncate, batch_tokens, progress)
        order = sorted(range(len(texts)), key=lambda index: (-values[index], index))
        return [Ranked(index=index, score=values[index], text=texts[index]) for index in order[:top_k]]

    def _bi_scores(
        self,
        query: str,
        texts: list[str],
        query_prompt: str | None,
        document_prompt: str | None,
        truncate: bool | None,
        batch_tokens: int,
        progress: bool | Callback | None,
    ) -> list[float]:
        """Similarities of the embeddings of a query and of documents: of vectors, of terms or of tokens (MaxSim)."""
        recipe = self._parts.recipe
        many: dict[str, Any] = {"kind": "document", "prompt": document_prompt, "batch_tokens": batch_tokens}
        many["progress"] = progress
        if recipe is not None and recipe.late is not None:
            if truncate is False:
                raise OptionError("truncate is False, but late interaction cuts texts at the checkpoint's lengths")
            pipeline = EmbeddingPipeline.of_kind(self, "late")
            (left,) = pipeline.tokens([query], kind="query", prompt=query_prompt)
            return [float((left @ right.T).max(axis=1).sum()) for right in pipeline.tokens(texts, **many)]
        if recipe is not None and recipe.sparse is not None:
            pipeline = EmbeddingPipeline.of_kind(self, "sparse")
            (one,) = pipeline.sparse([query], kind="query", prompt=query_prompt, truncate=truncate)
            dense = np.zeros(int(one.ids.max(initial=0)) + 1, np.float32)
            dense[one.ids] = one.weights
            scores = []
            for other in pipeline.sparse(texts, truncate=truncate, **many):
                shared = other.ids < len(dense)
                scores.append(float(dense[other.ids[shared]] @ other.weights[shared]))
            return scores
        pipeline = EmbeddingPipeline.of(self)
        vector = pipeline.embed(query, kind="query", prompt=query_prompt, truncate=truncate)
        vectors = pipeline.embed(texts, truncate=truncate, **many)
        return [float(score) for score in similarity(vector[None], vectors, pipeline.recipe.similarity)[0]]

    def _cross_scores(
        self,
        query: str,
        texts: list[str],
        scores: str,
        truncate: bool | None,
        batch_tokens: int,
        progress: bool | Callback | None,
    ) -> list[float]:
        self._require_head("rank", per_token=False)
        if self._outputs != 1:
            raise OptionError(f"rank needs a head with one output, this checkpoint's has {self._outputs}: use classify")
        how = rank_function(self._parts.folder, self.config, scores)
        # As for embeddings, a bound in the checkpoint's files permits truncation by default.
        cut = self.tokenizer.max_length is not None if truncate is None else truncate
        encodings = [self._encode((query, text), truncate=cut) for text in texts]

        def run(batch: list[Encoding]) -> list[float]:
            return [float(apply(row, how)[0]) for row in self._head(batch)]

        return self._map(encodings, len, run, batch_tokens=batch_tokens, progress=progress, what="ranking")


def rank_function(folder: Path, config: Mapping[str, Any], name: str) -> str:
    """The activation function of a cross-encoder: that of the call, that of its files, or the sigmoid."""
    if choice("scores", name, ("auto", "sigmoid", "none")) != "auto":
        return name
    inner = config.get("sentence_transformers")
    named = inner.get("activation_fn") if isinstance(inner, Mapping) else None
    named = named or read_object(folder / "config_sentence_transformers.json").get("activation_fn")
    named = named or config.get("sbert_ce_default_activation_function")
    name = str(named or "Sigmoid").rsplit(".", 1)[-1].removesuffix("()").lower()
    if name not in ("sigmoid", "identity"):
        raise OptionError(
            f"the checkpoint has the activation {short_repr(named)}, which is not supported: "
            "set scores to sigmoid or none"
        )
    return "none" if name == "identity" else "sigmoid"
