"""Self-attention and cross-attention: projections, norms, rotation, scores, mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapwing.spec import Attention, CrossAttention, DisentangledAttention, Norm

from .norm import norm
from .position_bias import position_bias
from .rotary import rotate

Array = np.ndarray[Any, Any]


def linear(weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """``x @ weight.T``, plus the bias if any."""
    y = x @ weights[f"{name}.weight"].T
    bias = weights.get(f"{name}.bias")
    return y if bias is None else y + bias


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def visible(spec: Attention, queries: int, keys: int) -> Array:
    """The mask of visible keys, ``[queries, keys]``."""
    query, key = np.arange(queries)[:, None], np.arange(keys)[None]
    seen = np.ones((queries, keys), bool)
    if spec.causal:
        seen &= key <= query
    if spec.window is not None:
        seen &= abs(query - key) < spec.window
    return seen


def split(spec: Attention | CrossAttention | DisentangledAttention, x: Array) -> Array:
    """``[tokens, heads * head_dim]`` as ``[tokens, heads, head_dim]``."""
    return x.reshape(len(x), -1, spec.head_dim)


def repeat(spec: Attention | CrossAttention, x: Array) -> Array:
    """Keys or values repeated for each query head."""
    return np.repeat(x, spec.heads // spec.kv_heads, axis=1)


def softcapped(spec: Attention | CrossAttention, scores: Array) -> Array:
    return scores if spec.softcap is None else spec.softcap * np.tanh(scores / spec.softcap)


def mixture(weights: Mapping[str, Array], name: str, scores: Array, values: Array) -> tuple[Array, Array]:
    """The projected sums of ``values``, ``[tokens, hidden]``, and the probabilities."""
    probabilities = softmax(scores)
    mixed = np.einsum("hqk,khd->qhd", probabilities, values).reshape(scores.shape[1], -1)
    return linear(weights, f"{name}.output", mixed), probabilities


def attention(spec: Attention, weights: Mapping[str, Array], name: str, x: Array) -> tuple[Array, Array]:
    """Self-attention and its probabilities."""
    q, k, v = (linear(weights, f"{name}.{part}", x) for part in ("query", "key", "value"))
    if spec.clip is not None:
        q, k, v = (np.clip(y, -spec.clip, spec.clip) for y in (q, k, v))
    q, k, v = (split(spec, y) for y in (q, k, v))
    if spec.norm_after_rotary:
        q, k = rotate(spec.rotary, q), rotate(spec.rotary, k)
    q = head_norm(spec, spec.query_norm, weights, f"{name}.query_norm", q)
    k = head_norm(spec, spec.key_norm, weights, f"{name}.key_norm", k)
    if not spec.norm_after_rotary:
        q, k = rotate(spec.rotary, q), rotate(spec.rotary, k)
    if spec.query_scale is not None:
        blocks = np.arange(len(q)) // spec.query_scale.original_length
        q = q * (1 + spec.query_scale.beta * np.log(1 + blocks))[:, None, None]
    scores = softcapped(spec, spec.scale * np.einsum("qhd,khd->hqk", q, repeat(spec, k)))
    scores = scores + position_bias(spec, weights, name, len(q), len(k))
    scores = np.where(visible(spec, len(q), len(k)), scores, -np.inf)
    return mixture(weights, name, scores, repeat(spec, v))


def cross_attention(
    spec: CrossAttention, weights: Mapping[str, Array], name: str, x: Array, source: Array
) -> tuple[Array, Array]:
    """Attention to the encoder's states ``source``, and its probabilities."""
    q = split(spec, linear(weights, f"{name}.query", x))
    k, v = (split(spec, linear(weights, f"{name}.{part}", source)) for part in ("key", "value"))
    q = head_norm(spec, spec.query_norm, weights, f"{name}.query_norm", q)
    k = head_norm(spec, spec.key_norm, weights, f"{name}.key_norm", k)
    scores = softcapped(spec, spec.scale * np.einsum("qhd,khd->hqk", q, repeat(spec, k)))
    return mixture(weights, name, scores, repeat(spec, v))


def head_norm(
    spec: Attention | CrossAttention, form: Norm | None, weights: Mapping[str, Array], name: str, x: Array
) -> Array:
    if spec.norm_over == "all":
        return norm(form, weights, name, x.reshape(len(x), -1)).reshape(x.shape)
    return norm(form, weights, name, x)
