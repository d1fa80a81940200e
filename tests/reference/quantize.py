"""Eight-bit weights: groups of 32 inputs with one f16 scale each, every code the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
GROUP = 32
BIAS = np.float32(4096)
"""Scales are kept times this, so that those of small weights stay normal numbers of f16."""


def q8(weights: Array) -> Array:
    """``weights: [outputs, inputs]`` as they are after rounding, float32."""
    out = np.zeros_like(weights, np.float32)
    for start in range(0, weights.shape[1], GROUP):
        group = weights[:, start : start + GROUP].astype(np.float32)
        scale = (np.abs(group).max(axis=1, keepdims=True) * (BIAS / np.float32(127))).astype(np.float16)
        scale = scale.astype(np.float32) / BIAS
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        out[:, start : start + GROUP] = np.clip(np.rint(group * inverse), -127, 127) * scale
    return out
