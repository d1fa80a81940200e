"""The safetensors format: eight bytes of length, a JSON header, then the tensors without gaps.

The header is untrusted: sizes, offsets and names are validated before any tensor is created. The file is
mapped, never copied.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, short_repr
from .json_file import parse_json
from .tensor import DTYPES, Array, Tensor

_MAX_HEADER = 100 << 20
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
          "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}  # fmt: skip
_NUMPY: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class _Map:
    """A mapped file. Reading a part releases the resident pages of the previous one: its arrays stay valid,
    and packed weights are not held in memory twice."""

    def __init__(self, file: int) -> None:
        self._map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        self._last: tuple[int, int] | None = None

    def part(self, start: int, length: int) -> memoryview:
        """Bytes of the file."""
        if self._last is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, *self._last)
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        self._last = (page, start + length - page)
        return memoryview(self._map)[start : start + length]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Opens a file and returns its tensors by name, without reading them.

    Tensors of element types other than float32, float16 and bfloat16 are listed too, but reading one, or
    needing one for a model, raises.

    Raises:
        CheckpointError: the file is damaged or has another format.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            head = file.read(8)
            _refuse_other_formats(path, head, file.read(120))
            if size < 8:
                raise CheckpointError(f"{path} has {size} bytes: expected a safetensors file of at least 8")
            (length,) = struct.unpack("<Q", head)
            if length > _MAX_HEADER or length > size - 8:
                raise CheckpointError(
                    f"{path}: its header claims {length} bytes, but the file has {size}: it is damaged or truncated; "
                    "download it again"
                )
            file.seek(8)
            text = file.read(length)
            mapped = _Map(file.fileno()) if size > 8 + length else None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    header = parse_json(text, f"the header of {path}")
    if not isinstance(header, dict):
        raise CheckpointError(f"the header of {path} is not a JSON object")
    header.pop("__metadata__", None)
    data = size - 8 - length
    tensors: dict[str, Tensor] = {}
    extents: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        code, shape, start, stop = _entry(path, name, entry, data)
        extents.append((start, stop, name))
        tensors[name] = Tensor(
            name, DTYPES.get(code, code), shape, _reader(path, mapped, name, code, shape, 8 + length + start)
        )
    _check_extents(path, extents, data)
    return tensors


def _entry(path: Path, name: str, entry: Any, data: int) -> tuple[str, tuple[int, ...], int, int]:
    def wrong(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name}: {what}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong("its entry must hold dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _SIZES:
        raise wrong(f"element type {code!r} is unknown: expected one of {', '.join(DTYPES)}")
    for what, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 1 << 63 for v in values):
            raise wrong(f"{what} is {short_repr(values)}: expected whole numbers from 0")
    if len(offsets) != 2 or len(shape) > 8:
        raise wrong(f"shape {shape} with data_offsets {offsets}: expected at most 8 dimensions and 2 offsets")
    start, stop = offsets
    expected = math.prod(shape) * _SIZES[code]
    if start > stop or stop > data:
        raise wrong(f"data_offsets {offsets} are not within the {data} bytes of data: the file is truncated or damaged")
    if stop - start != expected:
        raise wrong(f"{code} {shape} needs {expected} bytes, but data_offsets {offsets} span {stop - start}")
    return code, tuple(shape), start, stop


def _check_extents(path: Path, extents: list[tuple[int, int, str]], data: int) -> None:
    position, before = 0, "the start"
    for start, stop, name in sorted(extents):
        if start != position:
            what = "overlaps" if start < position else "leaves a gap after"
            raise CheckpointError(f"{path}: tensor {name} at byte {start} {what} {before}, which ends at {position}")
        position, before = stop, name
    if position != data:
        raise CheckpointError(f"{path} has {data} bytes of data, but its tensors need {position}: it is damaged")


def _reader(
    path: Path, mapped: _Map | None, name: str, code: str, shape: tuple[int, ...], start: int
) -> Callable[[], Array]:
    def read() -> Array:
        if code not in _NUMPY:
            raise CheckpointError(
                f"{path}: tensor {name} has element type {code}: expected one of {', '.join(_NUMPY)}; convert "
                "the checkpoint to one of them"
            )
        count = math.prod(shape)
        if mapped is None or count == 0:
            return np.zeros(shape, _NUMPY[code])
        dtype = _NUMPY[code]
        part = mapped.part(start, count * dtype.itemsize)
        return np.frombuffer(bytes(part) if start % dtype.itemsize else part, dtype, count).reshape(shape)

    return read


def _refuse_other_formats(path: Path, head: bytes, more: bytes) -> None:
    if more.startswith(b"{"):
        # This is a safetensors header, whose length field may start like another format.
        return
    start = head + more
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer instead of the weights: fetch them with `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError(f"{path} is a web page instead of the weights: the download failed; fetch it again")
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise CheckpointError(f"{path} is a pickle under another name: save the checkpoint as safetensors")
    if start.startswith(b"GGUF"):
        raise CheckpointError(f"{path} is a GGUF file: expected safetensors")
