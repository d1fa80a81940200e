"""Root-mean-square and layer normalization over the last dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import Norm

Array = np.ndarray[Any, Any]


def norm(spec: Norm | None, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """x normalized as ``spec`` says with the tensors ``name.weight`` and ``name.bias``; x itself without a spec."""
    if spec is None:
        return x
    if spec.kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + spec.eps)
    if spec.weight:
        x = x * weights[f"{name}.weight"]
    if spec.bias:
        x = x + weights[f"{name}.bias"]
    return x
