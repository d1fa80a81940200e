"""Packed weights on disk: what a load has quantized and packed is kept, and the next load maps it.

A file belongs to a checkpoint's folder, a description and a weight type; it is used only if the weight files are still those
that were packed, and the version of the library is the same. Files are written beside their place and renamed when whole, so
several processes may load at once, and all that map a file share its memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint, Tensor

VARIABLE = "LAPWING_CACHE"
"""Environment variable: another folder, or "off"."""
SUFFIX = ".packed"

_NAMES = re.compile(rf"[0-9a-f]{{32}}(\{SUFFIX}|\..*\.part)")
"""Of the cache's own files, those that are being written too: the folder may hold others."""
_SAMPLES = 64
"""Places of a weight file that are read to know it again."""
_SAMPLE_BYTES = 4096


def folder() -> Path | None:
    """Where packed weights are kept: ``LAPWING_CACHE``, or the user's folder for caches; None where it is "off"."""
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
    """A file of packed weights, and what it must hold."""

    path: Path
    key: str


def entry(
    checkpoint: Checkpoint, spec: str, tensors: Mapping[str, Tensor], weights: str, version: str
) -> CacheEntry | None:
    """Where the packed weights of a checkpoint belong; None where the cache is off."""
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
        "files": [_known(file, stat) for file, stat in zip(checkpoint.files, checkpoint.stats, strict=True)],
    }
    # A changed checkpoint takes the place of what it was.
    name = hashlib.sha256(f"{checkpoint.path.resolve()}\n{weights}\n{description}".encode()).hexdigest()[:32]
    return CacheEntry(root / f"{name}{SUFFIX}", json.dumps(key, sort_keys=True))


def _known(file: Path, stat: os.stat_result) -> list[str | int]:
    """By what a weight file is known again.

    Copies may keep the time of the last change. The time at which a file got its content or its name here cannot be set; where
    the system has none (Windows: that of creation), samples of the content tell. No number of the file: some network file
    systems give out new ones whenever they are mounted.
    """
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        last = max(0, stat.st_size - _SAMPLE_BYTES)
        for start in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
            opened.seek(start)
            digest.update(opened.read(_SAMPLE_BYTES))
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, digest.hexdigest()]


def sizes() -> dict[Path, int]:
    """The files of the cache and their bytes, those that a load left half-written too."""
    root = folder()
    found = {}
    for path in sorted(root.glob("*")) if root is not None and root.is_dir() else ():
        if _NAMES.fullmatch(path.name):
            with suppress(FileNotFoundError):  # it got its name meanwhile, or was removed
                found[path] = path.stat().st_size
    return found


def clear() -> int:
    """Removes all files of the cache; how many bytes that was. Models that have mapped one keep it."""
    freed = 0
    for path, size in sizes().items():
        path.unlink(missing_ok=True)
        freed += size
    return freed
