"""Quantization: 8 and 6 bits in groups of 32 inputs with the best of 32 f16 scales, 4 bits on an 8-bit grid;
every code is the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
GROUP = 32
BIAS = np.float32(4096)
"""Scales are kept times this, so that those of small weights stay normal numbers of f16."""
TINY = np.float32(1e-30)


def fused(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32 with almost always one rounding: the product is exact in float64."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def best_scales(group: Array, max_code: float, step: float) -> Array:
    """``group: [outputs, up to 32]`` float32; returns stored scales, ``[outputs, 1]`` float32.

    Maps the largest magnitude to ``max_code - step * i`` for i from 0 to 31, fits the least-squares scale of each set
    of rounded codes, and keeps the one with the smallest error.
    """
    unit = np.float32(1) / np.maximum(np.abs(group).max(axis=1), TINY)
    best, scale = np.zeros_like(unit), np.zeros_like(unit)
    for i in range(32):
        inverse = unit * np.float32(max_code - step * i)
        codes = np.rint(group.astype(np.float64) * inverse[:, None]).astype(np.float32)
        products, squares = np.zeros_like(unit), np.zeros_like(unit)
        for x, q in zip(group.T, codes.T, strict=True):
            products = fused(x, q, products)
            squares += q * q
        fitted = products / np.maximum(squares, TINY)
        gain = fitted * products
        scale = np.where(gain > best, fitted, scale)
        best = np.maximum(gain, best)
    return ((scale * BIAS).astype(np.float16).astype(np.float32) / BIAS)[:, None]


def by_groups(weights: Array, max_code: float, step: float) -> Array:
    """``weights: [outputs, inputs]`` rounded to codes of at most ``max_code``, float32."""
    out = np.zeros_like(weights, np.float32)
    for start in range(0, weights.shape[1], GROUP):
        group = weights[:, start : start + GROUP].astype(np.float32)
        scale = best_scales(group, max_code, step)
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
        out[:, start : start + GROUP] = np.clip(np.rint(group * inverse), -max_code, max_code) * scale
    return out


def q8(weights: Array) -> Array:
    """``weights: [outputs, inputs]`` as they are after rounding, float32."""
    return by_groups(weights, 127, 0.375)


def q6(weights: Array) -> Array:
    """The same of the token tables of 4-bit models."""
    return by_groups(weights, 31, 0.1875)


def line(group: Array) -> tuple[Array, Array]:
    """Distance and middle of the 16 evenly spaced numbers next to ``group: [outputs, up to 32]``, each ``[outputs]``
    float32.

    Divides the span into 13.6 to 16 steps, fits a line through each set of rounded codes by least squares, and
    keeps the one with the smallest error.
    """
    low = group.min(axis=1)
    span, n = group.max(axis=1) - low, np.float32(group.shape[1])
    inverse = np.float32(1) / np.maximum(span, TINY)
    total, best, start = np.zeros_like(low), np.zeros_like(low), np.zeros_like(low)
    distance = span * np.float32(1 / 15)
    for x in group.T:
        total += x - low
    for steps in (13.6, 14.0, 14.4, 14.8, 15.2, 15.6, 16.0):
        sum_code, sum_square, sum_product = np.zeros_like(low), np.zeros_like(low), np.zeros_like(low)
        for x in group.T:
            code = np.minimum(np.rint((x - low) * (inverse * np.float32(steps))), np.float32(15))
            sum_code += code
            sum_square += code * code
            sum_product = fused(x - low, code, sum_product)
        determinant = np.maximum(n * sum_square - sum_code * sum_code, TINY)
        slope = (n * sum_product - total * sum_code) / determinant
        begin = (sum_square * total - sum_code * sum_product) / determinant
        gain = slope * sum_product + begin * total
        better = gain > best
        distance, start = np.where(better, slope, distance), np.where(better, begin, start)
        best = np.where(better, gain, best)
    return distance, low + start + distance * np.float32(7.5)


def grid(distance: Array, middle: Array, above: int, place: int) -> tuple[Array, Array]:
    """The integer scale (1 to 15) next below a distance, or the one above, and the lowest byte of codes around a
    middle."""
    scale = np.clip(np.rint(distance - np.float32(0.5)) + np.float32(above), 1, 15).astype(np.float32)
    low = np.rint(middle - scale * np.float32(7.5)) + np.float32(place)
    return scale, np.minimum(np.maximum(low, -128), 127 - 15 * scale).astype(np.float32)


def codes(weights: Array, scale: Array, low: Array) -> Array:
    """Codes of ``weights: [outputs, inputs]`` in steps, with scales and lows ``[outputs]``."""
    return np.clip(np.rint((weights - low[:, None]) * (np.float32(1) / scale)[:, None]), 0, 15).astype(np.float32)


def error(weights: Array, scale: Array, low: Array) -> Array:
    """Sums of squared errors ``[outputs]`` of ``weights: [outputs, inputs]`` in steps."""
    total = np.zeros_like(low)
    for x, code in zip(weights.T, codes(weights, scale, low).T, strict=True):
        off = x - (scale * code + low)
        total = fused(off, off, total)
    return total


def q4(weights: Array) -> Array:
    """``weights: [outputs, inputs]`` as they are after rounding, float32: ``step * (scale * code + low)``, a step for
    each 256 inputs, a scale of 1 to 15 and a low for each 32, whose codes of 0 to 15 make whole numbers of -128 to 127.
    """
    out = np.zeros_like(weights, np.float32)
    for begin in range(0, weights.shape[1], 256):
        block = weights[:, begin : begin + 256].astype(np.float32)
        groups = [block[:, i : i + GROUP] for i in range(0, block.shape[1], GROUP)]
        lines = [line(group) for group in groups]
        # The smallest step that reaches all weights and scales, then steps that are up to 21 % larger.
        least = np.maximum(block.max(axis=1) * np.float32(1 / 127), block.min(axis=1) * np.float32(-1 / 128))
        least = np.maximum(
            np.max([distance for distance, _ in lines], axis=0) * np.float32(1 / 15), np.maximum(least, 0)
        )
        best, step = np.full_like(least, np.inf), least
        for i in range(8):
            tried = least * np.float32(1 + np.float32(0.03) * np.float32(i))
            inverse = np.float32(1) / np.maximum(tried, TINY)
            total = np.zeros_like(least)
            for group, (distance, middle) in zip(groups, lines, strict=True):
                x, ends = group * inverse[:, None], (distance * inverse, middle * inverse)
                total += np.minimum(error(x, *grid(*ends, 0, 0)), error(x, *grid(*ends, 1, 0)))
            total = total * tried * tried
            step, best = np.where(total < best, tried, step), np.minimum(total, best)
        inverse = np.float32(1) / np.maximum(step, TINY)
        products, squares, grids = np.zeros_like(step), np.zeros_like(step), []
        for group, (distance, middle) in zip(groups, lines, strict=True):
            x, best = group * inverse[:, None], np.full_like(step, np.inf)
            scale, low = np.ones_like(step), np.zeros_like(step)
            for above in (0, 1):
                for place in (-1, 0, 1):
                    tried = grid(distance * inverse, middle * inverse, above, place)
                    total = error(x, *tried)
                    scale, low = np.where(total < best, tried, (scale, low))
                    best = np.minimum(total, best)
            for weight, code in zip(group.T, codes(x, scale, low).T, strict=True):
                byte = scale * code + low
                products, squares = fused(weight, byte, products), fused(byte, byte, squares)
            grids.append((scale, low))
        # The step with the smallest error for these numbers.
        step = (products / np.maximum(squares, TINY) * BIAS).astype(np.float16).astype(np.float32)
        inverse = BIAS / np.maximum(step, TINY)
        for i, (group, (scale, low)) in enumerate(zip(groups, grids, strict=True)):
            rounded = codes(group * inverse[:, None], scale, low) * scale[:, None] + low[:, None]
            out[:, begin + GROUP * i : begin + GROUP * i + group.shape[1]] = (step * (1 / BIAS))[:, None] * rounded
    return out
