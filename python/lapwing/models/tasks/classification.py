"""Classification of whole texts."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from ...errors import OptionError, short_repr
from ...progress import Callback
from ...results import Classification, Label
from ...tokenizer import Encoding
from ..arguments import choice, flag, is_text, is_text_or_pair, one_or_many, texts, whole
from ..base import DEFAULT_BATCH_TOKENS
from ..feed import over_iterators
from ..heads import HeadModel, TextOrPair
from ..heads import labels as head_labels
from ..probabilities import sigmoid, softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

HYPOTHESIS = "This example is {}."
"""The sentence of zero-shot classification, that of transformers' pipeline."""


class Classifier(HeadModel):
    """Labels texts with a head that reads the whole text."""

    @overload
    def classify(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: TextOrPair,
        *,
        labels: Sequence[str] | None = None,
        hypothesis: str = HYPOTHESIS,
        multi_label: bool = False,
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
        labels: Sequence[str] | None = None,
        hypothesis: str = HYPOTHESIS,
        multi_label: bool = False,
        top_k: int | None = None,
        scores: Literal["auto", "softmax", "sigmoid", "none"] = "auto",
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Classification]: ...
    @overload
    def classify(
        self,
        text: Iterator[TextOrPair],
        *,
        labels: Sequence[str] | None = None,
        hypothesis: str = HYPOTHESIS,
        multi_label: bool = False,
        top_k: int | None = None,
        scores: Literal["auto", "softmax", "sigmoid", "none"] = "auto",
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Generator[Classification, None, None]: ...
    @over_iterators(is_text_or_pair)
    def classify(
        self,
        text: TextOrPair | Sequence[TextOrPair] | Iterator[TextOrPair],
        *,
        labels: Sequence[str] | None = None,
        hypothesis: str = HYPOTHESIS,
        multi_label: bool = False,
        top_k: int | None = None,
        scores: Literal["auto", "softmax", "sigmoid", "none"] = "auto",
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Classification | list[Classification] | Generator[Classification, None, None]:
        """The labels of a text or pair; with ``labels`` zero-shot classification (Yin et al. 2019), as in the
        pipeline of transformers.

        Args:
            labels: names of classes that the checkpoint was not trained on. Each text is paired with the
                ``hypothesis`` of each label, and a model of natural language inference (whose id2label has an
                "entailment") scores the pairs. The scores of the labels of a text sum to 1.
            hypothesis: a sentence with ``{}`` in place of the label.
            multi_label: labels are independent: each score is the probability of entailment against
                contradiction.
            top_k: number of labels to return; None returns all.
            scores: "softmax" (exclusive labels), "sigmoid" (independent labels), "none" (raw logits), or
                "auto": as ``problem_type`` of config.json specifies.
            truncate: truncates texts that are too long.
        """
        self._require_head("classify", per_token=False)
        flag("truncate", truncate)
        if top_k is not None:
            whole("top_k", top_k)
        if labels is not None:
            if choice("scores", scores, ("auto", "softmax", "sigmoid", "none")) != "auto":
                raise OptionError(
                    f"scores is {scores!r} with labels: remove it, and set multi_label for independent ones"
                )
            premises, single = one_or_many(text, is_text, "text")
            names = _label_names(labels)
            pairs = [(item, _filled(hypothesis, name)) for item in premises for name in names]
            order = entailment(head_labels(self.config, self._outputs), self._parts.identity)
            rows = self._map(
                [self._encode(pair, truncate=truncate) for pair in pairs],
                len,
                self._head,
                batch_tokens=batch_tokens,
                progress=progress,
                what="classifying",
            )
            several = flag("multi_label", multi_label) or len(names) == 1
            found = []
            for start in range(0, len(rows), len(names)):
                logits = np.stack(rows[start : start + len(names)])
                values = softmax(logits[:, order])[:, 1] if several else softmax(logits[:, order[1]])
                found.append(ranked(values, names, top_k))
            return found[0] if single else found
        for option, unset in (("hypothesis", hypothesis == HYPOTHESIS), ("multi_label", multi_label is False)):
            if not unset:
                raise OptionError(f"{option} is set without labels: set both, or remove it")
        items, single = one_or_many(text, is_text_or_pair, "text")
        encodings = [self._encode(item, truncate=truncate) for item in items]
        names = head_labels(self.config, self._outputs)
        how = score_function(self.config, scores, len(names))

        def run(batch: list[Encoding]) -> list[Classification]:
            return [classification(row, names, how, top_k) for row in self._head(batch)]

        results = self._map(encodings, len, run, batch_tokens=batch_tokens, progress=progress, what="classifying")
        return results[0] if single else results


def _label_names(labels: Any) -> list[str]:
    names = texts("labels", labels)
    if not names or len(set(names)) < len(names):
        raise OptionError(f"labels is {short_repr(labels)}: expected at least one label, each once")
    return names


def _filled(hypothesis: Any, label: str) -> str:
    if not isinstance(hypothesis, str) or "{}" not in hypothesis:
        raise OptionError(f"hypothesis is {short_repr(hypothesis)}: expected a text with {{}} in place of the label")
    return hypothesis.replace("{}", label)


def entailment(names: Sequence[str], identity: str) -> list[int]:
    """The outputs for contradiction and entailment of a model of natural language inference.

    As in transformers: entailment is found by its name, and contradiction is the first output, or the last one if
    entailment is the first.

    Raises:
        OptionError: no label is an entailment.
    """
    found = next((index for index, name in enumerate(names) if name.lower().startswith("entail")), None)
    if found is None or len(names) < 2:
        raise OptionError(
            f"labels is set, but {identity} has the labels {', '.join(names)}, none of which is an entailment: load a "
            "model of natural language inference, or leave labels out"
        )
    return [len(names) - 1 if found == 0 else 0, found]


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
    return ranked(apply(row, how), names, top_k)


def ranked(scores: Any, names: Sequence[str], top_k: int | None = None) -> Classification:
    """Labels with their scores, best first."""
    order = sorted(range(len(names)), key=lambda index: (-scores[index], index))[:top_k]
    found = tuple(Label(label=names[index], score=float(scores[index])) for index in order)
    return Classification(label=found[0].label, score=found[0].score, labels=found)
