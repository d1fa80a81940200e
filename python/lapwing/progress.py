"""Progress of long work: a bar on the terminal or in a notebook, or a callback."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .errors import OptionError, short_repr

Callback = Callable[[int, int], None]
"""Takes the amount done and the total, in the unit of the work (texts, bytes); the total is 0 if it is unknown."""


class Progress:
    """Counts work done. ``target`` is None or False (silent), True (a bar on standard error) or a function.

    The bar (tqdm) shows the rate and the time left. It appears after ``delay_seconds``, so that short work stays
    silent, and is erased at the end. ``total`` is None if it is unknown; ``unit`` is that of the rate, "B" for bytes.
    """

    def __init__(
        self,
        target: bool | Callback | None,
        total: int | None,
        what: str,
        *,
        unit: str = "texts",
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
        self._unit = unit
        self._done = 0
        self._start = time.monotonic()
        self._delay = delay_seconds
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

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
            self._call(self._done, self._total or 0)
        if not self._line:
            return
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._start >= self._delay:
            self._bar = self._open()

    def _open(self) -> Any:
        # Imported here: most calls show no bar. `auto` chooses the bar of a notebook where one runs.
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without widgets gets the bar of a terminal
            from tqdm.auto import tqdm  # type: ignore[import-untyped]

        size = self._unit == "B"
        bar = tqdm(
            desc=self._what,
            total=self._total,
            unit="B" if size else f" {self._unit}",
            unit_scale=size,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        bar.start_t -= time.monotonic() - self._start  # the rate counts from the start of the work
        bar.update(self._done)
        return bar
