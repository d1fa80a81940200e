"""GTE: BERT with rotary positions and gated feed-forward networks; model_type ``new`` on the hub, ``gte`` since.

Zhang et al. 2024, https://arxiv.org/abs/2407.19669
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Dense, FeedForward, Model, Rotary, Stack, TokenStem
from . import _encoder, bert
from ._common import activation, layer
from ._encoder import adjust as adjust
from ._encoder import attention, layer_norm
from ._names import Renamed, cut
from ._rope import rotary

_LAYER, _THEIRS = "encoder.layers.{i}.", "encoder.layer.{i}."
NAMES = {
    **{ours: theirs for ours, theirs in bert.NAMES.items() if "{i}" not in ours},
    _LAYER + "attention.qkv": _THEIRS + "attention.qkv_proj",
    _LAYER + "attention.query": _THEIRS + "attention.q_proj",
    _LAYER + "attention.key": _THEIRS + "attention.k_proj",
    _LAYER + "attention.value": _THEIRS + "attention.v_proj",
    _LAYER + "attention.output": _THEIRS + "attention.o_proj",
    _LAYER + "attention.residual_norm": _THEIRS + "attn_ln",
    _LAYER + "feed_forward.up_gate": _THEIRS + "mlp.up_gate_proj",
    _LAYER + "feed_forward.down": _THEIRS + "mlp.down_proj",
    _LAYER + "feed_forward.residual_norm": _THEIRS + "mlp_ln",
}
HEADS = {
    **bert.HEADS,
    "fill-mask": {
        "language_head.transform.0": "lm_head.dense",
        "language_head.transform.0.norm": "lm_head.norm",
        "language_head.weight": "lm_head.decoder.weight",
        "language_head.bias": "lm_head.decoder.bias",
    },
}


def _rotary(config: Config, head_dim: int) -> Rotary:
    """The rotation; the family's own scaling "ntk" is fixed, and mixed with ``mixed_b`` (kexue.fm/archives/9706)."""
    scaling = config.section("rope_scaling")
    kind = scaling.get("rope_type") or scaling.get("type")
    if kind != "ntk":
        return rotary(config, head_dim, theta=160000.0 if config.model_type == "gte" else 10000.0)
    base = config.number("rope_theta", default=10000.0)
    factor, mixed = scaling.number("factor"), scaling.optional_number("mixed_b")
    if factor <= 0 or base <= 0:
        raise scaling.wrong("factor", "a number above zero")
    half = head_dim // 2
    if factor <= 1:
        return Rotary(inv_freq=tuple(base ** (-j / half) for j in range(half)))
    if mixed is None:
        shrink = factor ** (1 / half)
        return Rotary(inv_freq=tuple((base * factor) ** (-j / half) / shrink for j in range(half)))
    slope = math.log(factor) / half**mixed
    return Rotary(inv_freq=tuple(base ** (-j / half) / math.exp(slope * (j + 1) ** mixed) for j in range(half)))


def spec(config: Config, task: str) -> Model:
    if config.word("position_embedding_type", default="rope") != "rope":
        raise config.wrong("position_embedding_type", '"rope"')
    if config.word("layer_norm_type", default="layer_norm") != "layer_norm":
        raise config.wrong("layer_norm_type", '"layer_norm"')
    if config.flag("logn_attention_scale"):
        raise config.wrong("logn_attention_scale", "false")
    hidden, heads = config.size("hidden_size", default=768), config.size("num_attention_heads", default=12)
    norm = layer_norm(config)
    plain = attention(config, hidden, heads)
    feed_forward = FeedForward(
        width=config.size("intermediate_size", default=3072),
        activation=activation(config, "hidden_act", default="gelu"),
        gated=True,
        down_bias=True,
    )
    rotated = replace(plain, rotary=_rotary(config, plain.head_dim))
    stack = Stack(
        hidden_size=hidden,
        stem=TokenStem(
            vocab_size=config.size("vocab_size", default=250048 if config.model_type == "gte" else 30528),
            segments=config.size("type_vocab_size", default=1, minimum=0),
            norm=norm,
        ),
        layers=(layer(rotated, feed_forward, residual_norm=norm),) * config.size("num_hidden_layers", default=12),
        max_length=config.size("max_position_embeddings", default=8192 if config.model_type == "gte" else 2048),
    )
    pooler = Dense(outputs=hidden, activation="tanh")
    transform = Dense(outputs=hidden, activation="gelu", norm=norm)
    return _encoder.model(config, task, stack, pooler=pooler, sequence=(pooler,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = _encoder.tensors(checkpoint, task, NAMES, HEADS, prefixes=("new.", "gte."))
    count, hidden = config.size("num_hidden_layers", default=12), config.size("hidden_size", default=768)
    attention, feed_forward = _LAYER + "attention.", _LAYER + "feed_forward."
    cut(out, attention + "qkv", {attention + part: hidden for part in ("query", "key", "value")}, count)
    width = config.size("intermediate_size", default=3072)
    cut(out, feed_forward + "up_gate", {feed_forward + part: width for part in ("up", "gate")}, count)
    return out
