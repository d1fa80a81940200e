"""Biases of scores by distance: ALiBi and T5's buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import Attention, RelativeBias

Array = np.ndarray[Any, Any]


def bucket(spec: RelativeBias, distance: int) -> int:
    """The bucket of ``distance = key - query``. Raffel et al. 2020, https://arxiv.org/abs/1910.10683"""
    buckets, offset = spec.buckets, 0
    if spec.bidirectional:
        buckets //= 2
        offset = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    # In single precision, as in the reference: the buckets of borders depend on it.
    ratio = np.float32(np.log(np.float32(distance) / np.float32(exact))) / np.float32(
        math.log(spec.max_distance / exact)
    )
    return offset + min(exact + int(ratio * np.float32(buckets - exact)), buckets - 1)


def _bfloat16(x: Array) -> Array:
    """Rounds to eight bits, ties to even; exact for inputs of at most 37 bits."""
    fraction, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    return np.ldexp(np.rint(fraction * 256) / 256, exponent)


def position_bias(spec: Attention, weights: Mapping[str, Array], name: str, queries: int, keys: int) -> Array | float:
    """``[heads, queries, keys]``, or 0."""
    distance = np.arange(keys)[None] - np.arange(queries)[:, None]
    if spec.alibi is not None and spec.alibi.rounded:
        slopes, positions = _bfloat16(np.array(spec.alibi.slopes)), _bfloat16(np.arange(keys))
        return spec.scale * _bfloat16(slopes[:, None, None] * positions)
    if spec.alibi is not None:
        return np.array(spec.alibi.slopes)[:, None, None] * distance
    if spec.relative_bias is not None:
        relative = spec.relative_bias
        found = np.vectorize(lambda d: bucket(relative, int(d)), otypes=[int])(distance)
        return weights[f"{name}.relative_bias.weight"][found].transpose(2, 0, 1)
    return 0.0
