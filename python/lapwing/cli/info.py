"""``lapwing info``: facts about a checkpoint from its headers alone, or about this installation."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

from .text import load_folder, write, write_json

WEIGHTS = ("stored", "f32", "bf16", "f16", "q8", "q4")
_LANGUAGE = re.compile(r"__[a-z]{2,3}__|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")


def info(arguments: argparse.Namespace) -> None:
    """Facts, one per line."""
    facts = _installation() if arguments.model is None else checkpoint_facts(arguments)
    if arguments.json:
        write_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        write(f"{name.replace('_', ' '):<{width}}  {_shown(name, value)}")


def _shown(name: str, value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {size(count)}" for key, count in value.items())
    if name in ("bytes", "bytes in cache"):
        return size(value)
    if isinstance(value, int) and name != "threads":
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def size(count: int) -> str:
    """Bytes in the largest unit that gives a whole part."""
    value = float(count)
    for unit in ("bytes", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def checkpoint_facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Facts about a checkpoint. Reads JSON files and the headers of the weight files, no weights."""
    from .. import _core
    from ..architectures import check, complete
    from ..checkpoint import Recipe, open_checkpoint, open_table, read_object
    from ..loading import QUANTIZED_FROM, headers
    from ..models.base import stack_length
    from ..tokenizer import template

    folder, identity = load_folder(arguments)
    recipe = Recipe.read(folder)
    folder = folder if recipe is None else recipe.folder
    static = recipe is not None and recipe.static
    checkpoint = open_table(folder) if static else open_checkpoint(folder)
    spec, tensors, unused, made = headers(checkpoint, None, recipe)
    check({name: tuple(shape) for name, shape in _core.spec_tensors(spec.to_json())}, tensors, unused, str(folder))
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    stored = {id(tensor): tensor for tensor in tensors.values()}
    listed = [(names[key], tensor.dtype) for key, tensor in stored.items()]
    sizes, parameters = {}, 0
    for weights in WEIGHTS:
        parameters, found = _core.weight_sizes(spec.to_json(), weights, listed)
        sizes[weights] = sum(found.values())
    config = checkpoint.config if static else complete(checkpoint.config)
    settings = read_object(folder / "tokenizer_config.json")
    quantization = config.get("quantization_config")
    stack = spec.decoder or spec.encoder
    large = sum(math.prod(tensor.shape) for tensor in stored.values()) >= QUANTIZED_FROM
    types: dict[str, int] = {}
    for tensor in stored.values():
        types[tensor.dtype] = types.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return {
        "id": identity,
        "folder": str(folder),
        "architecture": config.model_type,
        "kind": made.kind,
        "task": _task(made.kind, recipe, config),
        "parameters": parameters,
        "layers": 0 if stack is None else len(stack.layers),
        "hidden_size": 0 if stack is None else stack.hidden_size,
        "vocab_size": 0 if stack is None else stack.stem.vocab_size,
        "context": None if stack is None else stack_length(stack),
        "stored_types": sorted(types, key=lambda name: -types[name]),
        "weights": "q8" if large else "stored",
        "sizes": sizes,
        "quantization": quantization.get("quant_method", "yes") if isinstance(quantization, dict) else None,
        "languages": _languages(folder, config, settings),
        "chat_templates": sorted(template.find(folder, settings)),
    }


def _task(kind: str, recipe: Any, config: Any) -> str:
    """What the checkpoint is for: the task whose method its head serves."""
    from ..architectures import task_of
    from ..tasks import TASKS

    if recipe is not None and kind == "encoder":
        return "embed"  # of a static table too, whose config names no class
    head = task_of(config)
    served = [task.name for task in TASKS.values() if kind in task.shapes and task.head == head and task.classes]
    return served[0] if served else "encode"


def _languages(folder: Path, config: Any, settings: dict[str, Any]) -> list[str]:
    """Languages as the tokenizer's files name them: special tokens, the direction of a pair, Marian's prefixes."""
    from ..checkpoint import read_object
    from ..tokenizer import multilingual

    pair = [settings.get(f"{side}_lang") or settings.get(f"{name}_lang") for side, name in _SIDES]
    kind = multilingual.kind(settings)
    if kind:
        words = _strings(settings) + _strings(read_object(folder / "special_tokens_map.json"))
        found = [word for word in dict.fromkeys(words) if _LANGUAGE.fullmatch(word)]
        return found or multilingual.LANGUAGES.get(kind, "").split()
    path = folder / "vocab.json"
    if config.model_type == "marian" and path.is_file():
        prefixes = [word for word in read_object(path) if word.startswith(">>") and word.endswith("<<")]
        if prefixes:
            return [word[2:-2] for word in sorted(prefixes)]
    return [str(language) for language in pair if language]


_SIDES = (("src", "source"), ("tgt", "target"))


def _strings(value: Any) -> list[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one)]


def _installation() -> dict[str, Any]:
    import platform

    import numpy

    from .. import __version__, _core, packed
    from ..architectures import families
    from ..hub import builtin_ids

    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "isa": _core.isa(),
        "threads": _core.default_threads(),
        "cache": str(packed.folder() or "off"),
        "bytes in cache": sum(packed.sizes().values()),
        "built-in models": builtin_ids(),
        "model types": list(families()),
    }
