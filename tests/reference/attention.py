"""Attention: projections, norms, rotation, scores, mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import Attention

from . import disentangled
from .norm import norm
from .position_bias import position_bias
from .rotary import rotate

Array = np.ndarray[Any, Any]


def linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """``x @ weight.T + bias``, where there is a bias."""
    y = x @ weights[f"{name}.weight"].T
    bias = weights.get(f"{name}.bias")
    return y if bias is None else y + bias


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def visible(spec: Attention, queries: int, keys: int) -> Array:
    """Which key a query sees, ``[queries, keys]``."""
    query, key = np.arange(queries)[:, None], np.arange(keys)[None]
    seen = np.ones((queries, keys), bool)
    if spec.causal:
        seen &= key <= query
    if spec.window is not None:
        seen &= abs(query - key) < spec.window
    return seen


def attention(
    spec: Attention,
    weights: Mapping[str, Array],
    name: str,
    x: Array,
    source: Array | None = None,
    relative: Array | None = None,
) -> tuple[Array, Array]:
    """The block without its own norms and residual, ``[tokens, hidden]``, and the probabilities.

    Keys and values come from ``source`` where it is given (cross-attention); ``relative`` is the table of relative
    positions of disentangled attention.
    """
    other = x if source is None else source
    q, k, v = (linear(weights, f"{name}.{part}", y) for part, y in (("query", x), ("key", other), ("value", other)))
    if spec.clip is not None:
        q, k, v = (np.clip(y, -spec.clip, spec.clip) for y in (q, k, v))
    q, k, v = (y.reshape(len(y), -1, spec.head_dim) for y in (q, k, v))
    if spec.norm_after_rotary:
        q, k = rotate(spec.rotary, q), rotate(spec.rotary, k)
    q = _head_norm(spec, spec.query_norm, weights, f"{name}.query_norm", q)
    k = _head_norm(spec, spec.key_norm, weights, f"{name}.key_norm", k)
    if not spec.norm_after_rotary:
        q, k = rotate(spec.rotary, q), rotate(spec.rotary, k)
    if spec.query_scale is not None:
        blocks = np.arange(len(q)) // spec.query_scale.original_length
        q = q * (1 + spec.query_scale.beta * np.log(1 + blocks))[:, None, None]
    groups = spec.heads // spec.kv_heads
    k, v = np.repeat(k, groups, axis=1), np.repeat(v, groups, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k)
    if spec.disentangled is not None:
        assert relative is not None
        scores = scores + disentangled.scores(spec, weights, name, q, k, relative)
    scores = scores * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * np.tanh(scores / spec.softcap)
    scores = scores + position_bias(spec, weights, name, len(q), len(k))
    scores = np.where(visible(spec, len(q), len(k)), scores, -np.inf)
    probabilities = softmax(scores)
    mixed = np.einsum("hqk,khd->qhd", probabilities, v).reshape(len(x), -1)
    return linear(weights, f"{name}.output", mixed), probabilities


def _head_norm(spec: Attention, form: Any, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    if spec.norm_over == "all":
        return norm(form, weights, name, x.reshape(len(x), -1)).reshape(x.shape)
    return norm(form, weights, name, x)
