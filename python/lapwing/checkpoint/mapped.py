"""Weight files mapped into memory, their stored elements, and files of other formats under a known name."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .tensor import Array

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
         "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8, "C128": 16}  # fmt: skip
"""Element types by their names in safetensors, and their bytes."""

_NUMPY: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
}


class MappedFile:
    """A mapped file. Reading a part releases the resident pages of the previous one: its arrays stay valid,
    and packed weights are not held in memory twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.size = path.stat().st_size
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        self._last: tuple[int, int] | None = None

    def part(self, start: int, length: int) -> memoryview:
        """Bytes of the file; fewer where it ends."""
        if self._last is not None and hasattr(mmap, "MADV_DONTNEED") and isinstance(self._map, mmap.mmap):
            self._map.madvise(mmap.MADV_DONTNEED, *self._last)
            self._last = None
        stop = min(start + length, self.size)
        if start < stop:
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._last = (page, stop - page)
        return memoryview(self._map)[start:stop]

    def elements(self, name: str, code: str, start: int, count: int) -> Array:
        """``count`` elements of the type ``code`` from byte ``start``, for the tensor ``name``.

        A view of the file if possible; float64 is rounded to float32.

        Raises:
            CheckpointError: the type is not one of float32, float16, bfloat16 and float64.
        """
        if code not in _NUMPY:
            raise CheckpointError(
                f"{self.path}: tensor {name} has element type {code}: expected one of {', '.join(_NUMPY)}; convert "
                "the checkpoint to one of them"
            )
        dtype = _NUMPY[code]
        if count == 0:
            array = np.zeros(0, dtype)
        else:
            part = self.part(start, count * dtype.itemsize)
            array = np.frombuffer(bytes(part) if start % dtype.itemsize else part, dtype, count)
        if code == "F64":
            with np.errstate(over="ignore"):  # an infinity, which is reported like a stored one
                return array.astype(np.float32)
        return array


def refuse_other_formats(path: Path, start: bytes, expected: str) -> None:
    """Raises if a file begins like something else than weights of the format ``expected``.

    Raises:
        CheckpointError: naming what was found and the way out.
    """
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer instead of the weights: fetch them with `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path} is a web page instead of the weights: the download failed; fetch it again")
    if start.startswith(b"GGUF"):
        raise CheckpointError(
            f"{path} is a GGUF file: expected {expected}; download the checkpoint that it was converted from"
        )
    if start[8:9] == b"{" and expected != "safetensors":
        raise CheckpointError(f"{path} is a safetensors file under another name: call it model.safetensors")
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) and (
        expected == "safetensors"
    ):
        raise CheckpointError(f"{path} is a pickle under another name: call it pytorch_model.bin")
