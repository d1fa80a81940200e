"""Similarities of vectors, exact search over them, and their storage in few bits; formats of sentence-transformers."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError, short_repr
from .arguments import choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_CHUNK = 1 << 22
"""Scores in memory at a time."""


def as_vectors(name: str, value: Any, width: int | None = None) -> Floats:
    """Vectors ``[n, width]`` of finite numbers, from one vector or several.

    Raises:
        OptionError: the value has another shape or type.
    """
    try:
        found = np.atleast_2d(np.asarray(value, np.float32))
    except (TypeError, ValueError):
        raise OptionError(f"{name} is {short_repr(value)}: expected vectors, [n, width]") from None
    if found.ndim != 2 or (width is not None and found.shape[1] != width):
        expected = "[n, width]" if width is None else f"[n, {width}]"
        raise OptionError(f"{name} has the shape {list(found.shape)}: expected {expected}")
    if not np.isfinite(found).all():
        raise OptionError(f"{name} has values that are not finite: expected finite numbers")
    return found


def similarity(left: Floats, right: Floats, how: str) -> Floats:
    """Similarities, [left, right], of rows: "cosine", "dot", or the negative distance "euclidean" or "manhattan"."""
    if how == "cosine":
        left, right = _unit(left), _unit(right)
    if how in ("cosine", "dot"):
        return np.asarray(left @ right.T, np.float32)
    out = np.empty((len(left), len(right)), np.float32)
    rows = max(1, _CHUNK // max(1, right.size))
    for start in range(0, len(left), rows):
        difference = left[start : start + rows, None].astype(np.float64) - right[None]
        if how == "euclidean":
            out[start : start + rows] = -np.sqrt((difference**2).sum(axis=2))
        else:
            out[start : start + rows] = -np.abs(difference).sum(axis=2)
    return out


def _unit(vectors: Floats) -> Floats:
    lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def top(left: Floats, right: Floats, how: str, count: int) -> Iterator[list[tuple[int, float]]]:
    """For each row of ``left``, the ``count`` most similar rows of ``right`` and their scores, best first, equal
    scores by index. Exact; scores are computed some rows at a time."""
    if how == "cosine":
        left, right, how = _unit(left), _unit(right), "dot"
    rows = max(1, _CHUNK // max(1, len(right)))
    for start in range(0, len(left), rows):
        for scores in similarity(left[start : start + rows], right, how):
            places = np.arange(len(scores))
            if count < len(scores):
                least = np.partition(scores, len(scores) - count)[len(scores) - count]
                places = np.flatnonzero(scores >= least)
            order = places[np.lexsort((places, -scores[places]))][:count]
            yield [(int(place), float(scores[place])) for place in order]


def pairs(vectors: Floats, how: str, top_k: int, max_pairs: int) -> list[tuple[float, int, int]]:
    """The most similar pairs of rows, (score, i, j) with i < j, best first: of each row with its ``top_k`` most similar
    others, at most ``max_pairs`` in all."""
    found: list[tuple[float, int, int]] = []
    queued: set[tuple[int, int]] = set()
    for i, near in enumerate(top(vectors, vectors, how, top_k + 1)):
        for j, score in [one for one in near if one[0] != i][:top_k]:
            pair = (min(i, j), max(i, j))
            if pair in queued or (len(found) == max_pairs and score <= found[0][0]):
                continue
            queued.add(pair)
            if len(found) < max_pairs:
                heapq.heappush(found, (score, *pair))
            else:
                queued.discard(heapq.heappushpop(found, (score, *pair))[1:])
    return sorted(found, key=lambda one: (-one[0], one[1:]))


def quantize(vectors: Floats, precision: str, ranges: Any = None) -> NDArray[Any]:
    """Vectors in few bits: "int8" and "uint8" divide the range of each dimension into 256 steps, "binary" and "ubinary"
    keep the signs, eight in a byte (int8 or uint8).

    Args:
        ranges: minimum and maximum of each dimension, [2, width], as of the vectors that are searched; None takes those
            of ``vectors``, of which there must be two then.
    """
    choice("precision", precision, PRECISIONS)
    if precision in ("float32", "binary", "ubinary"):
        if ranges is not None:
            raise OptionError(f"ranges is set, but precision={precision!r} has none: leave it out")
        if precision == "float32":
            return vectors
        packed = np.packbits(vectors > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        if len(vectors) == 1:
            raise OptionError(f'precision="{precision}" needs ranges or several texts: one vector has no range')
        found = np.stack((vectors.min(axis=0), vectors.max(axis=0))) if len(vectors) else vectors[:2]
    else:
        found = as_vectors("ranges", ranges, vectors.shape[1])
        if len(found) != 2:
            raise OptionError(f"ranges has {len(found)} rows: expected 2, the minima and the maxima")
    if not len(vectors):
        return np.zeros(vectors.shape, precision)
    steps = (found[1] - found[0]) / 255
    codes = np.clip(np.floor((vectors - found[0]) / np.where(steps == 0, 1, steps)), 0, 255)
    return np.asarray(codes, np.uint8) if precision == "uint8" else np.asarray(codes - 128, np.int8)
