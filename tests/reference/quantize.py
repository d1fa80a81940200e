"""Weights of eight and six bits: groups of 32 inputs with one f16 scale each, the best of 32 that are tried, every code the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
GROUP = 32
BIAS = np.float32(4096)
"""Scales are kept times this, so that those of small weights stay normal numbers of f16."""
TINY = np.float32(1e-30)


def best_scales(group: Array, most: float, step: float) -> Array:
    """``group: [outputs, up to 32]`` float32; scales as they are stored, ``[outputs, 1]`` float32.

    The largest magnitude is mapped to ``most - step * i``, i of 0 to 31; each time the least-squares scale for the rounded
    codes is found, and the one kept that takes most from the sum of squares. A fused multiply-add is computed in
    float64 and rounded, which a sum of so few digits allows.
    """
    unit = np.float32(1) / np.maximum(np.abs(group).max(axis=1), TINY)
    best, scale = np.zeros_like(unit), np.zeros_like(unit)
    for i in range(32):
        inverse = unit * np.float32(most - step * i)
        codes = np.rint(group.astype(np.float64) * inverse[:, None]).astype(np.float32)
        products, squares = np.zeros_like(unit), np.zeros_like(unit)
        for x, q in zip(group.T, codes.T, strict=True):
            products = (x.astype(np.float64) * q + products).astype(np.float32)
            squares += q * q
        fitted = products / np.maximum(squares, TINY)
        gain = fitted * products
        scale = np.where(gain > best, fitted, scale)
        best = np.maximum(gain, best)
    return ((scale * BIAS).astype(np.float16).astype(np.float32) / BIAS)[:, None]


def by_groups(weights: Array, most: float, step: float) -> Array:
    """``weights: [outputs, inputs]`` as they are after rounding to codes of at most ``most``, float32."""
    out = np.zeros_like(weights, np.float32)
    for start in range(0, weights.shape[1], GROUP):
        group = weights[:, start : start + GROUP].astype(np.float32)
        scale = best_scales(group, most, step)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        out[:, start : start + GROUP] = np.clip(np.rint(group * inverse), -most, most) * scale
    return out


def q8(weights: Array) -> Array:
    """``weights: [outputs, inputs]`` as they are after rounding, float32."""
    return by_groups(weights, 127, 0.375)


def q6(weights: Array) -> Array:
    """The same of the token tables of 4-bit models."""
    return by_groups(weights, 31, 0.1875)
