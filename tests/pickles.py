"""Files as ``torch.save`` writes them, made without PyTorch, and pickles that do something else."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {"float32": "Float", "float16": "Half", "float64": "Double", "int64": "Long", "uint16": "BFloat16"}
"""Types of storages by types of NumPy; bfloat16 is uint16 there."""
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."
MACHINE = b"\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\x0d\x00\x00\x00little_endian\x88u."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def whole(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def wholes(values: Any) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def storage(kind: str, key: str, count: int, part: bytes = b"") -> bytes:
    """A persistent id; ``part`` is the sixth member of old files."""
    return (
        b"(" + text("storage") + name("torch", f"{kind}Storage") + text(key) + text("cpu") + whole(count) + part + b"tQ"
    )


def tensor(stored: bytes, offset: int, shape: Any, strides: Any) -> bytes:
    rest = whole(offset) + wholes(shape) + wholes(strides) + b"\x89" + name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + stored + rest + b"tR"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in items.items()) + b"u."


def described(arrays: Mapping[str, np.ndarray], part: bytes = b"") -> tuple[bytes, dict[str, bytes]]:
    """The pickle of arrays, each with a storage of its own; the same object is one storage. And the storages."""
    keys: dict[int, str] = {}
    stored: dict[str, bytes] = {}
    items = {}
    for label, array in arrays.items():
        key = keys.setdefault(id(array), str(len(keys)))
        stored[key] = array.tobytes()
        strides = [step // array.itemsize for step in np.ascontiguousarray(array).strides][: array.ndim]
        made = storage(STORAGES[str(array.dtype)], key, array.size, part)
        items[label] = tensor(made, 0, array.shape, strides)
    return dictionary(items), stored


def zipped(pickle: bytes, stored: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """The format since PyTorch 1.6."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key, raw in {"byteorder": b"little", **more}.items():
            archive.writestr(f"archive/{key}", raw)
        for key, raw in stored.items():
            archive.writestr(f"archive/data/{key}", raw)
    return out.getvalue()


def sequence(pickle: bytes, stored: Mapping[str, tuple[int, bytes]], machine: bytes = MACHINE) -> bytes:
    """The format before PyTorch 1.6; storages are numbers of elements and bytes."""
    keys = b"\x80\x02](" + b"".join(map(text, stored)) + b"e."
    raw = b"".join(struct.pack("<Q", count) + data for count, data in stored.values())
    return MAGIC + VERSION + machine + pickle + keys + raw


def write(path: Path, arrays: Mapping[str, np.ndarray], old: bool = False) -> None:
    """A file of ``torch.save`` with these arrays."""
    pickle, stored = described(arrays, b"N" if old else b"")
    path.write_bytes(sequence(pickle, counted(arrays, stored)) if old else zipped(pickle, stored))


def counted(arrays: Mapping[str, np.ndarray], stored: Mapping[str, bytes]) -> dict[str, tuple[int, bytes]]:
    """The storages of `described` with their numbers of elements."""
    unique = {id(array): array for array in arrays.values()}.values()
    return {key: (array.size, stored[key]) for key, array in zip(stored, unique, strict=True)}


# -- pickles that do something else ----------------------------------------------------------------

GOOD = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16), "c": np.arange(3)}

