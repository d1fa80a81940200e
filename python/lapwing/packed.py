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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint, Tensor

VARIABLE = "LAPWING_CACHE"
"""Environment variable that names another folder, or is "off"."""
SUFFIX = ".packed"

_NAMES = re.compile(rf"[0-9a-f]{{32}}(\{SUFFIX}|\..*\.part)")
"""Names of the cache's files, including temporary ones: the folder may contain other files."""
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


def clear() -> int:
    """Removes all files of the cache and returns their size. Models that have mapped one keep it."""
    freed = 0
    for path, size in sizes().items():
        path.unlink(missing_ok=True)
        freed += size
    return freed
