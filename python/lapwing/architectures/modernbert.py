"""ModernBERT: pre-norm encoder with rotary positions, gated feed-forward networks and local attention in most layers.

Warner et al. 2024, https://arxiv.org/abs/2412.13663
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Dense, FeedForward, Model, Norm, Rotary, Stack, TokenStem
from . import _encoder
from ._common import activation, edit, layer
from ._encoder import attention
from ._names import Renamed, cut
from ._rope import rotary
from .llama import layer_types

_LAYER = "encoder.layers.{i}."
NAMES = {
    "encoder.embedding.token": "embeddings.tok_embeddings",
    "encoder.embedding.norm": "embeddings.norm",
    _LAYER + "attention.input_norm": "layers.{i}.attn_norm",
    _LAYER + "attention.qkv": "layers.{i}.attn.Wqkv",
    _LAYER + "attention.output": "layers.{i}.attn.Wo",
    _LAYER + "feed_forward.input_norm": "layers.{i}.mlp_norm",
    _LAYER + "feed_forward.gate_up": "layers.{i}.mlp.Wi",
    _LAYER + "feed_forward.down": "layers.{i}.mlp.Wo",
    "encoder.norm": "final_norm",
}
_CLASSIFIER = {"head.0": "head.dense", "head.0.norm": "head.norm", "head.1": "classifier"}
HEADS = {
    "sequence-classification": _CLASSIFIER,
    "token-classification": _CLASSIFIER,
    "question-answering": _CLASSIFIER,
    "fill-mask": {
        "language_head.transform.0": "head.dense",
        "language_head.transform.0.norm": "head.norm",
        "language_head.weight": "decoder.weight",
        "language_head.bias": "decoder.bias",
    },
}

DEFAULTS = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "hidden_activation": "gelu",
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "classifier_activation": "gelu",
    "classifier_pooling": "cls",
}


def _theta(config: Config, local: bool) -> float:
    """Base of the rotation where the configuration has no ``rope_parameters``."""
    common = config.number("global_rope_theta", "rope_theta", default=160000.0)
    if not local:
        return common
    if "local_rope_theta" in config and config["local_rope_theta"] is None:
        return common
    return config.number("local_rope_theta", default=10000.0)


def _rotary(config: Config, head_dim: int, kind: str) -> Rotary:
    theta = _theta(config, kind == "sliding_attention")
    return rotary(config, head_dim, theta=theta, layer_type=kind)


def spec(config: Config, task: str) -> Model:
    hidden = config.size("hidden_size")
    heads = config.size("num_attention_heads")
    count = config.size("num_hidden_layers")
    every = config.size("global_attn_every_n_layers")
    norm = Norm(kind="layer", eps=config.number("norm_eps"), bias=config.flag("norm_bias"))
    default = ["sliding_attention" if i % every else "full_attention" for i in range(count)]
    plain = attention(config, hidden, heads, bias=config.flag("attention_bias"))
    # The window counts both sides of a token and leaves the token itself out.
    local = config.size("local_attention", minimum=0) // 2 + 1
    kinds = {
        "full_attention": replace(plain, rotary=_rotary(config, plain.head_dim, "full_attention")),
        "sliding_attention": replace(plain, rotary=_rotary(config, plain.head_dim, "sliding_attention"), window=local),
    }
    bias = config.flag("mlp_bias")
    feed_forward = FeedForward(
        width=config.size("intermediate_size"),
        activation=activation(config, "hidden_activation"),
        gated=True,
        gate_bias=bias,
        up_bias=bias,
        down_bias=bias,
    )
    layers = [layer(kinds[kind], feed_forward, input_norm=norm) for kind in layer_types(config, count, default)]
    # The first layer has no norm: its input is already normalized.
    layers[0] = edit(layers[0], "attention", input_norm=None)
    stack = Stack(
        hidden_size=hidden,
        stem=TokenStem(vocab_size=config.size("vocab_size"), norm=norm),
        layers=tuple(layers),
        max_length=config.size("max_position_embeddings"),
        final_norm=norm,
    )
    dense = Dense(
        outputs=hidden,
        bias=config.flag("classifier_bias"),
        activation=activation(config, "classifier_activation"),
        norm=norm,
    )
    pool = config.word("classifier_pooling")
    if pool not in ("cls", "mean"):
        raise config.wrong("classifier_pooling", "cls or mean")
    return _encoder.model(
        config,
        task,
        stack,
        pool="mean" if pool == "mean" else "first",
        sequence=(dense,),
        token=(dense,),
        language=(dense,),
        language_bias=config.flag("decoder_bias", default=True),
    )


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = _encoder.tensors(checkpoint, task, NAMES, HEADS, prefixes=("model.",))
    count, hidden = config.size("num_hidden_layers"), config.size("hidden_size")
    attention, feed_forward = _LAYER + "attention.", _LAYER + "feed_forward."
    cut(out, attention + "qkv", {attention + part: hidden for part in ("query", "key", "value")}, count)
    width = config.size("intermediate_size")
    cut(out, feed_forward + "gate_up", {feed_forward + part: width for part in ("gate", "up")}, count)
    return out
