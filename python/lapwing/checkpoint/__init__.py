"""A checkpoint folder in the format of the hub: config.json, safetensors in one file or in shards, small JSON
files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .config import Config
from .json_file import parse_json, read_json, read_object
from .safetensors import read_safetensors
from .tensor import Tensor

__all__ = [
    "Checkpoint",
    "Config",
    "Tensor",
    "open_checkpoint",
    "parse_json",
    "read_json",
    "read_object",
    "read_safetensors",
]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "tf_model.h5", "flax_model.msgpack")


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


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a folder.

    Raises:
        CheckpointError: a file is missing or damaged; the message says which and what to do.
    """
    if not path.is_dir():
        what = "is a file: give the folder that holds it" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}")
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / 'config.json'} is not a JSON object")
    files = _weight_files(path)
    tensors: dict[str, Tensor] = {}
    stats = tuple(file.stat() for file in files)
    for file in files:
        for name, tensor in read_safetensors(file).items():
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name} is also in another shard")
            tensors[name] = tensor
    if len(files) > 1 or not (path / _SINGLE).exists():
        listed = read_json(path / _INDEX)["weight_map"]
        lacking = sorted(set(listed) - set(tensors))
        if lacking:
            raise CheckpointError(
                f"{path / _INDEX} lists tensors that are missing from its shards: {', '.join(lacking[:20])}"
            )
    return Checkpoint(path, Config(config), tensors, tuple(files), stats)


def _weight_files(path: Path) -> list[Path]:
    if (path / _SINGLE).exists():
        return [path / _SINGLE]
    index = path / _INDEX
    if not index.exists():
        found = [name for name in _PICKLES if (path / name).exists()]
        if found:
            raise CheckpointError(
                f"{path} has {found[0]} and no safetensors: pickled weights are refused because they can run any "
                "code; convert them with transformers' save_pretrained(safe_serialization=True)"
            )
        raise CheckpointError(f"{path} has no {_SINGLE} and no {_INDEX}")
    content = read_json(index)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(v, str) for v in shards.values()):
        raise CheckpointError(f"{index} lacks a weight_map of tensor names to file names")
    files = []
    for name in dict.fromkeys(shards.values()):
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or "\0" in name or name.startswith("."):
            raise CheckpointError(f"{index} names the shard {name!r}: expected a plain *.safetensors file name")
        if not (path / name).exists():
            raise CheckpointError(f"{index} names the shard {name}, which is missing: download it")
        files.append(path / name)
    return files
