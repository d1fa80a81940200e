"""DeBERTa's attention, with scores of content and position. He et al. 2021, https://arxiv.org/abs/2006.03654"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import DisentangledAttention

from .attention import linear, mixture, split

Array = np.ndarray[Any, Any]


def row(spec: DisentangledAttention, distance: int) -> int:
    """Row of the table of relative positions for ``distance = query - key``."""
    middle = spec.buckets // 2
    if spec.buckets and abs(distance) > middle:
        # In single precision, as in the reference: the buckets of borders depend on it.
        near, farthest = np.float32(abs(distance) / middle), np.float32((spec.max_distance - 1) / middle)
        ratio = np.float32(math.log(near)) / np.float32(math.log(farthest)) * np.float32(middle - 1)
        far = min(math.ceil(ratio), spec.span) + middle
        distance = far if distance > 0 else -far
    return min(max(distance + spec.span, 0), 2 * spec.span - 1)


def disentangled_attention(
    spec: DisentangledAttention, weights: Mapping[str, Array], name: str, x: Array, relative: Array
) -> tuple[Array, Array]:
    """The attention and its probabilities; ``relative`` is the stack's table of relative positions."""

    def projected(part: str, y: Array) -> Array:
        return split(spec, linear(weights, f"{name}.{part}", y))

    q, k, v = (projected(part, x) for part in ("query", "key", "value"))
    rows = np.array([[row(spec, i - j) for j in range(len(x))] for i in range(len(x))])
    scores = np.einsum("qhd,khd->hqk", q, k)
    if spec.content_to_position:
        table = projected("key" if spec.share_key else "position_key", relative)
        scores = scores + np.einsum("qhd,qkhd->hqk", q, table[rows])
    if spec.position_to_content:
        table = projected("query" if spec.share_key else "position_query", relative)
        scores = scores + np.einsum("khd,qkhd->hqk", k, table[rows])
    return mixture(weights, name, spec.scale * scores, v)
