"""A checkpoint folder in the format of the hub: config.json, weights in one file or in shards, small JSON files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .config import Config
from .foreign import recognize, refusal, refuse_file, refuse_quantized, snapshot
from .json_file import parse_json, read_json, read_object
from .recipe import Recipe
from .safetensors import read_safetensors
from .static import table
from .tensor import Tensor
from .weights import Weights, has_weights, read_weights

__all__ = [
    "Checkpoint",
    "Config",
    "Recipe",
    "Tensor",
    "Weights",
    "has_weights",
    "open_checkpoint",
    "open_table",
    "parse_json",
    "read_json",
    "read_object",
    "read_safetensors",
    "read_weights",
    "recognize",
    "refuse_file",
    "snapshot",
    "table",
]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint, whose weights have not been read yet.

    Attributes:
        path: the folder.
        config: config.json.
        tensors: the stored tensors by name.
        files: the weight files, in order.
        stats: file status of each file, from before it was opened.
    """

    path: Path
    config: Config
    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    stats: tuple[os.stat_result, ...]


def open_table(path: Path) -> Checkpoint:
    """Opens a folder of static embeddings, which may lack a config.json.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    weights = read_weights(path)
    config = Config({"model_type": "static", **read_object(path / "config.json")})
    return Checkpoint(path, config, weights.tensors, weights.files, weights.stats)


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a folder.

    Raises:
        CheckpointError: a file is missing or damaged; the message says which and what to do.
    """
    if not path.is_dir():
        raise refuse_file(path) if path.exists() else CheckpointError(f"{path} does not exist")
    if not (path / "config.json").exists() or not has_weights(path):
        found = refusal(path)
        if found is not None:
            raise found
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / 'config.json'} is not a JSON object")
    refuse_quantized(config, path / "config.json")
    weights = read_weights(path)
    return Checkpoint(path, Config(config), _unwrapped(weights.tensors), weights.files, weights.stats)


_WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")
"""Prefixes of all names of a model that was saved inside torch.compile, DataParallel or FSDP."""


def _unwrapped(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors without the prefixes of wrappers that all names have."""
    while tensors:
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
