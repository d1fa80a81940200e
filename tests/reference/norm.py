"""Root-mean-square and layer normalization over the last dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lapwing.spec import Norm

Array = np.ndarray[Any, Any]


class Tensors(dict[str, Array]):
    """A model's tensors by name. ``rounding(shape)`` draws relative errors for the operations of norms and of GELU.
    ``routed`` collects the scores of experts and the number of experts per token."""

    def __init__(
        self, tensors: Mapping[str, Array], rounding: Callable[[tuple[int, ...]], Array] | None = None
    ) -> None:
        super().__init__(tensors)
        self.rounding = rounding
        self.routed: list[tuple[Array, int]] = []


def norm(spec: Norm | None, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """x normalized as ``spec`` says with the tensors ``name.weight`` and ``name.bias``; x itself without a spec."""
    if spec is None:
        return x
    rounding = getattr(weights, "rounding", None)
    if spec.kind == "layer":
        mean = x.mean(axis=-1, keepdims=True)
        if rounding is not None and x.shape[-1] > 1:  # the mean of one value is exact
            mean = mean + rounding(mean.shape) * abs(x).max(axis=-1, keepdims=True)
        x = x - mean
    x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + spec.eps)
    if rounding is not None:
        x = x * (1 + rounding(x.shape))
    if spec.weight:
        x = x * weights[f"{name}.weight"]
    if spec.bias:
        x = x + weights[f"{name}.bias"]
    return x
