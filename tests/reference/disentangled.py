"""DeBERTa's scores of content and position, and its convolution. He et al. 2021, https://arxiv.org/abs/2006.03654"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import Attention, Convolution, Disentangled

from .activation import activate
from .norm import norm

Array = np.ndarray[Any, Any]


def row(spec: Disentangled, distance: int) -> int:
    """Row of the table of relative positions for ``distance = query - key``."""
    middle = spec.buckets // 2
    if spec.buckets and abs(distance) > middle:
        # In single precision, as the reference has it: which bucket a border falls into depends on it.
        near, farthest = np.float32(abs(distance) / middle), np.float32((spec.max_distance - 1) / middle)
        ratio = np.float32(math.log(near)) / np.float32(math.log(farthest)) * np.float32(middle - 1)
        far = min(math.ceil(ratio), spec.span) + middle
        distance = far if distance > 0 else -far
    return min(max(distance + spec.span, 0), 2 * spec.span - 1)


def scores(spec: Attention, weights: Mapping[str, Array], name: str, q: Array, k: Array, relative: Array) -> Array:
    """What position adds to ``q.k``, ``[heads, queries, keys]``, before scaling."""
    d = spec.disentangled
    assert d is not None

    def table(part: str, shared: str) -> Array:
        place = f"{name}.{shared if d.share_key else part}"
        projected = relative @ weights[f"{place}.weight"].T + weights.get(f"{place}.bias", 0.0)
        return projected.reshape(len(relative), spec.heads, spec.head_dim)

    n = len(q)
    rows = np.array([[row(d, i - j) for j in range(n)] for i in range(n)])
    out = np.zeros((spec.heads, n, n))
    if d.content_to_position:
        out += np.einsum("qhd,qkhd->hqk", q, table("position_key", "key")[rows])
    if d.position_to_content:
        out += np.einsum("khd,qkhd->hqk", k, table("position_query", "query")[rows])
    return out


def convolution(spec: Convolution, weights: Mapping[str, Array], name: str, x: Array, states: Array) -> Array:
    """``norm(states + activation(conv1d(x)))`` with zeros around ``x: [tokens, hidden]``."""
    width, half = x.shape[1], spec.kernel // 2
    per_group = width // spec.groups
    kernel = weights[f"{name}.weight"].reshape(width, per_group, spec.kernel)
    padded = np.pad(x, ((half, half), (0, 0)))
    y = np.zeros_like(x) + weights[f"{name}.bias"]
    for out in range(width):
        first = out // per_group * per_group
        for t in range(spec.kernel):
            y[:, out] += padded[t : t + len(x), first : first + per_group] @ kernel[out, :, t]
    return norm(spec.norm, weights, f"{name}.norm", states + activate(spec.activation, weights, y))
