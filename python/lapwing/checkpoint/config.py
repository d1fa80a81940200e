"""config.json of a checkpoint, as written by transformers 4 and 5."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import CheckpointError, short_repr

_REQUIRED: Any = object()


class Config(Mapping[str, Any]):
    """A configuration as a mapping, with readers that validate their values.

    A reader takes the names that families use for one setting; the first that is present and not null is
    used. A value of the wrong type or size raises CheckpointError with key, value and what was expected.
    """

    def __init__(self, values: Mapping[str, Any], place: str = "config.json") -> None:
        self._values = dict(values)
        self._place = place

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Config({self._values!r})"

    @property
    def model_type(self) -> str:
        return str(self._values.get("model_type", ""))

    def wrong(self, key: str, expected: str) -> CheckpointError:
        """The error for the value of a key."""
        return CheckpointError(f"{self._place}: {key} is {short_repr(self._values.get(key))}: expected {expected}")

    def _find(self, keys: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for key in keys:
            if self._values.get(key) is not None:
                return key, self._values[key]
        if default is _REQUIRED:
            raise CheckpointError(f"{self._place} lacks {' or '.join(keys)}")
        return keys[0], default

    def size(self, *keys: str, default: Any = _REQUIRED, minimum: int = 1, maximum: int = 1 << 24) -> int:
        """A whole number between ``minimum`` and ``maximum``."""
        key, value = self._find(keys, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.wrong(key, f"a whole number from {minimum} to {maximum}")
        return value

    def optional_size(self, *keys: str, minimum: int = 1, maximum: int = 1 << 24) -> int | None:
        """A whole number, or None if the key is absent or null."""
        if all(self._values.get(key) is None for key in keys):
            return None
        return self.size(*keys, minimum=minimum, maximum=maximum)

    def number(self, *keys: str, default: Any = _REQUIRED) -> float:
        """A finite number."""
        key, value = self._find(keys, default)
        # An integer may exceed the range of a float.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            raise self.wrong(key, "a finite number")
        return float(value)

    def optional_number(self, *keys: str) -> float | None:
        """A finite number, or None if the key is absent or null."""
        if all(self._values.get(key) is None for key in keys):
            return None
        return self.number(*keys)

    def flag(self, *keys: str, default: bool = False) -> bool:
        """True or false."""
        key, value = self._find(keys, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def word(self, *keys: str, default: Any = _REQUIRED) -> str:
        """A string."""
        key, value = self._find(keys, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def words(self, key: str) -> list[str]:
        """A list of strings; empty if the key is absent."""
        value = self._values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(key, "a list of strings")
        return value

    def section(self, *keys: str) -> Config:
        """A nested object; empty if the key is absent or null."""
        key, value = self._find(keys, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Config(value, f"{self._place}: {key}")

    def with_values(self, **values: Any) -> Config:
        """A copy with some keys set."""
        return Config({**self._values, **values}, self._place)
