"""Validation of arguments: each function returns the value in normalized form, or raises OptionError with the
argument's name, its value and what was expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from .. import foreign
from ..errors import ContextLengthError, OptionError, short_repr

BIG = (1 << 53) - 1
"""Upper bound of integers without a specific one."""


def number(name: str, value: Any, low: float, high: float, *, whole: bool = False, open_low: bool = False) -> Any:
    """A finite number between two bounds; ``open_low`` excludes the lower bound."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, np.generic):
        value = value.item()
    good = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
    if not good or (open_low and value == low):
        what = "a whole number" if whole else "a number"
        above = "above" if open_low else "from"
        low_text, high_text = (str(bound) if whole else f"{bound:g}" for bound in (low, high))
        # The generic bound is shown only if it is exceeded.
        beyond = isinstance(value, kinds) and value > high
        bound = f" to {high_text}" if high < BIG or beyond else ""
        raise OptionError(f"{name} is {short_repr(value)}: expected {what} {above} {low_text}{bound}")
    return value if whole else float(value)


def whole(name: str, value: Any, low: int = 1, high: int = BIG) -> int:
    """A whole number between two bounds."""
    checked: int = number(name, value, low, high, whole=True)
    return checked


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{name} is {short_repr(value)}: expected True or False")
    return bool(value)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of the known names."""
    *names, last = known
    if not isinstance(value, str) or value not in (*names, last):
        own = foreign.own_value(name, value)
        hint = f"; it is {own!r} here" if own is not None else ""
        raise OptionError(f"{name} is {short_repr(value)}: expected {', '.join(names)} or {last}{hint}")
    return value


def optional_flag(name: str, value: Any) -> bool | None:
    """True, False or None."""
    return None if value is None else flag(name, value)


def optional_text(name: str, value: Any) -> str | None:
    """A string or None."""
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name} is {short_repr(value)}: expected a string or None")
    return value


def texts(name: str, value: Any) -> list[str]:
    """A list of strings."""
    items = listed(name, value, "a list of texts")
    for item in items:
        if not isinstance(item, str):
            raise OptionError(f"{name} holds {short_repr(item)}: expected texts{_way_out(item)}")
    return items


_TOKENS = "; model.tokenizer.encode(text) gives those of a text, and features, embed or generate take texts"
"""The way out where token ids are expected and a text is given."""


def listed(name: str, value: Any, expected: str) -> list[Any]:
    """The items of an ordered iterable; strings, bytes, and what iterates over keys (mappings, sets, tables) are
    refused."""
    wrong = isinstance(value, str | bytes | bytearray | Mapping | set | frozenset) or _is_table(value)
    if wrong or not isinstance(value, Iterable):
        what = f"a {type(value).__name__}" if _is_table(value) else short_repr(value)
        way = _TOKENS if isinstance(value, str) and "ids" in expected else _way_out(value)
        raise OptionError(f"{name} is {what}: expected {expected}{way}")
    try:
        return list(value)
    except TypeError as error:  # a zero-dimensional array
        raise OptionError(f"{name} is {short_repr(value)}: expected {expected}") from error


def _is_table(value: Any) -> bool:
    """Whether a value is a table (of pandas, polars, pyarrow or datasets), whose items are not its texts."""
    return hasattr(type(value), "__dataframe__") or (
        not isinstance(value, np.ndarray) and (hasattr(value, "columns") or hasattr(value, "column_names"))
    )


_COLUMNS = ("text", "texts", "sentence", "sentences", "content", "document", "prompt", "question", "review", "body")
"""Usual names of columns of texts."""


def _way_out(value: Any) -> str:
    """How to get texts from a value of another type, as the end of a message; "" if there is no usual way."""
    if _is_table(value):
        names: Any = getattr(value, "column_names", None)
        names = getattr(value, "columns", ()) if names is None else names
        try:
            texts = [name for name in names if isinstance(name, str)]
            first = next((name for name in texts if name in _COLUMNS), texts[0] if texts else "text")
        except TypeError:
            first = "text"
        method = "to_pylist" if hasattr(value, "to_pylist") else "tolist" if hasattr(value, "iloc") else ""
        column = f"[{first!r}]"
        return f"; take a column: df{column}.{method}()" if method else f"; take a column: list(table{column})"
    if isinstance(value, Mapping):
        return "; its iteration gives keys: take list(x.values()), or one value"
    if isinstance(value, set | frozenset):
        return "; a set has no order: take sorted(x)"
    if isinstance(value, bytes | bytearray):
        return "; bytes become text with x.decode()"
    if isinstance(value, PurePath):
        return "; a file is not read: take x.read_text()"
    if value is None or (isinstance(value, float) and value != value):
        return '; missing values become empty texts with series.fillna("")'
    return "; take its text" if hasattr(value, "text") else ""


def is_text(value: Any) -> bool:
    """Whether a value is a string."""
    return isinstance(value, str)


def is_text_or_pair(value: Any) -> bool:
    """Whether a value is a string or a pair of strings."""
    return is_text(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(is_text, value)))


def expected(is_one: Callable[[Any], bool]) -> str:
    """The words for an item in an error."""
    return "a text" if is_one is is_text else "a text or a pair of texts"


def one_or_many(value: Any, is_one: Callable[[Any], bool], what: str) -> tuple[list[Any], bool]:
    """The items as a list, and whether a single item was given."""
    if is_one(value):
        return [value], True
    one = expected(is_one)
    items = listed(what, value, f"{one}, or a list of such")
    for index, item in enumerate(items):
        if not is_one(item):
            raise OptionError(f"{what} {index} is {short_repr(item)}: expected {one}{_way_out(item)}")
    return items, False


def id_lists(value: Any, what: str = "ids") -> tuple[list[Any], bool]:
    """A list of id sequences, and whether a single sequence was given."""
    if isinstance(value, np.ndarray):
        return ([value], True) if value.ndim <= 1 else (list(value), False)
    items = listed(what, value, "a list of ids, or a list of such lists")
    if items and not isinstance(items[0], Iterable):
        return [items], True
    return items, False


def ids(value: Any, vocab_size: int, limit: int | None, what: str = "ids") -> list[int]:
    """Ids of one sequence: at least one and at most ``limit`` integers in the vocabulary."""
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or (value.size and value.dtype.kind not in "iu"):
            raise OptionError(
                f"{what} is an array {value.dtype} {list(value.shape)}: expected whole numbers in one dimension"
            )
        found = [int(index) for index in value]
    else:
        found = []
        for place, index in enumerate(listed(what, value, "a list of ids")):
            if not isinstance(index, int | np.integer) or isinstance(index, bool):
                way = _TOKENS if isinstance(index, str) else ""
                raise OptionError(f"{what} holds {short_repr(index)} at position {place}: expected whole numbers{way}")
            found.append(int(index))
    if not found:
        raise OptionError(f"{what} is empty: expected at least one token")
    low, high = min(found), max(found)
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise OptionError(
            f"{what} holds {wrong} at position {found.index(wrong)}: expected ids from 0 to {vocab_size - 1}"
        )
    if limit is not None and len(found) > limit:
        raise ContextLengthError(f"{what} has {len(found)} tokens: expected at most {limit}, the length of this model")
    return found


def layer(number: Any, layers: Sequence[Any]) -> int:
    """The index of a layer; negative ones count from the end."""
    count = len(layers)
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or not -count <= number < count:
        raise OptionError(f"layer is {short_repr(number)}: expected 0 to {count - 1}, or -{count} to -1 from the last")
    return int(number) % count
