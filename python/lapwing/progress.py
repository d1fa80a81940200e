"""Progress of long work: a line on the terminal, or a callback."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from .errors import OptionError, short_repr

Callback = Callable[[int, int], None]
"""Takes the amount done and the total, in the unit of the work (texts, bytes)."""

_WIDTH = 24
_INTERVAL_SECONDS = 0.1


class Progress:
    """Counts work done. ``target`` is None or False (silent), True (a line on standard error) or a function.

    The line appears after ``delay_seconds``, so that short work stays silent, and is erased at the end.
    """

    def __init__(
        self,
        target: bool | Callback | None,
        total: int,
        what: str,
        *,
        delay_seconds: float = 0.5,
    ) -> None:
        if not (target is None or isinstance(target, bool) or callable(target)):
            raise OptionError(
                f"progress is {short_repr(target)}: expected True, False, None or a function of two numbers"
            )
        self._call = target if callable(target) else None
        self._line = target is True
        self._total = total
        self._what = what
        self._done = 0
        self._next = time.monotonic() + delay_seconds
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    @property
    def reports(self) -> Callable[[int], None] | None:
        """`advance`, or None if progress is not reported."""
        return self.advance if self._line or self._call is not None else None

    def advance(self, amount: int = 1) -> None:
        """Adds to the work done."""
        if not amount:
            return
        self._done += amount
        if self._call is not None:
            self._call(self._done, self._total)
        if not self._line:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL_SECONDS
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        bar = "#" * round(share * _WIDTH)
        sys.stderr.write(f"\r{self._what} [{bar:<{_WIDTH}}] {share:4.0%}\x1b[K")
        sys.stderr.flush()
        self._shown = True
