"""The packed cache: quantized and packed weights are kept on disk, and the next load maps them.

A file belongs to a checkpoint folder, a description and a weight type; it is used only if the weight files
and the version of the library are unchanged. Files are written under a temporary name and renamed when
complete, so several processes may load at the same time; all processes that map a file share its memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, Tensor
from .errors import OptionError, short_repr
from .hub import BUILTIN

VARIABLE = "LAPWING_CACHE"
"""Environment variable that names another folder, or is "off"."""
SUFFIX = ".packed"

_NAMES = re.compile(rf"[0-9a-f]{{32}}(\{SUFFIX}|\..*\.part)")
"""Names of the cache's files, including temporary ones: the folder may contain other files."""
_MAGIC, _PREAMBLE, _MAX_HEADER = b"lapwing2", 24, 64 << 20
"""The format of a file's beginning."""
_SAMPLES = 64
"""Number of samples of a weight file that are hashed."""
_SAMPLE_BYTES = 4096


def folder() -> Path | None:
    """The folder of the cache: ``LAPWING_CACHE``, or the user's cache folder; None if it is "off"."""
    named = os.environ.get(VARIABLE)
    if named:
        return None if named == "off" else Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lapwing"


@dataclass(frozen=True)
class CacheEntry:
    """A file of packed weights and the key that it must contain."""

    path: Path
    key: str


def entry(
    checkpoint: Checkpoint, spec: str, tensors: Mapping[str, Tensor], weights: str, version: str
) -> CacheEntry | None:
    """The cache entry of a checkpoint; None if the cache is off."""
    root = folder()
    if root is None:
        return None
    sources = [(name, tensor.name, tensor.dtype, tensor.shape) for name, tensor in sorted(tensors.items())]
    description = hashlib.sha256(spec.encode()).hexdigest()
    key = {
        "version": version,
        "weights": weights,
        "spec": description,
        "tensors": hashlib.sha256(repr(sources).encode()).hexdigest(),
        "files": [_fingerprint(file, stat) for file, stat in zip(checkpoint.files, checkpoint.stats, strict=True)],
    }
    # The name does not depend on the key: a changed checkpoint replaces its old file.
    name = hashlib.sha256(f"{checkpoint.path.resolve()}\n{weights}\n{description}".encode()).hexdigest()[:32]
    return CacheEntry(root / f"{name}{SUFFIX}", json.dumps(key, sort_keys=True))


def _fingerprint(file: Path, stat: os.stat_result) -> list[str | int]:
    """Identifies the contents of a weight file.

    Copies may keep the mtime of the original, but ctime cannot be set. Samples of the contents cover systems
    where ctime is the time of creation (Windows). The inode number is not included, since some network file
    systems assign new ones at every mount.
    """
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        last = max(0, stat.st_size - _SAMPLE_BYTES)
        for start in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
            opened.seek(start)
            digest.update(opened.read(_SAMPLE_BYTES))
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, digest.hexdigest()]


def sizes() -> dict[Path, int]:
    """Files of the cache and their sizes, including incomplete ones."""
    root = folder()
    found = {}
    for path in sorted(root.glob("*")) if root is not None and root.is_dir() else ():
        if _NAMES.fullmatch(path.name):
            with suppress(FileNotFoundError):  # it was renamed or removed meanwhile
                found[path] = path.stat().st_size
    return found


@dataclass(frozen=True)
class PackedFile:
    """A file of the cache. ``model`` is the hub id, the built-in id or the folder that it was packed from, and
    ``weights`` the type; None if the file is incomplete or of another version. ``last_use`` is in seconds since the
    epoch."""

    path: Path
    bytes: int
    model: str | None
    weights: str | None
    last_use: float


def files() -> list[PackedFile]:
    """Files of the cache, the last used first."""
    found = []
    for path, size in sizes().items():
        with suppress(FileNotFoundError):
            key = _read_key(path)
            sources = key.get("files")
            source = sources[0][0] if isinstance(sources, list) and sources and sources[0] else None
            model = _model_of(source) if isinstance(source, str) else None
            weights = key.get("weights")
            last = max(path.stat().st_atime, path.stat().st_mtime)
            found.append(PackedFile(path, size, model, weights if isinstance(weights, str) else None, last))
    return sorted(found, key=lambda file: -file.last_use)


def touch(path: Path) -> None:
    """Notes that a file was used now, in its access time; its modification time stays that of its weights."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _read_key(path: Path) -> dict[str, Any]:
    """The key in the header of a file (``rust/model/packed.rs``); empty if there is none."""
    try:
        with path.open("rb") as file:
            start = file.read(_PREAMBLE)
            length = int.from_bytes(start[8:16], "little")
            if len(start) < _PREAMBLE or not start.startswith(_MAGIC) or length > _MAX_HEADER:
                return {}
            header = json.loads(file.read(length))
            key = json.loads(header["key"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return key if isinstance(key, dict) else {}


def _model_of(source: str) -> str:
    """The id of a weight file's model, in the hub's cache (models--owner--name) or built in; else its folder."""
    path = Path(source)
    for part in path.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/", 1)
    if path.parent.parent == BUILTIN.resolve():
        return f"lapwing/{path.parent.name}"
    return str(path.parent)


def clear(models: Sequence[str] = ()) -> int:
    """Removes files of the cache and returns their size: all, or those of some models, named as in `files`. Models
    that have mapped one keep it.

    Raises:
        OptionError: there is no file of a model.
    """
    found = files()
    for name in models:
        if not any(_is_of(file, name) for file in found):
            known = sorted({file.model for file in found if file.model})
            raise OptionError(
                f"the cache has no file of {short_repr(name)}: expected {', '.join(known) or 'nothing, it is empty'}"
            )
    freed = 0
    for file in found:
        if not models or any(_is_of(file, name) for name in models):
            file.path.unlink(missing_ok=True)
            freed += file.bytes
    return freed


def _is_of(file: PackedFile, name: str) -> bool:
    if file.model is None:
        return name == file.path.name
    return name in (file.model, file.path.name) or str(Path(name).expanduser().resolve()) == file.model
