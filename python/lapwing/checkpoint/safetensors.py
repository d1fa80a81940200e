"""The safetensors format: eight bytes of length, a JSON header, then the tensors without gaps.

The header is untrusted: sizes, offsets and names are validated before any tensor is created. The file is
mapped, never copied.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, short_repr
from .json_file import parse_json
from .mapped import SIZES, MappedFile, refuse_other_formats
from .tensor import DTYPES, Array, Tensor

_MAX_HEADER = 100 << 20


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Opens a file and returns its tensors by name, without reading them.

    Tensors of element types other than float32, float16, bfloat16 and float64 are listed too, but reading one,
    or needing one for a model, raises. float64 is read as float32.

    Raises:
        CheckpointError: the file is damaged or has another format.
    """
    file = MappedFile(path)
    head, more = bytes(file.part(0, 8)), bytes(file.part(8, 120))
    if not more.startswith(b"{"):  # the length of a header may begin like another format
        refuse_other_formats(path, head + more, "safetensors")
    if file.size < 8:
        raise CheckpointError(f"{path} has {file.size} bytes: expected a safetensors file of at least 8")
    (length,) = struct.unpack("<Q", head)
    if length > _MAX_HEADER or length > file.size - 8:
        raise CheckpointError(
            f"{path}: its header claims {length} bytes, but the file has {file.size}: it is damaged or truncated; "
            "download it again"
        )
    text = bytes(file.part(8, length))
    header = parse_json(text, f"the header of {path}")
    if not isinstance(header, dict):
        raise CheckpointError(f"the header of {path} is not a JSON object")
    header.pop("__metadata__", None)
    data = file.size - 8 - length
    tensors: dict[str, Tensor] = {}
    extents: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        code, shape, start, stop = _entry(path, name, entry, data)
        extents.append((start, stop, name))
        tensors[name] = Tensor(
            name, DTYPES.get(code, code), shape, _reader(file, name, code, shape, 8 + length + start)
        )
    _check_extents(path, extents, data)
    return tensors


def _entry(path: Path, name: str, entry: Any, data: int) -> tuple[str, tuple[int, ...], int, int]:
    def wrong(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name}: {what}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong("its entry must hold dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in SIZES:
        raise wrong(f"element type {code!r} is unknown: expected one of {', '.join(DTYPES)}")
    for what, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 1 << 63 for v in values):
            raise wrong(f"{what} is {short_repr(values)}: expected whole numbers from 0")
    if len(offsets) != 2 or len(shape) > 8:
        raise wrong(f"shape {shape} with data_offsets {offsets}: expected at most 8 dimensions and 2 offsets")
    start, stop = offsets
    expected = math.prod(shape) * SIZES[code]
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


def _reader(file: MappedFile, name: str, code: str, shape: tuple[int, ...], start: int) -> Callable[[], Array]:
    return lambda: file.elements(name, code, start, math.prod(shape)).reshape(shape)
