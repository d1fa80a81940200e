"""Tensors that are read when they are needed: name, type and shape are known before any weight is touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Element types of a checkpoint and their names here. bfloat16 travels as uint16."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a checkpoint, or one made from such; compared by identity, so shared tensors stay shared.

    Attributes:
        name: where it comes from, for messages.
        dtype: "float32", "float16" or "bfloat16".
        shape: its dimensions.
        read: gives the array (uint16 for bfloat16), a view of the file where possible.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the first dimension."""
        shape = (max(0, min(stop, self.shape[0]) - start), *self.shape[1:])
        return Tensor(self.name, self.dtype, shape, lambda: self.read()[start:stop])

    def split(self, *sizes: int) -> tuple[Tensor, ...]:
        """Cuts the first dimension into pieces of these sizes."""
        borders = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return tuple(self.rows(a, b) for a, b in pairwise(borders))

    def transpose(self) -> Tensor:
        """A matrix with rows and columns exchanged."""
        return Tensor(self.name, self.dtype, self.shape[::-1], lambda: self.read().T)

    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape."""
        return Tensor(self.name, self.dtype, shape, lambda: self.read().reshape(shape))

    def gather(self, shape: Sequence[int], pick: Callable[[Array], Array]) -> Tensor:
        """What ``pick`` makes of the array: ``shape`` says what that is."""
        return Tensor(self.name, self.dtype, tuple(shape), lambda: pick(self.read()))

    def heads(self, groups: int, parts: Sequence[int], which: int) -> Tensor:
        """Part ``which`` of rows laid out ``[groups, sum(parts), ...]``, with the groups joined again.

        Undoes query, key and value of one head (or group of heads) stored beside each other.
        """
        start, size, total = sum(parts[:which]), parts[which], sum(parts)
        rest = self.shape[1:]

        def pick(array: Array) -> Array:
            cut = array.reshape(groups, total, *rest)[:, start : start + size]
            return np.ascontiguousarray(cut).reshape(groups * size, *rest)

        return self.gather((groups * size, *rest), pick)

    def float32(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None) -> Tensor:
        """As float32, changed by a function that keeps the shape."""

        def read() -> Array:
            array = widen(self.read(), self.dtype)
            return array if change is None else np.asarray(change(array), dtype=np.float32)

        return Tensor(self.name, "float32", self.shape, read)

    def plus_one(self) -> Tensor:
        """1 + w: Gemma's and Nemotron's norms."""
        return self.float32(lambda w: w + np.float32(1))

    @staticmethod
    def stack(parts: Sequence[Tensor]) -> Tensor:
        """Tensors of one type and shape as the rows of a new first dimension."""
        first = parts[0]
        shape = (len(parts), *first.shape)
        return Tensor(first.name, first.dtype, shape, lambda: np.stack([part.read() for part in parts]))

    @staticmethod
    def constant(name: str, array: NDArray[np.float32]) -> Tensor:
        """A tensor that is computed and not stored."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        return Tensor(name, "float32", array.shape, lambda: array)


def widen(array: Array, dtype: str) -> NDArray[np.float32]:
    """Any stored array as float32."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
