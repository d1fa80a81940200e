"""Activations by the names of the spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": sigmoid,
}


def activate(name: str, weights: Mapping[str, Array], x: Array) -> Array:
    """The activation of ``x``, off by as much as the ``rounding`` of ``weights`` draws (see `norm.Tensors`).

    The others are off by a few units in the last place of what they give. The error of 1 + erf and of 1 + tanh is
    relative to one, also where the sum is tiny.
    """
    y, rounding = ACTIVATIONS[name](x), getattr(weights, "rounding", None)
    return y + 0.5 * x * rounding(x.shape) if rounding is not None and name in ("gelu", "gelu_tanh") else y
