"""Results of an iterator's items as they come: in windows, with a bounded look-ahead."""

from __future__ import annotations

import functools
import inspect
import operator
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from ..errors import Error, OptionError, short_repr
from ..progress import Progress
from .arguments import expected

Item = TypeVar("Item")
Result = TypeVar("Result")
Method = TypeVar("Method", bound="Callable[..., Any]")

FIRST_WINDOW, LAST_WINDOW = 16, 1024
"""Items of the first window, and the most: windows double, so that the first results come early and later ones
fill batches."""
SLOW_SECONDS = 0.01
"""A producer that takes longer for an item is slow: what is there is computed before the next is awaited."""


class Feed(Generic[Item]):
    """Takes items from an iterator without awaiting a slow one while others could be computed.

    An iterator with a method ``ready() -> bool`` says itself whether ``next`` returns at once (or ends).
    """

    def __init__(self, items: Iterator[Item], is_one: Callable[[Any], bool], what: str) -> None:
        self._items = items
        self._is_one = is_one
        self._what = what
        self._ready: Callable[[], bool] | None = getattr(items, "ready", None)
        self._slow = False
        self._taken = 0
        self._failure: BaseException | None = None
        self.ended = False
        self.total: int | None = operator.length_hint(items) or None
        """The number of items, if the iterator hints at it."""

    def take(self, most: int, *, busy: bool = False) -> list[Item]:
        """Up to ``most`` items: those that are there; at least one unless the iterator ends or the caller is
        ``busy`` with others. An error of the iterator comes after the items before it.
        """
        if self._failure is not None:
            if busy:
                return []
            failure, self._failure, self.ended = self._failure, None, True
            raise failure
        found: list[Item] = []
        while len(found) < most and not self.ended and (not (busy or found) or self._soon()):
            try:
                found.append(self._next())
            except StopIteration:
                self.ended = True
            except Exception as error:
                if not (found or busy):
                    self.ended = True
                    raise
                self._failure = error
                break
        return found

    def _next(self) -> Item:
        start = time.monotonic()
        item = next(self._items)
        self._slow = time.monotonic() - start > SLOW_SECONDS
        if not self._is_one(item):
            raise OptionError(f"{self._what} {self._taken} is {short_repr(item)}: expected {expected(self._is_one)}")
        self._taken += 1
        return item

    def _soon(self) -> bool:
        return not self._slow if self._ready is None else self._ready()


def windows(
    feed: Feed[Item], run: Callable[[list[Item]], Iterable[Result]], progress: Any, what: str
) -> Generator[Result, None, None]:
    """The result of each item, in order."""
    size = FIRST_WINDOW
    with Progress(progress, feed.total, what) as bar:
        while batch := feed.take(size):
            try:
                results = run(batch)
            except Error:
                if len(batch) == 1:
                    raise
                # One by one, so that those before the item at fault are not lost.
                results = (result for item in batch for result in run([item]))
            for result in results:
                bar.advance()
                yield result
            size = min(2 * size, LAST_WINDOW)


def over_iterators(
    is_one: Callable[[Any], bool], check: Callable[[Mapping[str, Any]], None] | None = None
) -> Callable[[Method], Method]:
    """Lets a method that takes one item or a list also take an iterator: it then returns a generator, whose results
    are those of the list, computed in windows. Options are validated by the call itself; ``check`` refuses those
    that need all items."""

    def decorate(method: Method) -> Method:
        name = list(inspect.signature(method).parameters)[1]

        @functools.wraps(method)
        def call(self: Any, *items: Any, **options: Any) -> Any:
            given = items[0] if items else options.get(name)
            if not isinstance(given, Iterator):
                return method(self, *items, **options)
            options.pop(name, None)
            if check is not None:
                check(options)
            progress = options.pop("progress", None)
            Progress(progress, None, name)  # raises for another kind of value
            method(self, [], *items[1:], **options)  # raises for options that cannot be honoured

            def run(batch: list[Any]) -> Iterable[Any]:
                found: Iterable[Any] = method(self, batch, *items[1:], **options)
                return found

            return windows(Feed(given, is_one, name), run, progress, method.__name__)

        return call  # type: ignore[return-value]

    return decorate
