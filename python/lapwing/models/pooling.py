"""Embeddings as described by the files of sentence-transformers: modules.json, pooling, dense layers,
normalization,
prompts. Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint import read_json, read_object, read_safetensors
from ..errors import CheckpointError, ContextLengthError, OptionError, short_repr
from ..progress import Callback
from .arguments import BIG, is_text, one_or_many, optional_flag, optional_text, whole
from .base import BaseModel, ragged
from .probabilities import sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MODES = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
"""Flags of a pooling configuration, in the order of concatenation."""

_NAMES = {
    "cls": "first",
    "lasttoken": "last",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}

_normal = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))), otypes=[np.float64])
"""The cumulative distribution function of the standard normal distribution."""

_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "identity": lambda x: x,
    "tanh": lambda x: np.tanh(x),
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "sigmoid": lambda x: np.asarray(sigmoid(x), np.float32),
    "silu": lambda x: np.asarray(x * sigmoid(x), np.float32),
    "gelu": lambda x: np.asarray(x * _normal(x), np.float32),
}


@dataclass(frozen=True)
class Dense:
    """y = activation(x @ weight.T + bias)."""

    weight: Floats
    bias: Floats | None
    activation: str

    def apply(self, x: Floats) -> Floats:
        # Row by row: the sums must not depend on the batch.
        rows = [self.weight @ row for row in x]
        out = np.stack(rows).astype(np.float32) if rows else np.zeros((0, len(self.weight)), np.float32)
        if self.bias is not None:
            out = out + self.bias
        return _ACTIVATIONS[self.activation](out)


@dataclass(frozen=True)
class Recipe:
    """How hidden states become an embedding, and how the text is prepared."""

    modes: tuple[str, ...] = ("mean",)
    normalize: bool = False
    dense: tuple[Dense, ...] = ()
    include_prompt: bool = True
    truncate_dim: int | None = None
    max_tokens: int | None = None
    lower: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"

    @staticmethod
    def read(folder: Path) -> Recipe | None:
        """The recipe of a folder, or None if it is not an embedding model of sentence-transformers."""
        path = folder / "modules.json"
        extra = read_object(folder / "config_sentence_transformers.json")
        if not path.is_file() or extra.get("model_type") == "CrossEncoder":
            return None
        modules = read_json(path)
        if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
            raise CheckpointError(f"{path} is not a list of modules")
        modes: tuple[str, ...] = ()
        include_prompt, normalize = True, False
        dense: list[Dense] = []
        transformer = folder
        for module in modules:
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            place = _inside(folder, str(module.get("path", "")))
            if kind == "Transformer":
                transformer = place
            elif kind == "Pooling":
                modes, include_prompt = _pooling(place)
            elif kind == "Dense":
                dense.append(_dense(place))
            elif kind == "Normalize":
                normalize = True
            elif kind not in ("Dropout",):
                raise CheckpointError(
                    f"{path} has the unsupported module {kind}: expected Transformer, Pooling, Dense or Normalize"
                )
        text = read_object(transformer / "sentence_bert_config.json")
        # Newer folders have the bound in the tokenizer's settings.
        bounds = (
            text.get("max_seq_length"),
            read_object(transformer / "tokenizer_config.json").get("model_max_length"),
        )
        limit = next((int(b) for b in bounds if isinstance(b, int | float) and 0 < b < 1 << 30), None)
        prompts, dim = extra.get("prompts") or {}, extra.get("truncate_dim")
        if not isinstance(prompts, dict) or not all(isinstance(value, str) for value in prompts.values()):
            raise CheckpointError(f"{folder / 'config_sentence_transformers.json'} has prompts that are not texts")
        return Recipe(
            modes=modes or ("mean",),
            normalize=normalize,
            dense=tuple(dense),
            include_prompt=include_prompt,
            truncate_dim=dim if isinstance(dim, int) and dim > 0 else None,
            max_tokens=limit,
            lower=bool(text.get("do_lower_case", False)),
            prompts=prompts,
            default_prompt=extra.get("default_prompt_name"),
            similarity=str(extra.get("similarity_fn_name") or "cosine"),
        )


def _inside(folder: Path, name: str) -> Path:
    place = (folder / name).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise CheckpointError(f"modules.json names the path {short_repr(name)}, which is outside {folder}")
    return place


def _pooling(place: Path) -> tuple[tuple[str, ...], bool]:
    config = read_object(place / "config.json")
    named = config.get("pooling_mode")
    if isinstance(named, str | list):
        names = [named] if isinstance(named, str) else [str(name) for name in named]
        modes = tuple(_NAMES.get(name, name) for name in names)
    else:
        modes = tuple(mode for key, mode in MODES.items() if config.get(key))
    unknown = [mode for mode in modes if mode not in MODES.values()]
    if unknown or not modes:
        raise CheckpointError(
            f"{place / 'config.json'} names the pooling {unknown or 'none'}: expected {', '.join(MODES.values())}"
        )
    return modes, bool(config.get("include_prompt", True))


def _dense(place: Path) -> Dense:
    config = read_object(place / "config.json")
    path = place / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: expected the weights of a dense layer as safetensors")
    tensors = read_safetensors(path)
    weight = tensors.get("linear.weight")
    bias = tensors.get("linear.bias")
    shape = (config.get("out_features"), config.get("in_features"))
    if weight is None or weight.shape != shape or (bias is not None and bias.shape != shape[:1]):
        found = "none" if weight is None else weight.shape
        raise CheckpointError(f"{path} has linear.weight {found}: expected {shape}")
    name = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1].lower()
    if name not in _ACTIVATIONS:
        raise CheckpointError(f"{place / 'config.json'} has the activation {name}: expected {', '.join(_ACTIVATIONS)}")
    return Dense(weight.float32().read(), None if bias is None else bias.float32().read(), name)


def pool(hidden: Floats, mode: str, skip: int = 0) -> Floats:
    """Pools the hidden states [tokens, hidden] of one text, without the first ``skip`` tokens (the prompt).

    The position weights of the remaining tokens do not depend on ``skip``.
    """
    kept = hidden[min(skip, len(hidden) - 1) :]
    if mode == "first":
        return np.asarray(kept[0])
    if mode == "last":
        return np.asarray(kept[-1])
    if mode == "max":
        return np.asarray(kept.max(axis=0))
    if mode == "weighted_mean":
        weights = np.arange(1, len(hidden) + 1, dtype=np.float32)[-len(kept) :, None]
        return np.asarray((kept * weights).sum(axis=0) / weights.sum(), np.float32)
    count = np.float32(len(kept))
    total = kept.sum(axis=0)
    return np.asarray(total / (np.sqrt(count) if mode == "mean_sqrt_len" else count), np.float32)


class EmbeddingPipeline:
    """Computes embeddings with a model and a recipe."""

    def __init__(self, model: BaseModel, recipe: Recipe) -> None:
        self._model = model
        self.recipe = recipe

    @staticmethod
    def of(model: BaseModel) -> EmbeddingPipeline:
        """The pipeline of a loaded model.

        Raises:
            OptionError: the checkpoint has no recipe.
        """
        recipe = model._parts.recipe
        if recipe is None:
            raise OptionError(
                f"{model._parts.identity} is not an embedding model: it has no modules.json with a pooling; use encode"
            )
        return EmbeddingPipeline(model, recipe)

    def prompt_text(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text prepended to each text."""
        optional_text("prompt", prompt)
        optional_text("prompt_name", prompt_name)
        if prompt is not None:
            if prompt_name is not None:
                raise OptionError("prompt and prompt_name exclude each other")
            return prompt
        name = prompt_name if prompt_name is not None else self.recipe.default_prompt
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.recipe.prompts:
            known = ", ".join(sorted(self.recipe.prompts)) or "none"
            raise OptionError(f"prompt_name is {short_repr(name)}: this checkpoint has {known}")
        return self.recipe.prompts[name]

    def embed(
        self,
        texts: Any,
        *,
        normalize: bool | None,
        prompt: str | None,
        prompt_name: str | None,
        truncate: bool | None,
        max_tokens: int | None,
        truncate_dim: int | None,
        batch_tokens: int,
        progress: bool | Callback | None,
    ) -> Floats:
        """Embeddings, [n, dim], or [dim] for one text."""
        items, single = one_or_many(texts, is_text, "text")
        before = self.prompt_text(prompt, prompt_name)
        optional_flag("normalize", normalize)
        optional_flag("truncate", truncate)
        if truncate_dim is not None:
            whole("truncate_dim", truncate_dim, 1, self._width())
        limit = self._limit(max_tokens)
        sequences = [self._encode(before + text, limit, truncate) for text in items]
        skip = 0
        if before and not self.recipe.include_prompt:
            skip = len(self._encode(before, limit, True)) - self._after()
        unit = self.recipe.normalize if normalize is None else normalize
        plain = len(self.recipe.modes) == 1 and self.recipe.modes[0] != "weighted_mean" and not skip
        dim = self.recipe.truncate_dim if truncate_dim is None else truncate_dim
        simple = plain and not self.recipe.dense and dim is None

        def run(batch: list[list[int]]) -> list[Floats]:
            flat, starts = ragged(batch)
            core = self._model.core
            if plain:
                found = core.embed(flat, starts, None, self.recipe.modes[0], bool(unit and simple))
                return list(found)
            hidden = core.encode(flat, starts)
            rows = []
            for index in range(len(batch)):
                part = hidden[starts[index] : starts[index + 1]]
                rows.append(np.concatenate([pool(part, mode, skip) for mode in self.recipe.modes]))
            return rows

        rows = self._model._map(sequences, len, run, batch_tokens=batch_tokens, progress=progress, what="embedding")
        width = self._width()
        vectors = np.stack(rows).astype(np.float32, copy=False) if rows else np.zeros((0, width), np.float32)
        if not simple:
            for dense in self.recipe.dense:
                vectors = dense.apply(vectors)
            vectors = self._shorten(vectors, dim)
            if unit:
                vectors = unit_length(vectors)
        return vectors[0] if single else vectors

    def _shorten(self, vectors: Floats, dim: int | None) -> Floats:
        if dim is None:
            return vectors
        return np.ascontiguousarray(vectors[:, : whole("truncate_dim", dim, 1, vectors.shape[1])])

    def _width(self) -> int:
        if self.recipe.dense:
            return int(self.recipe.dense[-1].weight.shape[0])
        stack = self._model.spec.decoder or self._model.spec.encoder
        size = 0 if stack is None else stack.output_size or stack.hidden_size
        return size * len(self.recipe.modes)

    def _limit(self, max_tokens: int | None) -> int | None:
        longest = self._model.max_length
        if max_tokens is not None:
            return whole("max_tokens", max_tokens, 1, longest or BIG)
        bounds = [bound for bound in (longest, self.recipe.max_tokens) if bound is not None]
        return min(bounds, default=None)

    def _after(self) -> int:
        """The number of special tokens after a text."""
        special = self._model.tokenizer.encoding("a").special
        return next((n for n, flag in enumerate(reversed(special)) if not flag), 0)

    def _encode(self, text: str, limit: int | None, truncate: bool | None) -> list[int]:
        tokenizer = self._model.tokenizer
        encoding = tokenizer.encoding(text.lower() if self.recipe.lower else text)
        ids = encoding.ids
        if not ids:
            raise OptionError("a text is empty and the tokenizer adds no special tokens: expected some text")
        if limit is not None and len(ids) > limit:
            # Only a bound in the checkpoint's files permits truncation by default, not the length of the
            # model.
            cut = self.recipe.max_tokens is not None if truncate is None else truncate
            if not cut:
                raise ContextLengthError(
                    f"a text has {len(ids)} tokens: expected at most {limit}; truncate=True shortens it"
                )
            ids = encoding.truncated(limit).ids
        return ids


def unit_length(vectors: Floats) -> Floats:
    """Rows scaled to unit length; rows of zeros are unchanged."""
    lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def similarity(left: Floats, right: Floats, how: str) -> Floats:
    """Similarity of a vector to each row: cosine, dot, or the negative euclidean or manhattan distance."""
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    if how == "dot":
        scores = (wide_right * wide_left).sum(axis=1)
    elif how == "euclidean":
        scores = -np.sqrt(((wide_right - wide_left) ** 2).sum(axis=1))
    elif how == "manhattan":
        scores = -np.abs(wide_right - wide_left).sum(axis=1)
    elif how == "cosine":
        norms = np.sqrt((wide_right**2).sum(axis=1)) * np.sqrt((wide_left**2).sum())
        scores = (wide_right * wide_left).sum(axis=1) / np.maximum(norms, 1e-12)
    else:
        raise CheckpointError(f"the similarity {how} is unknown: expected cosine, dot, euclidean or manhattan")
    return np.asarray(scores, np.float32)