CALLS = (
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("builtins", "getattr"),
    ("builtins", "open"),
    ("builtins", "compile"),
    ("__builtin__", "eval"),
    ("runpy", "_run_code"),
    ("importlib", "import_module"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.serialization", "load"),
    ("torch._utils", "_rebuild_qtensor"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("collections", "OrderedDict.__init__"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("codecs", "encode"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("pickle", "loads"),
    ("webbrowser", "open"),
    ("lapwing.checkpoint.pickled", "Unpickler"),
    ("", ""),
    ("os\x00", "system"),
    ("ｏｓ", "system"),
    ("x" * 3000, "y"),
)


def call(random_: random.Random, command: str) -> bytes:
    """An expression that calls something, by one of the instructions that can."""
    module, attribute = random_.choice(CALLS)
    argument = text(random_.choice((command, f"__import__('os').system({command!r})")))
    old, new = f"{module}\n{attribute}\n".encode(), text(module) + text(attribute) + b"\x93"
    known = name("collections", "OrderedDict")
    return random_.choice(
        (
            name(module, attribute) + b"(" + argument + b"tR",
            new + argument + b"\x85R",
            b"(" + argument + b"i" + old,  # INST
            b"(" + name(module, attribute) + argument + b"o",  # OBJ
            name(module, attribute) + argument + b"\x85\x81",  # NEWOBJ
            name(module, attribute) + b")}\x92",  # NEWOBJ_EX
            name(module, attribute) + argument + b"b",  # BUILD
            known + b")R" + text("__class__") + name(module, attribute) + b"\x86b" + b"(" + argument + b"tR",
            known + text("__reduce__") + b"\x86R" + argument + b"\x85R",
            known + b")R}" + text("__setstate__") + name(module, attribute) + b"sb" + argument + b"b",
            b"\x82\x01" + argument + b"\x85R",  # EXT1
            b"\x83\x01\x00" + argument + b"\x85R",  # EXT2
            b"\x84\x01\x00\x00\x00" + argument + b"\x85R",  # EXT4
            b"P" + command.encode() + b"\n",  # PERSID
            argument + b"Q",
            b"(" + text("module") + name(module, attribute) + argument + argument + b"tQ",
            b"\x97",  # NEXT_BUFFER
            b"\x96" + struct.pack("<Q", 2**63) + b"x",  # BYTEARRAY8
            storage("../../Float", "0", 6),
            name("torch._utils", "_rebuild_parameter") + argument + b"\x85R",
            tensor(name(module, attribute) + argument + b"\x85R", 0, (2, 3), (3, 1)),
            tensor(argument, 0, (2, 3), (3, 1)),
            b"0" * random_.randrange(9),
            b"S'" + command.replace("'", "").encode() + b"'\n",
            b"\x90" + b"]\x91",
        )
    )


def bomb(random_: random.Random) -> bytes:
    """An expression that needs much time or memory if it is believed."""
    made = storage("Float", "0", 6)
    n = random_.choice((1000, 20_000))
    return random_.choice(
        (
            b"\x8b\xff\xff\xff\x7f",  # LONG4
            b"\x8e" + struct.pack("<Q", 2**62),  # BINBYTES8
            b"\x8d" + struct.pack("<Q", 2**40),  # BINUNICODE8
            b"X\xff\xff\xff\xff",
            b"\x95" + struct.pack("<Q", 2**63) + b")",  # FRAME
            b"Nr\xff\xff\xff\xff" + b"j\xfe\xff\xff\xff",
            b"Np99999999999999999999\n",
            b"I" + b"9" * n + b"\n",
            b"L" + b"9" * n + b"L\n",
            b"(" * n,
            b")" + b"\x85" * n,
            b"]" + b"q\x00h\x00h\x00\x86" * n + b"a",
            b"]q\x00h\x00a" * n,
            b"]" + b"2\x86" * n,
            tensor(made, 0, (2**40, 2**20), (0, 0)),
            tensor(made, 0, (7,), (1,)),
            tensor(made, 0, (2, 3), (2**61, 1)),
            tensor(made, 5, (2,), (1,)),
            tensor(made, -1, (2,), (1,)),
            tensor(made, 0, (2,), (-1,)),
            tensor(made, 0, (1,) * n, (1,) * n),
            tensor(made, 0, (2**70,), (1,)),
            tensor(storage("Float", "0", 2**61), 0, (2,), (1,)),
            tensor(storage("Float", "0", -6), 0, (2,), (1,)),
            tensor(storage("Float", "9", 6), 0, (2,), (1,)),
            tensor(storage("Double", "0", 6), 0, (2,), (1,)),
        )
    )


def made(random_: random.Random, command: str) -> bytes:
    """A file that must be refused: a valid one with something else in its pickle."""
    evil = call(random_, command) if random_.random() < 0.7 else bomb(random_)
    good, stored = described(GOOD, b"N")
    raw = counted(GOOD, stored)
    place = random_.randrange(5)
    if place == 0:  # instead of the dictionary
        pickle = b"\x80\x02" + evil + b"."
    elif place == 1:  # as a value
        pickle = good[:-2] + text("d") + evil + b"u."
    elif place == 2:  # as a key
        pickle = good[:-2] + evil + whole(1) + b"u."
    elif place == 3:  # as an attribute of a value
        pickle = good[:-2] + text("d") + name("collections", "OrderedDict") + b")R" + evil + b"bu."
    else:  # in a pickle before the dictionary
        return sequence(good, raw, b"\x80\x02" + evil + b".")
    return zipped(pickle, stored) if random_.random() < 0.5 else sequence(pickle, raw)


def changed(random_: random.Random) -> bytes:
    """A valid file with some bytes changed."""
    good, stored = described(GOOD, b"N")
    raw = counted(GOOD, stored)
    if random_.random() < 0.5:
        broken = _broken(random_, bytearray(good))
        return zipped(broken, stored) if random_.random() < 0.5 else sequence(broken, raw)
    return _broken(random_, bytearray(zipped(good, stored) if random_.random() < 0.5 else sequence(good, raw)))


def _broken(random_: random.Random, raw: bytearray) -> bytes:
    acts: tuple[Callable[[int], Any], ...] = (
        lambda i: raw.__setitem__(i, random_.randrange(256)),
        lambda i: raw.__setitem__(i, raw[i] ^ 1 << random_.randrange(8)),
        lambda i: raw.__delitem__(slice(i, i + random_.choice((1, 2, 50)))),
        lambda i: raw.__setitem__(slice(i, i), random_.randbytes(random_.choice((1, 4, 100)))),
        lambda i: raw.__setitem__(slice(i, i), raw[i : i + 40]),
        lambda i: raw.__setitem__(slice(i, None), b""),
        lambda i: raw.__setitem__(slice(i, i + 4), b"\xff\xff\xff\xff"),
        lambda i: raw.__setitem__(
            slice(i, i + 1),
            random_.choice(b"0123456789(.)}]ctoibRQPNXUTqrhjeusa\x81\x82\x85\x93").to_bytes(1, "little"),
        ),
    )
    for _ in range(random_.choice((1, 1, 3))):
        if raw:
            random_.choice(acts)(random_.randrange(len(raw)))
    return bytes(raw)
