"""Classification of whole texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ...progress import Callback
from ...results import Classification, Label
from ...tokenizer import Encoding
from ..arguments import choice, flag, is_text_or_pair, one_or_many, whole
from ..base import DEFAULT_BATCH_TOKENS
from ..heads import HeadModel, TextOrPair, labels
from ..probabilities import sigmoid, softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class Classifier(HeadModel):
    """Labels texts with a head that reads the whole text."""

    @overload
    def classify(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: TextOrPair,
        *,
        top_k: int | None = None,
        scores: Literal["auto", "softmax", "sigmoid", "none"] = "auto",
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Classification: ...
    @overload
    def classify(
        self,
        text: Sequence[TextOrPair],
        *,
        top_k: int | None = None,
        scores: Literal["auto", "softmax", "sigmoid", "none"] = "auto",
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Classification]: ...
    def classify(
        self,
        text: TextOrPair | Sequence[TextOrPair],
        *,
        top_k: int | None = None,
        scores: Literal["auto", "softmax", "sigmoid", "none"] = "auto",
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Classification | list[Classification]:
        """The labels of a text or pair.

        Args:
            top_k: number of labels to return; None returns all.
            scores: "softmax" (exclusive labels), "sigmoid" (independent labels), "none" (raw logits), or
                "auto": as ``problem_type`` of config.json specifies.
            truncate: truncates texts that are too long.
        """
        self._require_head("classify", per_token=False)
        items, single = one_or_many(text, is_text_or_pair, "text")
        flag("truncate", truncate)
        if top_k is not None:
            whole("top_k", top_k)
        encodings = [self._encode(item, truncate=truncate) for item in items]
        names = labels(self.config, self._outputs)
        how = score_function(self.config, scores, len(names))

        def run(batch: list[Encoding]) -> list[Classification]:
            return [classification(row, names, how, top_k) for row in self._head(batch)]

        results = self._map(encodings, len, run, batch_tokens=batch_tokens, progress=progress, what="classifying")
        return results[0] if single else results


def score_function(config: Mapping[str, Any], name: str, count: int) -> str:
    """The function that converts logits to scores."""
    if choice("scores", name, ("auto", "softmax", "sigmoid", "none")) != "auto":
        return name
    kind = config.get("problem_type")
    if kind == "regression":
        return "none"
    if kind == "multi_label_classification" or count == 1:
        return "sigmoid"
    return "softmax"


def apply(row: Floats, how: str) -> Any:
    """Scores of one row of logits."""
    return softmax(row) if how == "softmax" else sigmoid(row) if how == "sigmoid" else np.asarray(row, np.float64)


def classification(row: Floats, names: Sequence[str], how: str, top_k: int | None = None) -> Classification:
    """The labels of one text, best first."""
    scores = apply(row, how)
    order = sorted(range(len(names)), key=lambda index: (-scores[index], index))[:top_k]
    ranked = tuple(Label(label=names[index], score=float(scores[index])) for index in order)
    return Classification(label=ranked[0].label, score=ranked[0].score, labels=ranked)
