"""Lazy tensors: name, type and shape are known before the weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float32"}
"""Element types of safetensors and those of the arrays that are read: bfloat16 as uint16, float64 rounded."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a checkpoint, or derived from one; compared by identity, so that shared tensors stay
    shared.

    Attributes:
        name: its name in the checkpoint, for messages.
        dtype: "float32", "float16" or "bfloat16".
        shape: its dimensions.
        read: returns the array (uint16 for bfloat16), a view of the mapped file if possible.
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
        """Splits the first dimension into parts of these sizes."""
        borders = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        return tuple(self.rows(a, b) for a, b in pairwise(borders))

    def transpose(self) -> Tensor:
        """The transpose of a matrix."""
        return Tensor(self.name, self.dtype, self.shape[::-1], lambda: self.read().T)

    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape."""
        return Tensor(self.name, self.dtype, shape, lambda: self.read().reshape(shape))

    def gather(self, shape: Sequence[int], pick: Callable[[Array], Array]) -> Tensor:
        """The array ``pick(array)``, whose shape is ``shape``."""
        return Tensor(self.name, self.dtype, tuple(shape), lambda: pick(self.read()))

    def heads(self, groups: int, parts: Sequence[int], which: int) -> Tensor:
        """Part ``which`` of rows laid out ``[groups, sum(parts), ...]``, with the groups concatenated.

        Separates query, key and value that are interleaved by head (or by group of heads).
        """
        start, size, total = sum(parts[:which]), parts[which], sum(parts)
        rest = self.shape[1:]

        def pick(array: Array) -> Array:
            cut = array.reshape(groups, total, *rest)[:, start : start + size]
            return np.ascontiguousarray(cut).reshape(groups * size, *rest)

        return self.gather((groups * size, *rest), pick)

    def float32(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None) -> Tensor:
        """As float32, optionally mapped by a function that keeps the shape."""

        def read() -> Array:
            array = to_f32(self.read(), self.dtype)
            return array if change is None else np.asarray(change(array), dtype=np.float32)

        return Tensor(self.name, "float32", self.shape, read)

    def plus_one(self) -> Tensor:
        """1 + w, for the norms of Gemma and Nemotron."""
        return self.float32(lambda w: w + np.float32(1))

    @staticmethod
    def stack(parts: Sequence[Tensor]) -> Tensor:
        """Tensors of equal type and shape, stacked along a new first dimension."""
        first = parts[0]
        shape = (len(parts), *first.shape)
        return Tensor(first.name, first.dtype, shape, lambda: np.stack([part.read() for part in parts]))

    @staticmethod
    def constant(name: str, array: NDArray[np.float32]) -> Tensor:
        """A tensor with computed values."""
        array = np.ascontiguousarray(array, dtype=np.float32)
        return Tensor(name, "float32", array.shape, lambda: array)


def to_f32(array: Array, dtype: str) -> NDArray[np.float32]:
    """A stored array as float32."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
