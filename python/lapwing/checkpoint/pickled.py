"""The pickles of PyTorch, read without running them.

A pickle is a program for a small stack machine, one of whose instructions calls any function of any module. Here
`pickletools` reads the arguments of instructions, and `Unpickler` interprets those that ``torch.save`` needs for a
dictionary of tensors. The names that it may refer to are a closed list, and none of them is imported or called: each
stands for a piece of this file.
https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import short_repr

MAX_BYTES = 16 << 20
"""Bound of the pickles of a file, in bytes; a tensor takes about 150 of them."""
MAX_OPCODES = 1_000_000
"""Bound of the instructions of a file; a tensor takes about 40 of them."""
_MAX_LINE = 4096

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.ComplexFloatStorage": "C64",
    "torch.ComplexDoubleStorage": "C128",
    "torch.storage.UntypedStorage": "U8",
}
"""Types of storages and of their elements, by the names of safetensors."""
_DTYPES = {
    "torch.uint16": "U16",
    "torch.uint32": "U32",
    "torch.uint64": "U64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e8m0fnu": "F8_E8M0",
}
"""Element types that have no type of storage."""


class PickleError(ValueError):
    """A pickle that is damaged, or holds something else than tensors; the caller adds the file."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle refers to."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The elements that tensors share.

    Attributes:
        key: the name of the stored bytes.
        code: element type.
        count: number of elements of the stored bytes.
        start: first element of this storage, if it is a part of the stored bytes.
        length: number of elements of this storage.
    """

    key: str
    code: str
    count: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor: some elements of a storage; offset and strides are in elements."""

    storage: Storage
    code: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Unpickler:
    """Reads the pickles that follow one another in ``data``.

    A pickle can hold None, booleans, numbers, texts, tuples, lists, dictionaries and `View`.

    Attributes:
        position: bytes that have been read.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data[:MAX_BYTES]
        self.position = 0
        self._opcodes = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the next pickle.

        Raises:
            PickleError: it is damaged, too large, or needs a name or an instruction that is not known.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            while True:
                self._opcodes += 1
                if self._opcodes > MAX_OPCODES:
                    raise PickleError(f"its pickles have more than {MAX_OPCODES} instructions")
                code = self.read(1)
                if code not in _OPCODES:
                    name = _NAMES.get(code, short_repr(code))
                    raise PickleError(f"it needs the instruction {name}, which no dictionary of tensors needs")
                argument, act = _OPCODES[code]
                act(self, argument(self) if argument is not None else None)
                if code == b".":
                    return self._pop()
        except PickleError:
            raise
        except (ValueError, OverflowError, struct.error) as error:
            raise PickleError(f"its pickle is damaged at byte {self.position}: {short_repr(str(error))}") from error

    # The interface of a file, for the readers of `pickletools`.

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        if not 0 <= size <= len(self._data) - self.position:
            raise PickleError(f"its pickle ends within {len(self._data)} bytes: it is truncated, damaged or too large")
        self.position += size
        return bytes(self._data[self.position - size : self.position])

    def readline(self) -> bytes:
        """The next line."""
        line, end, _ = bytes(self._data[self.position : self.position + _MAX_LINE]).partition(b"\n")
        if not end:
            raise PickleError(f"its pickle has a line without an end at byte {self.position}")
        self.position += len(line) + 1
        return line + end

    # The instructions.

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleError(f"its pickle takes more values than it has at byte {self.position}")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleError(f"its pickle lacks a mark at byte {self.position}")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _top(self, kind: type) -> Any:
        value = self._pop()
        if type(value) is not kind:
            self._wrong(f"a {kind.__name__}", value)
        self._stack.append(value)
        return value

    def _wrong(self, expected: str, value: Any) -> NoReturn:
        # The value is not printed: it may refer to itself, or be large.
        found = value.name if isinstance(value, Global) else type(value).__name__
        raise PickleError(f"its pickle has {short_repr(found)} at byte {self.position}: expected {expected}")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _memoize(self, index: int | None) -> None:
        value = self._pop()
        self._stack.append(value)
        self._memo[len(self._memo) if index is None else index] = value

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError(f"its pickle refers to the value {index}, which it lacks, at byte {self.position}")
        self._stack.append(self._memo[index])

    def _tuple(self, size: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(size)][::-1]))

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise PickleError(f"its pickle has a key without a value at byte {self.position}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                self._wrong("a text or a number as a key", key)
            target[key] = value

    def _global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self._wrong("the name of a module", module if type(module) is not str else name)
        full = f"{module}.{name}"
        if full not in _GLOBALS:
            raise PickleError(
                f"it needs {short_repr(full)}, which is not part of a dictionary of tensors and is not run: expected "
                f"{', '.join(_CALLS)} and types of storages"
            )
        self._stack.append(Global(full))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple:
            self._wrong("a tuple of arguments", arguments)
        call = _CALLS.get(function.name) if type(function) is Global else None
        if call is None:
            self._wrong(f"one of {', '.join(_CALLS)}", function)
        self._stack.append(call(self, arguments))

    def _build(self) -> None:
        # The attributes of an OrderedDict, such as the versions of modules that PyTorch adds, are not needed.
        self._pop()
        if type(self._stack[-1] if self._stack else None) is not dict:
            self._wrong("a dictionary before its attributes", self._stack[-1] if self._stack else None)

    def _persistent(self) -> None:
        """A storage: ("storage", type, key, device, elements), in old files with the part that is meant."""
        value = self._pop()
        if type(value) is not tuple or len(value) not in (5, 6) or value[0] != "storage":
            self._wrong("the description of a storage", value)
        kind, key, count = value[1], value[2], value[4]
        code = STORAGES.get(kind.name) if type(kind) is Global else None
        part = value[5] if len(value) == 6 else None
        start, length = part[1:] if type(part) is tuple and len(part) == 3 else (0, count)
        if code is None or type(key) is not str or not _sizes(count, start, length) or start + length > count:
            raise PickleError(f"its pickle describes an impossible storage at byte {self.position}")
        self._stack.append(Storage(key, code, count, start, length))

    # What the known names stand for.

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """Empty, to be filled by instructions; Python 2 wrote the items as one argument."""
        items: list[Any] = []
        for pair in arguments[0] if len(arguments) == 1 and type(arguments[0]) is list else arguments:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                self._wrong("a pair of key and value", pair)
            items += pair
        self._stack.append({})
        self._update(items)
        made: dict[Any, Any] = self._stack.pop()
        return made

    def _tensor(self, arguments: tuple[Any, ...]) -> View:
        if len(arguments) < 4 or type(arguments[0]) is not Storage:
            raise PickleError(f"its pickle makes a tensor without a storage at byte {self.position}")
        storage, offset, shape, strides = arguments[:4]
        if type(shape) is not tuple or type(strides) is not tuple or not _sizes(offset, *shape, *strides):
            raise PickleError(f"its pickle makes a tensor without whole sizes and strides at byte {self.position}")
        if len(shape) > 8 or len(shape) != len(strides):
            raise PickleError(
                f"its pickle makes a tensor of {len(shape)} sizes and {len(strides)} strides: expected as many of "
                "both, and at most 8"
            )
        return View(storage, storage.code, offset, shape, strides)

    def _typed_tensor(self, arguments: tuple[Any, ...]) -> View:
        made = self._tensor(arguments)
        kind = arguments[6] if len(arguments) > 6 else None
        code = _DTYPES.get(kind.name) if type(kind) is Global else None
        if code is None or made.storage.code != "U8":
            self._wrong("an element type of an untyped storage", kind)
        return View(made.storage, code, made.offset, made.shape, made.strides)

    def _parameter(self, arguments: tuple[Any, ...]) -> View:
        if not arguments or type(arguments[0]) is not View:
            raise PickleError(f"its pickle makes a parameter without a tensor at byte {self.position}")
        return arguments[0]

    def _size(self, arguments: tuple[Any, ...]) -> tuple[int, ...]:
        if len(arguments) != 1 or type(arguments[0]) is not tuple or not _sizes(*arguments[0]):
            raise PickleError(f"its pickle makes a shape without whole sizes at byte {self.position}")
        return arguments[0]


def _sizes(*values: Any) -> bool:
    """Whether all are numbers that a size, an offset or a stride can be."""
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)


_CALLS: dict[str, Callable[[Unpickler, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": Unpickler._ordered_dict,
    "torch._utils._rebuild_tensor": Unpickler._tensor,
    "torch._utils._rebuild_tensor_v2": Unpickler._tensor,
    "torch._utils._rebuild_tensor_v3": Unpickler._typed_tensor,
    "torch._utils._rebuild_parameter": Unpickler._parameter,
    "torch.Size": Unpickler._size,
}
_GLOBALS = frozenset({*_CALLS, *STORAGES, *_DTYPES})

_NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
_ACTS: dict[str, Callable[[Unpickler, Any], None]] = {
    "PROTO": lambda u, a: None,
    "FRAME": lambda u, a: None,
    "STOP": lambda u, a: None,
    "MARK": lambda u, a: u._marks.append(len(u._stack)),
    "NONE": lambda u, a: u._push(None),
    "NEWTRUE": lambda u, a: u._push(True),
    "NEWFALSE": lambda u, a: u._push(False),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
            *("BINSTRING", "SHORT_BINSTRING"),  # texts of Python 2
        ),
        lambda u, a: u._push(a),
    ),
    "EMPTY_TUPLE": lambda u, a: u._push(()),
    "EMPTY_LIST": lambda u, a: u._push([]),
    "EMPTY_DICT": lambda u, a: u._push({}),
    "TUPLE": lambda u, a: u._push(tuple(u._pop_mark())),
    "TUPLE1": lambda u, a: u._tuple(1),
    "TUPLE2": lambda u, a: u._tuple(2),
    "TUPLE3": lambda u, a: u._tuple(3),
    "APPEND": lambda u, a: u._extend([u._pop()]),
    "APPENDS": lambda u, a: u._extend(u._pop_mark()),
    "SETITEM": lambda u, a: u._update([u._pop(), u._pop()][::-1]),
    "SETITEMS": lambda u, a: u._update(u._pop_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), lambda u, a: u._memoize(a)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda u, a: u._recall(a)),
    "GLOBAL": lambda u, a: u._global(*[u.readline()[:-1].decode() for _ in range(2)]),
    "STACK_GLOBAL": lambda u, a: u._global(*[u._pop(), u._pop()][::-1]),
    "REDUCE": lambda u, a: u._reduce(),
    "BUILD": lambda u, a: u._build(),
    "BINPERSID": lambda u, a: u._persistent(),
}
"""The instructions that ``torch.save`` writes with protocols 2 to 5."""

_OPCODES: dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[Unpickler, Any], None]]] = {
    opcode.code.encode("latin-1"): (
        opcode.arg.reader if opcode.arg and opcode.name != "GLOBAL" else None,
        _ACTS[opcode.name],
    )
    for opcode in pickletools.opcodes
    if opcode.name in _ACTS
}
"""By the byte of an instruction, what reads its argument and what it does. Lines of GLOBAL are read as they are."""
