"""Embeddings by the recipe of a checkpoint: prompts, truncation, batches; the core computes the vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint import Recipe
from ..errors import ContextLengthError, OptionError, short_repr
from ..progress import Callback
from ..results import SparseEmbedding
from ..spec import Dense
from .arguments import BIG, is_text, one_or_many, optional_flag, optional_text, whole
from .base import DEFAULT_BATCH_TOKENS, BaseModel, ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of the prompts of a kind of text; the first that a checkpoint has is used."""
ROUTES = {"query": ("query",), "document": ("document", "doc", "passage", "corpus")}
"""Names of the routes of a kind of text."""


class EmbeddingPipeline:
    """Computes embeddings with a model and a recipe."""

    def __init__(self, model: BaseModel, recipe: Recipe) -> None:
        self._model = model
        self.recipe = recipe

    @staticmethod
    def of(model: BaseModel) -> EmbeddingPipeline:
        """The pipeline of a loaded model.

        Raises:
            OptionError: the checkpoint has no recipe for one vector a text.
        """
        recipe = model._parts.recipe
        if recipe is None:
            raise OptionError(
                f"{model._parts.identity} is not an embedding model: it has no modules.json with a pooling; use encode"
            )
        if recipe.late is not None:
            raise OptionError(f"{model._parts.identity} makes a vector of each token: use embed_tokens or rank")
        if recipe.sparse is not None:
            raise OptionError(f"{model._parts.identity} makes weights of terms: use embed_sparse or rank")
        if not recipe.routes:
            raise OptionError(f"{recipe.lacking}: it does not make one vector of a text; use encode")
        return EmbeddingPipeline(model, recipe)

    @staticmethod
    def of_kind(model: BaseModel, kind: str) -> EmbeddingPipeline:
        """The pipeline of a model whose recipe is "sparse" or "late"."""
        recipe = model._parts.recipe
        if recipe is None or getattr(recipe, kind) is None:
            what = {"sparse": "a SpladePooling", "late": "late interaction (ColBERT)"}[kind]
            raise OptionError(f"{model._parts.identity} has no {what}: use embed, if it is an embedding model")
        return EmbeddingPipeline(model, recipe)

    def prompt_text(self, prompt: str | None, prompt_name: str | None, kind: str | None = None) -> str:
        """The text prepended to each text: the given one, or that of the kind of text ("query", "document")."""
        optional_text("prompt", prompt)
        optional_text("prompt_name", prompt_name)
        if prompt is not None:
            if prompt_name is not None:
                raise OptionError("prompt and prompt_name exclude each other")
            return prompt
        name = prompt_name
        if name is None and kind is not None:
            name = next((known for known in PROMPTS[kind] if known in self.recipe.prompts), None)
        if name is None:
            name = self.recipe.default_prompt
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.recipe.prompts:
            known = ", ".join(sorted(self.recipe.prompts)) or "none"
            raise OptionError(f"prompt_name is {short_repr(name)}: this checkpoint has {known}")
        return self.recipe.prompts[name]

    def _route(self, kind: str | None) -> int:
        """The number of the head for a kind of text."""
        routes = list(self.recipe.routes)
        if routes == [""]:
            return 0
        wanted = (self.recipe.default_route,) if kind is None else ROUTES[kind]
        found = next((name for name in wanted if name in routes), None)
        if found is None:
            what = "texts that are neither queries nor documents" if kind is None else f"a {kind}"
            raise OptionError(
                f"{self._model._parts.identity} has the routes {', '.join(routes)} and none for {what}: use "
                "encode_query or encode_document"
            )
        return routes.index(found)

    def embed(
        self,
        texts: Any,
        *,
        kind: str | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Floats:
        """Embeddings, [n, dim], or [dim] for one text."""
        items, single = one_or_many(texts, is_text, "text")
        before = self.prompt_text(prompt, prompt_name, kind)
        optional_flag("normalize", normalize)
        optional_flag("truncate", truncate)
        number = self._route(kind)
        width = self._width(number)
        dim = self.recipe.truncate_dim if truncate_dim is None else truncate_dim
        if dim is not None:
            width = whole("truncate_dim", dim, 1, width)
        limit = self._limit(max_tokens, truncate)
        sequences = [self._encode(before + text, limit, truncate) for text in items]
        skip = 0
        if before and not list(self.recipe.routes.values())[number].include_prompt:
            skip = len(self._encode(before, limit, True)) - self._after()

        def run(batch: list[list[int]]) -> list[Floats]:
            # The mean of no token's vector is zero, as in sentence-transformers.
            empty = sum(not ids for ids in batch)
            zeros = [np.zeros(width, np.float32)] * empty
            if empty == len(batch):
                return zeros
            found = list(self._model.core.embed(*ragged(batch[: len(batch) - empty]), number, skip, width, normalize))
            return found + zeros

        if not all(sequences) and any(isinstance(one, Dense) for one in self._model.spec.embeddings[number].layers):
            raise OptionError("a text has no tokens, and the checkpoint has dense layers: expected some text")
        rows = self._model._map(sequences, len, run, batch_tokens=batch_tokens, progress=progress, what="embedding")
        vectors = np.stack(rows) if rows else np.zeros((0, width), np.float32)
        return vectors[0] if single else vectors

    def sparse(
        self,
        texts: list[str],
        *,
        kind: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[SparseEmbedding]:
        """Weights of the terms of each text."""
        assert self.recipe.sparse is not None
        before = self.prompt_text(prompt, prompt_name, kind)
        optional_flag("truncate", truncate)
        limit = self._limit(max_tokens, truncate)
        sequences = [self._encode(before + text, limit, truncate) for text in texts]
        sums, logs = self.recipe.sparse

        def run(batch: list[list[int]]) -> list[SparseEmbedding]:
            rows = self._model.core.term_weights(*ragged(batch), sums, logs)
            places = [np.flatnonzero(row) for row in rows]
            return [SparseEmbedding(ids=at, weights=row[at]) for at, row in zip(places, rows, strict=True)]

        tokens = self._model._logit_tokens(batch_tokens)
        return self._model._map(sequences, len, run, batch_tokens=tokens, progress=progress, what="embedding")

    def tokens(
        self,
        texts: list[str],
        *,
        kind: str = "document",
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Floats]:
        """The vectors of the tokens of queries or documents, [tokens, width] each."""
        late, tokenizer = self.recipe.late, self._model.tokenizer
        assert late is not None
        query = kind == "query"
        before = self.prompt_text(prompt, prompt_name, kind)
        marker = late.query_marker if query else late.document_marker
        limits = (late.query_length if query else late.document_length, self.recipe.max_tokens, self._model.max_length)
        limit = min((one for one in limits if one is not None), default=BIG)
        if query and late.query_length is not None and late.expansion:
            limit = late.query_length
        words = () if query else late.skipped
        ids_of_words = (tokenizer.token_to_id(word) for word in words)
        skipped = [one for one in ids_of_words if one is not None and one != tokenizer.unk_token_id]
        sequences: list[tuple[list[int], int]] = []
        for text in texts:
            encoding = tokenizer.encoding(before + text)
            ids = encoding.truncated(limit - (marker is not None), tokenizer.truncation_side).ids
            if marker is not None:
                ids = [ids[0], self._known(marker), *ids[1:]]
            unseen = max(0, limit - len(ids)) if query and late.expansion else 0
            if unseen:
                ids = [*ids, *[self._known(tokenizer.mask_token)] * unseen]
            sequences.append((ids, 0 if late.attend else unseen))

        def run(batch: list[tuple[list[int], int]]) -> list[Floats]:
            flat, starts = ragged([ids for ids, _ in batch])
            unseen = [count for _, count in batch]
            found = self._model.core.embed(flat, starts, unseen=unseen if any(unseen) else None)
            kept = ~np.isin(flat, skipped) if skipped else np.ones(len(flat), bool)
            return [found[a:b][kept[a:b]] for a, b in pairwise(starts)]

        return self._model._map(
            sequences, lambda one: len(one[0]), run, batch_tokens=batch_tokens, progress=progress, what="embedding"
        )

    def _known(self, token: str | None) -> int:
        """The id of a token that late interaction needs."""
        found = None if token is None else self._model.tokenizer.token_to_id(token)
        if found is None:
            raise OptionError(
                f"the tokenizer of {self._model._parts.identity} lacks the token {short_repr(token)}, which marks or "
                "fills the texts of late interaction"
            )
        return found

    def _width(self, route: int) -> int:
        """Width of the embeddings of a route."""
        spec = self._model.spec
        stack = spec.encoder or spec.decoder
        assert stack is not None
        return spec.embeddings[route].output_width(stack.output_size or stack.hidden_size)

    def _limit(self, max_tokens: int | None, truncate: bool | None) -> int | None:
        longest = self._model.max_length
        if max_tokens is not None:
            return whole("max_tokens", max_tokens, 1, longest or BIG)
        ours = self.recipe.max_tokens
        if ours is None and truncate:
            ours = self._model.tokenizer.max_length
        bounds = [bound for bound in (longest, ours) if bound is not None]
        return min(bounds, default=None)

    def _after(self) -> int:
        """The number of special tokens after a text."""
        special = self._model.tokenizer.encoding("a").special
        return next((n for n, flag in enumerate(reversed(special)) if not flag), 0)

    def _encode(self, text: str, limit: int | None, truncate: bool | None) -> list[int]:
        tokenizer = self._model.tokenizer
        encoding = tokenizer.encoding(text, add_special_tokens=not self.recipe.static)
        ids = encoding.ids
        if not ids and not self.recipe.static:
            raise OptionError("a text is empty and the tokenizer adds no special tokens: expected some text")
        if limit is not None and len(ids) > limit:
            # Only a bound in the checkpoint's files permits truncation by default, not the length of the
            # model.
            cut = self.recipe.max_tokens is not None if truncate is None else truncate
            if not cut:
                raise ContextLengthError(
                    f"a text has {len(ids)} tokens: expected at most {limit}; truncate=True shortens it"
                )
            ids = encoding.truncated(limit, tokenizer.truncation_side).ids
        return ids
