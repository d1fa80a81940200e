"""The weight files of a folder: safetensors or pytorch_model.bin, in one file or in shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .json_file import read_json
from .pytorch import read_pytorch
from .safetensors import read_safetensors
from .tensor import Tensor


@dataclass(frozen=True)
class _Format:
    single: str
    suffix: str
    read: Callable[[Path], dict[str, Tensor]]

    @property
    def index(self) -> str:
        return f"{self.single}.index.json"


_FORMATS = (
    _Format("model.safetensors", ".safetensors", read_safetensors),
    _Format("pytorch_model.bin", ".bin", read_pytorch),
)
"""The first that a folder has is read."""


@dataclass(frozen=True)
class Weights:
    """Weight files that have not been read yet.

    Attributes:
        tensors: the stored tensors by name.
        files: the files, in order.
        stats: file status of each file, from before it was opened.
    """

    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    stats: tuple[os.stat_result, ...]


def has_weights(folder: Path) -> bool:
    """Whether a folder has weight files under the names that `read_weights` reads."""
    return any((folder / name).exists() for format in _FORMATS for name in (format.single, format.index))


def read_weights(folder: Path) -> Weights:
    """Opens the weight files of a folder.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for format in _FORMATS:
        if (folder / format.single).exists():
            return _open(format, [folder / format.single])
        if (folder / format.index).exists():
            return _sharded(format, folder)
    names = " or ".join(f"{format.single}, {format.index}" for format in _FORMATS)
    raise CheckpointError(f"{folder} has no weights: expected {names}")


def _open(format: _Format, files: list[Path]) -> Weights:
    tensors: dict[str, Tensor] = {}
    try:
        stats = tuple(file.stat() for file in files)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror or error}") from error
    for file in files:
        for name, tensor in format.read(file).items():
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name} is also in another shard")
            tensors[name] = tensor
    return Weights(tensors, tuple(files), stats)


def _sharded(format: _Format, folder: Path) -> Weights:
    index = folder / format.index
    content = read_json(index)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(v, str) for v in shards.values()):
        raise CheckpointError(f"{index} lacks a weight_map of tensor names to file names")
    files = []
    for name in dict.fromkeys(shards.values()):
        if not name.endswith(format.suffix) or "/" in name or "\\" in name or "\0" in name or name.startswith("."):
            raise CheckpointError(f"{index} names the shard {name!r}: expected a plain *{format.suffix} file name")
        if not (folder / name).exists():
            raise CheckpointError(f"{index} names the shard {name}, which is missing: download it")
        files.append(folder / name)
    weights = _open(format, files)
    lacking = sorted(set(shards) - set(weights.tensors))
    if lacking:
        raise CheckpointError(f"{index} lists tensors that are missing from its shards: {', '.join(lacking[:20])}")
    return weights
