"""Rotary position embedding. Su et al. 2021, https://arxiv.org/abs/2104.09864"""

from __future__ import annotations

from typing import Any

import numpy as np

from lapwing.spec import Rotary

Array = np.ndarray[Any, Any]


def frequencies(spec: Rotary, length: int) -> tuple[Array, float]:
    """Frequencies and scale for a sequence of ``length`` tokens."""
    found, scale = np.array(spec.inv_freq), spec.scale
    if spec.long is not None and length > spec.long.after:
        found, scale = np.array(spec.long.inv_freq), spec.long.scale
    if spec.dynamic is not None and length > spec.dynamic.original_length:
        d, dim = spec.dynamic, 2 * len(spec.inv_freq)
        base = d.base * (d.factor * length / d.original_length - (d.factor - 1)) ** (dim / (dim - 2))
        found = base ** (-np.arange(0, dim, 2) / dim)
    return found, scale


def rotate(spec: Rotary | None, x: Array) -> Array:
    """Rotates ``x: [tokens, heads, head_dim]``, whose tokens stand at positions 0, 1, ..."""
    if spec is None:
        return x
    found, scale = frequencies(spec, len(x))
    angles = np.arange(len(x))[:, None, None] * found
    cos, sin = np.cos(angles) * scale, np.sin(angles) * scale
    half = len(found)
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if spec.interleaved
        else (
            slice(0, half),
            slice(half, 2 * half),
        )
    )
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., second] * cos + x[..., first] * sin
    return out
