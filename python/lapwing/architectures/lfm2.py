"""LFM2: short gated convolutions in most layers, attention with a norm on each head's queries and keys in the others.

Liquid AI 2025, https://arxiv.org/abs/2511.23404
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoint import Config, Tensor
from ..spec import Model, Norm, ShortConvolution
from . import llama
from ._common import edit
from ._names import Renamed
from ._rope import rotary

DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 128000,
    "rope_theta": 1e6,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "tie_word_embeddings": True,
}
CONVOLUTION = "conv"
# Attention and convolution share a name, as do the norms before them.
_OPERATOR, _FEED_FORWARD = "decoder.layers.{i}.operator.", "decoder.layers.{i}.feed_forward."
NAMES = {
    "decoder.embedding.token": "embed_tokens",
    "decoder.norm": "embedding_norm",
    _OPERATOR + "input_norm": "layers.{i}.operator_norm",
    _OPERATOR + "query": "layers.{i}.self_attn.q_proj",
    _OPERATOR + "key": "layers.{i}.self_attn.k_proj",
    _OPERATOR + "value": "layers.{i}.self_attn.v_proj",
    _OPERATOR + "output": "layers.{i}.self_attn.out_proj",
    _OPERATOR + "query_norm": "layers.{i}.self_attn.q_layernorm",
    _OPERATOR + "key_norm": "layers.{i}.self_attn.k_layernorm",
    _OPERATOR + "input": "layers.{i}.conv.in_proj",
    _OPERATOR + "convolution": "layers.{i}.conv.conv",
    _OPERATOR + "convolution_output": "layers.{i}.conv.out_proj",
    _FEED_FORWARD + "input_norm": "layers.{i}.ffn_norm",
    _FEED_FORWARD + "gate": "layers.{i}.feed_forward.w1",
    _FEED_FORWARD + "up": "layers.{i}.feed_forward.w3",
    _FEED_FORWARD + "down": "layers.{i}.feed_forward.w2",
    "language_head": "lm_head",
    "head.0": "score",
}


def _with_llama_keys(config: Config) -> Config:
    """The configuration with Llama's keys; the first checkpoints have names of their own, which come first."""
    own = {"theta": "rope_theta", "tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"}
    config = config.with_values(**{theirs: config[key] for key, theirs in own.items() if key in config})
    return config.with_values(hidden_act="silu", intermediate_size=_width(config))


def _width(config: Config) -> int:
    """Width of the feed-forward networks: the configured number, or two thirds of it times a factor, rounded up."""
    width = config.size("intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim"):
        return width
    factor, multiple = config.optional_number("block_ffn_dim_multiplier"), config.size("block_multiple_of")
    width = 2 * width // 3
    if factor is not None:
        width = int(factor * width)
    if width < 1:
        raise config.wrong("block_ffn_dim_multiplier", "a factor that leaves a width of at least 1")
    return -(-width // multiple) * multiple


def _types(config: Config, layers: int) -> list[str]:
    types, attending = config.words("layer_types"), config.get("full_attn_idxs")
    if attending is not None and not isinstance(attending, list):
        raise config.wrong("full_attn_idxs", "a list of numbers of layers")
    if not types:
        types = [llama.FULL if attending is None or i in attending else CONVOLUTION for i in range(layers)]
    if len(types) < layers or set(types) - {llama.FULL, CONVOLUTION}:
        raise config.wrong("layer_types", f"{layers} of {llama.FULL}, {CONVOLUTION}")
    return types[:layers]


def spec(config: Config, task: str) -> Model:
    config = _with_llama_keys(config)
    norm = Norm(kind="rms", eps=config.number("norm_eps", default=1e-5))
    one = llama.layer(config, rotary(config, llama.head_dim(config)), norm, head_norm=norm)
    convolution = ShortConvolution(
        kernel=config.size("conv_L_cache", minimum=2, maximum=64), bias=config.flag("conv_bias")
    )
    layers = {
        llama.FULL: edit(one, "attention", name="operator"),
        CONVOLUTION: edit(one, "attention", name="operator", body=convolution),
    }
    types = _types(config, config.size("num_hidden_layers"))
    return llama.decoder(config, task, [layers[kind] for kind in types], norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(_with_llama_keys(config), checkpoint, task, names=NAMES)
    for name in list(out):
        if ".convolution_output." in name:
            out[name.replace("convolution_output", "output")] = out.pop(name)
        elif name.endswith(".operator.convolution.weight") and len(out[name].shape) == 3:
            outputs, per_group, kernel = out[name].shape
            out[name] = out[name].reshape(outputs, per_group * kernel)
    return out
