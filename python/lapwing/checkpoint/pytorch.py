"""The files of ``torch.save``, read without PyTorch and without running anything: pytorch_model.bin.

Since PyTorch 1.6 a file is a zip archive, not compressed: ``*/data.pkl`` describes the tensors, and ``*/data/KEY`` are
the bytes of one storage each. Before, it was a sequence: the pickles of a magic number, a version, facts about the
machine, the tensors and the keys of the storages; then each storage as a number of elements and its bytes.
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, short_repr
from .mapped import SIZES, MappedFile, refuse_other_formats
from .pickled import MAX_BYTES, PickleError, Unpickler, View
from .tensor import DTYPES, Array, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MAX_DIRECTORY = 8 << 20
"""Bound of a zip archive's directory, in bytes; an entry takes about 70 of them."""
_MAX_SHARED = 2
"""Bound of the bytes of all tensors, each counted in full, relative to the file. Tied tensors count once."""

_Places = Mapping[str, tuple[int, int]]
"""First byte and number of bytes of each storage, by its key."""


def read_pytorch(path: Path) -> dict[str, Tensor]:
    """Opens a file of ``torch.save`` and returns its tensors by name, without reading them.

    Tensors that are the same view of one storage are the same object. Element types are treated as by
    `read_safetensors`.

    Raises:
        CheckpointError: the file is damaged, has another format, or holds something else than a dictionary of
            tensors by name; a name that it needs beyond those is named.
    """
    file = MappedFile(path)
    start = bytes(file.part(0, 256))
    refuse_other_formats(path, start, "weights of PyTorch")
    try:
        if start.startswith(b"PK\x03\x04"):
            state, places = _zip(file)
        elif start.startswith(b"\x80"):
            state, places = _sequence(file)
        else:
            raise PickleError(f"it begins with {short_repr(start[:16])}: expected a file of torch.save")
        return _tensors(file, state, places)
    except PickleError as error:
        raise CheckpointError(
            f"{path} cannot be read as weights of PyTorch: {error}; if you trust it, convert it with transformers' "
            "save_pretrained, which writes safetensors"
        ) from error


class _Bounded(io.RawIOBase):
    """A mapped file for `zipfile`, which reads the directory in one piece."""

    def __init__(self, file: MappedFile) -> None:
        self._file, self._at = file, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._at, self._file.size)[whence]
        if position < 0:
            raise OSError("a position before the file")
        self._at = position
        return position

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        size = left if size < 0 else min(size, left)
        if size > _MAX_DIRECTORY:
            raise PickleError(f"its directory has {size} bytes: expected at most {_MAX_DIRECTORY}")
        self._at += size
        return bytes(self._file.part(self._at - size, size))


def _zip(file: MappedFile) -> tuple[Any, _Places]:
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            entries = archive.infolist()
    except PickleError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OSError, OverflowError, ValueError, struct.error) as error:
        raise PickleError(f"its zip archive is damaged or truncated ({short_repr(str(error))})") from error
    names = {entry.filename: entry for entry in entries}
    if len(names) != len(entries):
        raise PickleError("its zip archive has a name twice")
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise PickleError(f"its zip archive has {len(pickles)} files data.pkl: expected one")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise PickleError("it is a TorchScript program: expected a dictionary of tensors")
    order = names.get(f"{root}byteorder")
    if order is not None and bytes(file.part(*_extent(file, order))) != b"little":
        raise PickleError("its numbers are big-endian: expected little-endian")
    start, size = _extent(file, names[pickles[0]])
    if size > MAX_BYTES:
        raise PickleError(f"its pickle has {size} bytes: expected at most {MAX_BYTES}")
    state = Unpickler(file.part(start, size)).load()
    data = f"{root}data/"
    return state, {
        name.removeprefix(data): _extent(file, entry) for name, entry in names.items() if name.startswith(data)
    }


