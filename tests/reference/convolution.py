"""Convolutions along the tokens: the centred one of DeBERTa-v2-xl and the causal one of LFM2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import Convolution, ShortConvolution

from .activation import activate
from .attention import linear

Array = np.ndarray[Any, Any]


def convolution(spec: Convolution, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """``activation(conv1d(x))`` with zeros around ``x: [tokens, hidden]``."""
    width, half = x.shape[1], spec.kernel // 2
    per_group = width // spec.groups
    kernel = weights[f"{name}.weight"].reshape(width, per_group, spec.kernel)
    padded = np.pad(x, ((half, half), (0, 0)))
    y = np.zeros_like(x) + weights[f"{name}.bias"]
    for out in range(width):
        first = out // per_group * per_group
        for t in range(spec.kernel):
            y[:, out] += padded[t : t + len(x), first : first + per_group] @ kernel[out, :, t]
    return activate(spec.activation, weights, y)


def short_convolution(spec: ShortConvolution, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """``output(c * conv(b * h))``, with zeros before the first token."""
    b, c, h = np.split(linear(weights, f"{name}.input", x), 3, axis=1)
    padded = np.pad(b * h, ((spec.kernel - 1, 0), (0, 0)))
    kernel = weights[f"{name}.convolution.weight"]
    y = sum(padded[t : t + len(x)] * kernel[:, t] for t in range(spec.kernel))
    y = y + weights.get(f"{name}.convolution.bias", 0.0)
    return linear(weights, f"{name}.output", c * y)
