"""The distribution of sampling: temperature, then top-k, top-p and min-p, in transformers' order."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def probabilities(
    logits: Array,
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    margins: list[float] | None = None,
) -> Array:
    """The probability of each token.

    ``margins`` receives the distance of the nearest token from each bound: if it is as
    small as rounding, another order of sums may keep one token more or less.
    """
    margins = [] if margins is None else margins
    x = logits.astype(np.float64) / temperature
    if top_k:
        x = np.where(x >= np.sort(x)[-min(top_k, len(x))], x, -np.inf)
    if top_p < 1:
        order = np.argsort(-x, kind="stable")
        mass = np.cumsum(softmax(x)[order])
        margins.append(float(abs(mass - top_p).min()))
        # Tokens whose predecessors do not reach top_p yet.
        keep = np.concatenate([[True], mass[:-1] < top_p])
        x[order[~keep]] = -np.inf
    if min_p:
        p = softmax(x)
        margins.append(float(abs(p - min_p * p.max()).min()))
        x = np.where(p >= min_p * p.max(), x, -np.inf)
    return softmax(x)
