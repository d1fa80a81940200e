"""The texts of a command as they come: arguments, files, standard input.

Bytes are UTF-8 whatever the locale; those that are not are read in the encoding that PYTHONIOENCODING names, if any.
"""

from __future__ import annotations

import argparse
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

from ..errors import OptionError

Result = TypeVar("Result")

READ_BYTES = 1 << 16
COUNTED_BYTES = 1 << 26
"""Files up to this size have their lines counted, for the time left."""


class Texts(Iterator[Any]):
    """The texts of a command. Where each line is a text, blank lines are left out; `results` puts them back.

    An iterator for the models' methods: `ready` says whether the next text is there, so that those which are there
    are computed before the next is awaited.
    """

    def __init__(self, arguments: argparse.Namespace, convert: Callable[[str], Any] | None = None) -> None:
        self.convert = convert
        self._taken: deque[tuple[str, bool]] = deque()
        """Texts without a result yet, and whether they will have one."""
        self._waiting: deque[str] = deque(_argument(text) for text in arguments.text)
        self._by_line = arguments.unit == "lines"
        names = arguments.file or []
        if not self._waiting and not names:
            if sys.stdin.isatty():
                raise OptionError("no text: give it as an argument, with --file, or on standard input")
            names = ["-"]
        self._files = deque([File(name) for name in names])  # all, so that a missing one is found before the work
        if self.ready() and not (self._files or self._waiting or self._taken):
            raise OptionError("no text: the input is empty")

    def __next__(self) -> Any:
        while True:
            while self._waiting:
                text = self._waiting.popleft()
                self._taken.append((text, not self._blank(text)))
                if not self._blank(text):
                    return text if self.convert is None else self.convert(text)
            if not self._files:
                raise StopIteration
            self._read()

    def ready(self) -> bool:
        """Whether the next text, or the end, comes without waiting."""
        while True:
            while self._waiting:
                if not self._blank(self._waiting[0]):
                    return True
                self._taken.append((self._waiting.popleft(), False))
            if not self._files:
                return True
            if self._files[0].failure is not None:
                return True
            if not self._files[0].ready():
                return False
            self._read()

    def single(self) -> str | None:
        """The text, if there is only one; it remains to be taken."""
        if len(self._waiting) + len(self._files) != 1 or (self._files and self._by_line):
            return None
        while self._files:
            self._read()
        return self._waiting[0] if len(self._waiting) == 1 else None

    def __length_hint__(self) -> int:
        counts = [file.lines() if self._by_line else 1 for file in self._files]
        return 0 if None in counts else len(self._waiting) + sum(count or 0 for count in counts)

    def results(self, run: Callable[[Texts], Iterable[Result]]) -> Iterator[tuple[str, Result | None]]:
        """Each text with its result, as it comes; blank lines, in their places, with None."""
        empty = True
        for result in run(self):
            empty = False
            while not self._taken[0][1]:
                yield self._taken.popleft()[0], None
            yield self._taken.popleft()[0], result
        if empty and not self._taken:
            raise OptionError("no text: the input is empty")
        while self._taken:
            yield self._taken.popleft()[0], None

    def _blank(self, text: str) -> bool:
        return self._by_line and not text.strip()

    def _read(self) -> None:
        """Reads more of the first file."""
        found = self._files[0].read() if self._by_line else self._files[0].whole()
        if found is None:
            self._files.popleft()
        else:
            self._waiting += found


class File:
    """A file or standard input (-), read in pieces as they come."""

    def __init__(self, name: str) -> None:
        self._where = "standard input" if name == "-" else name
        self._file: BinaryIO = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: PTH123, SIM115
        self._tail: list[bytes] = []
        """The pieces of a line without its end."""
        self._line = 0
        self._ended = False
        self.failure: OptionError | None = None
        """What the next `read` raises."""

    def ready(self) -> bool:
        """Whether `read` returns at once."""
        if self._ended or self._is_regular():
            return True
        try:
            return bool(select.select([self._file], [], [], 0)[0])
        except (OSError, ValueError):
            return False  # Windows has no such question for pipes: lines are computed in the pieces that are read

    def lines(self) -> int | None:
        """The number of lines that are left; None if that is unknown."""
        if not self._is_regular() or os.fstat(self._file.fileno()).st_size > COUNTED_BYTES:
            return None
        place = self._file.tell()
        count = sum(piece.count(b"\n") for piece in iter(lambda: self._file.read(1 << 20), b""))
        self._file.seek(place)
        return count

    def read(self) -> list[str] | None:
        """The lines that have come since the last call, without a byte order mark and line ends; None at the end."""
        if self.failure is not None:
            raise self.failure
        if self._ended:
            return None
        piece = self._file.read1(READ_BYTES)  # type: ignore[attr-defined]
        if not piece:
            self._ended = True
            rest = b"".join(self._tail)
            return [self._text(rest)] if rest else None
        *complete, rest = piece.split(b"\n")  # not splitlines, which also splits within a text
        if complete:
            complete[0] = b"".join([*self._tail, complete[0]])
            self._tail = []
        self._tail.append(rest)
        found = []
        try:
            for line in complete:
                found.append(self._text(line.removesuffix(b"\r")))
        except OptionError as error:
            self.failure = error  # after the lines before it
        return found

    def whole(self) -> list[str] | None:
        """The whole contents as one text, or no text if it is blank; None at the end."""
        if self._ended:
            return None
        self._ended = True
        content = "\n".join(self._text(line.removesuffix(b"\r")) for line in self._file.read().split(b"\n"))
        return [content.removesuffix("\n")] if content.strip() else []

    def _text(self, line: bytes) -> str:
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        return decoded(line, f"{self._where}, line {self._line}")

    def _is_regular(self) -> bool:
        try:
            return stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        except OSError:  # no descriptor
            return False


def decoded(content: bytes, where: str) -> str:
    """The text of bytes in UTF-8, or in the encoding that PYTHONIOENCODING names."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        named = named_encoding()
        if named is not None:
            try:
                return content.decode(named)
            except UnicodeDecodeError:
                pass
        byte = content[error.start]
        raise OptionError(
            f"{where} is not UTF-8: byte {error.start + 1} is 0x{byte:02x}; convert it, for example with iconv"
        ) from None


def named_encoding() -> str | None:
    """The encoding in PYTHONIOENCODING, if it is another than UTF-8."""
    import codecs

    name = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    if not name or sys.flags.ignore_environment:
        return None
    found = codecs.lookup(name).name
    return None if found == "utf-8" else found


def _argument(text: str) -> str:
    """A text of the command line: Python decodes it by the locale, and other bytes to lone surrogates."""
    if any("\udc80" <= character <= "\udcff" for character in text):
        return decoded(os.fsencode(text), "an argument")
    return text