def _extent(file: MappedFile, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """First byte and size of an entry."""
    name = short_repr(entry.filename)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
        raise PickleError(f"the entry {name} of its zip archive is compressed or encrypted: torch.save does neither")
    head = bytes(file.part(entry.header_offset, 30)) if 0 <= entry.header_offset < file.size else b""
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise PickleError(f"the entry {name} of its zip archive is not where the directory says")
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", head[26:]))
    if start + entry.file_size > file.size:
        raise PickleError(f"the entry {name} of its zip archive goes beyond the end: the file is truncated")
    return start, entry.file_size


def _sequence(file: MappedFile) -> tuple[Any, _Places]:
    """The format before PyTorch 1.6."""
    reader = Unpickler(file.part(0, MAX_BYTES))
    if reader.load() != _MAGIC or reader.load() != _VERSION:
        raise PickleError("it is a pickle of another program: expected a file of torch.save")
    machine = reader.load()
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise PickleError("its numbers are not marked as little-endian")
    state, keys = reader.load(), reader.load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise PickleError("it lacks the keys of its storages")
    codes = {view.storage.key: SIZES[view.storage.code] for view in _views(state).values()}
    places: dict[str, tuple[int, int]] = {}
    position = reader.position
    for key in keys:
        count = bytes(file.part(position, 8))
        if key not in codes or len(count) < 8:
            raise PickleError(f"its storage {short_repr(key)} belongs to no tensor, or the file is truncated")
        places[key] = (position + 8, struct.unpack("<Q", count)[0] * codes[key])
        position = sum(places[key])
    return state, places


def _views(state: Any) -> dict[str, View]:
    """The tensors of a pickle by name."""
    if type(state) is not dict:
        raise PickleError(f"it holds a {type(state).__name__}: expected a dictionary of tensors")
    for name, value in state.items():
        if type(name) is not str or type(value) is not View:
            raise PickleError(
                f"it holds a {type(value).__name__} under {short_repr(name)}: expected a dictionary of tensors by name"
            )
    return state


def _tensors(file: MappedFile, state: Any, places: _Places) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    made: dict[View, Tensor] = {}
    total = 0
    for name, view in _views(state).items():
        if view not in made:
            try:
                start = _check(file, view, places)
            except PickleError as error:
                raise PickleError(f"tensor {name[:200]}: {error}") from None
            total += math.prod(view.shape) * SIZES[view.code]
            made[view] = Tensor(name, DTYPES.get(view.code, view.code), view.shape, _reader(file, name, view, start))
        tensors[name] = made[view]
    if total > _MAX_SHARED * file.size:
        raise PickleError(
            f"its tensors overlap: they have {total} bytes, of a file of {file.size}; save copies of them (clone())"
        )
    return tensors


def _check(file: MappedFile, view: View, places: _Places) -> int:
    """The first byte of a view's first element."""
    storage, size = view.storage, SIZES[view.code]
    if storage.key not in places:
        raise PickleError(f"its storage {short_repr(storage.key)} is missing")
    start, stored = places[storage.key]
    if start + stored > file.size or stored != storage.count * SIZES[storage.code]:
        raise PickleError(
            f"its storage has {storage.count} elements of {storage.code}, but {min(stored, max(0, file.size - start))} "
            "bytes: the file is truncated or damaged"
        )
    length = storage.length * SIZES[storage.code] // size
    if math.prod(view.shape) > length:
        raise PickleError(
            f"it repeats elements of its storage: {list(view.shape)} of {length}; save a copy of it (contiguous())"
        )
    if view.offset + _reach(view) > length:
        raise PickleError(
            f"shape {list(view.shape)} with strides {list(view.strides)} from {view.offset} leaves its storage of "
            f"{length} elements"
        )
    return start + storage.start * SIZES[storage.code] + view.offset * size


def _reach(view: View) -> int:
    """Elements of the storage from a view's first one to its last one."""
    if 0 in view.shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(view.shape, view.strides, strict=True))


def _reader(file: MappedFile, name: str, view: View, start: int) -> Callable[[], Array]:
    def read() -> Array:
        elements = file.elements(name, view.code, start, _reach(view))
        # Steps of a dimension of one element are arbitrary.
        steps = [elements.itemsize * step if n > 1 else 0 for n, step in zip(view.shape, view.strides, strict=True)]
        return np.lib.stride_tricks.as_strided(elements, view.shape, steps, writeable=False)

    return read
