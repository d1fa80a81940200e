"""Families of models: each file turns a configuration into a description and a checkpoint's names into ours.

A family is a module with ``spec(config, task) -> Model`` and ``tensors(config, checkpoint, task) -> Renamed``, and
perhaps the other names that `Family` lists. It is found by ``model_type``: the file of that name, or the one that
`ALIASES` names. A ``task`` is the ``head`` of a `lapwing.tasks.Task`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

from ..checkpoint import Checkpoint, Config, Tensor
from ..errors import CheckpointError
from ..spec import Model
from ..tasks import head_of
from ._family import Family
from ._names import tie
from ._unsupported import explain

ALIASES: dict[str, str] = {
    "blenderbot-small": "blenderbot_small",
    "camembert": "roberta",
    "data2vec-text": "roberta",
    "deberta-v2": "deberta_v2",
    "gemma3": "_multimodal",
    "megatron-bert": "megatron_bert",
    "mistral3": "_multimodal",
    "new": "gte",
    "xlm-roberta": "roberta",
    "xlm-roberta-xl": "xlm_roberta_xl",
}
"""model_type to file, where the names differ."""

BOUNDS = {
    4096: (
        "num_hidden_layers",
        "num_layers",
        "num_decoder_layers",
        "n_layer",
        "n_layers",
        "encoder_layers",
        "decoder_layers",
    ),
    1 << 18: ("hidden_size", "d_model", "n_embd", "n_embed", "dim"),
    1 << 14: ("head_dim", "d_kv"),
}
"""Numbers of layers and widths that no model exceeds, by the keys that name them."""


@cache
def families() -> tuple[str, ...]:
    """Every supported ``model_type``."""
    files = {p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_")}
    # A file whose name only spells its model_type, which has hyphens.
    spelled = {name.replace("-", "_") for name in ALIASES if "-" in name}
    return tuple(sorted({*(files - spelled), *ALIASES}))


def family(config: Config) -> Family:
    """The family of a configuration.

    Raises:
        CheckpointError: the family is not supported; says of what kind it is and what would serve.
    """
    name = config.model_type
    if name not in families():
        raise CheckpointError(f"config.json: {explain(name, config.words('architectures'), families())}")
    return Family.of(import_module(f".{ALIASES.get(name, name)}", __name__))


def complete(config: Config) -> Config:
    """The configuration with the family's values (``DEFAULTS``) for keys that it leaves out.

    Raises:
        CheckpointError: the family is not supported, or a size beyond `BOUNDS`.
    """
    defaults = family(config).defaults
    config = config.with_values(**{key: value for key, value in defaults.items() if key not in config})
    for maximum, keys in BOUNDS.items():
        for key in keys:
            # Checked before any loop or allocation of such a size.
            config.size(key, default=1, minimum=0, maximum=maximum)
    return config


def task_of(config: Config) -> str:
    """The task of the checkpoint's class, from ``architectures``; "" if unknown."""
    for name in config.words("architectures"):
        head = head_of(name)
        if head is not None:
            return family(config).bare_head if head == "features" and not name.endswith("EncoderModel") else head
    return ""


def head_in(checkpoint: Checkpoint) -> str:
    """The head that a checkpoint has: that of its class (`task_of`); of a decoder without a known class, the language
    head if its tensors or its tied table are there; "" if unknown."""
    config = complete(checkpoint.config)
    known = task_of(config)
    if known or any(head_of(name) for name in config.words("architectures")):
        return known
    found = family(config)
    tensors = found.tensors(config, checkpoint.tensors, "generation")
    model = found.spec(config, "generation") if "language_head.weight" in tensors else None
    return "generation" if model is not None and model.decoder is not None and model.encoder is None else ""


def describe(checkpoint: Checkpoint, task: str | None = None) -> tuple[Model, Mapping[str, Tensor], list[str]]:
    """The description of a checkpoint's model, its tensors by spec name, and the unused names.

    Args:
        checkpoint: an opened checkpoint.
        task: the head of a task (`lapwing.tasks`), instead of what the checkpoint says.

    Raises:
        CheckpointError: the family is unknown, or the configuration impossible.
    """
    found = family(checkpoint.config)
    config = complete(checkpoint.config)
    task = task if task is not None else head_in(checkpoint)
    tensors = found.tensors(config, checkpoint.tensors, task)
    if task == "fill-mask" and config.flag("tie_word_embeddings", default=True):
        # A table that is stored once may have the name of either.
        tie(tensors, "encoder.embedding.token.weight", "language_head.weight")
    if task in ("sequence-classification", "token-classification"):
        config = _labelled(config, tensors)
    return (
        found.adjust(found.spec(config, task), tensors),
        tensors,
        [
            # The value head of a model trained by reinforcement learning serves no task.
            name
            for name in tensors.unused
            if not name.startswith("v_head.")
        ],
    )


def _labelled(config: Config, tensors: Mapping[str, Tensor]) -> Config:
    """The configuration with the number of labels of the head's last tensor, if it states none."""
    if config.get("id2label") or config.get("num_labels") is not None:
        return config
    layers = [name for name in tensors if re.fullmatch(r"head\.\d+\.weight", name)]
    last = tensors[max(layers, key=lambda name: int(name.split(".")[1]))] if layers else None
    return config.with_values(num_labels=last.shape[0]) if last is not None and last.shape else config


def check(needed: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], unused: list[str], place: str) -> None:
    """Compares the needed tensors with the given ones; one error lists all differences.

    Args:
        needed: names and shapes that the core requires.
        tensors: what the family made of the checkpoint.
        unused: names of the checkpoint that the family does not know.
        place: the checkpoint, for the message.

    Raises:
        CheckpointError: something is missing, left over or of another shape.
    """
    problems = [f"unknown tensor {name}" for name in unused]
    problems += [f"tensor {tensors[n].name} ({n}) is not part of this model" for n in tensors if n not in needed]
    problems += [f"missing tensor {name} {list(shape)}" for name, shape in needed.items() if name not in tensors]
    for name, shape in needed.items():
        got = tensors.get(name)
        if got is not None and tuple(got.shape) != tuple(shape):
            problems.append(f"tensor {got.name} ({name}) has shape {list(got.shape)}, expected {list(shape)}")
        elif got is not None and got.dtype not in ("float32", "float16", "bfloat16"):
            problems.append(f"tensor {got.name} has element type {got.dtype}, expected float32, float16 or bfloat16")
    if problems:
        shown = "; ".join(problems[:50]) + (f"; and {len(problems) - 50} more" if len(problems) > 50 else "")
        raise CheckpointError(f"{place}: the tensors do not fit the configuration: {shown}")
