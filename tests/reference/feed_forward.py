"""Feed-forward networks, and experts that a router chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import Experts, FeedForward, Router

from .activation import activate, sigmoid
from .attention import linear, softmax

Array = np.ndarray[Any, Any]


def feed_forward(spec: FeedForward, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    inner = linear(weights, f"{name}.up", x)
    if spec.gated:
        inner = activate(spec.activation, weights, linear(weights, f"{name}.gate", x)) * inner
    else:
        inner = activate(spec.activation, weights, inner)
    return linear(weights, f"{name}.down", inner)


def route(spec: Router, logits: Array) -> tuple[Array, Array]:
    """Scores of all experts, and their weights in the sum, mostly 0; ``[tokens, count]`` each."""
    scores = softmax(logits) if spec.score == "softmax" else sigmoid(logits)
    chosen = np.argsort(-scores, axis=-1, kind="stable")[:, : spec.per_token]  # ties go to the first
    best = np.take_along_axis(scores, chosen, axis=-1)
    if spec.renormalize:
        best = best / best.sum(axis=-1, keepdims=True)
    shares = np.zeros_like(scores)
    np.put_along_axis(shares, chosen, spec.scale * best, axis=-1)
    return scores, shares


def experts(spec: Experts, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """The sum over the chosen experts of each token; ``weights`` keep the scores (see `norm.Tensors`)."""
    scores, shares = route(spec.router, linear(weights, f"{name}.router", x))
    getattr(weights, "routed", []).append((scores, spec.router.per_token))
    y = np.zeros_like(x)
    for expert in range(spec.router.count):
        rows = np.flatnonzero(shares[:, expert])
        y[rows] += shares[rows, expert, None] * feed_forward(spec.expert, weights, f"{name}.{expert}", x[rows])
    return y
