"""The tasks of models, in one table: the shape of model and the head that each needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = Literal["encoder", "decoder", "encoder-decoder"]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: the value of ``task`` in `lapwing.load`.
        shapes: the shapes of model that do it.
        head: what the families (`lapwing.architectures`) build for it; "features" is no head.
        classes: ends of the names of classes in config.json's ``architectures`` that have this head. A head that
            several tasks share lists them once.
    """

    name: str
    shapes: tuple[Shape, ...]
    head: str
    classes: tuple[str, ...] = ()


_TASKS = (
    Task("generate", ("decoder", "encoder-decoder"), "generation", ("ForCausalLM", "LMHeadModel")),
    Task("chat", ("decoder",), "generation"),
    Task("score", ("decoder",), "generation"),
    Task("embed", ("encoder",), "features", ("Model", "EncoderModel")),
    Task("encode", ("encoder",), "features"),
    Task(
        "classify",
        ("encoder",),
        "sequence-classification",
        # A choice is a text with one score: the best of several is the first that `rank` gives.
        ("ForSequenceClassification", "ForNextSentencePrediction", "ForMultipleChoice"),
    ),
    Task("rank", ("encoder",), "sequence-classification"),
    Task("tag", ("encoder",), "token-classification", ("ForTokenClassification",)),
    Task("answer", ("encoder",), "question-answering", ("ForQuestionAnswering",)),
    Task("fill-mask", ("encoder",), "fill-mask", ("ForMaskedLM", "ForPreTraining")),
    Task(
        "translate",
        ("encoder-decoder",),
        "text-to-text",
        ("ForConditionalGeneration", "MTModel", "WithLMHeadModel"),
    ),
    Task("summarize", ("encoder-decoder",), "text-to-text"),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""Every task by its name."""
_HEADS = {end: task.head for task in _TASKS for end in task.classes}


def head_of(class_name: str) -> str | None:
    """The head of a class by the longest end of its name that is in the table: "sequence-classification" for
    BertForSequenceClassification; None for an unknown one."""
    ends = [end for end in _HEADS if class_name.endswith(end)]
    return _HEADS[max(ends, key=len)] if ends else None
