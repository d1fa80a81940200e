"""Persimmon: Nemotron with plain layer norms, also on each head's queries and keys, and biases everywhere.

https://www.adept.ai/blog/persimmon-8b
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model, Norm
from . import arcee, llama
from ._names import Renamed, cut_heads

DEFAULTS = {
    "hidden_act": "relu2",
    "max_position_embeddings": 16384,
    "partial_rotary_factor": 0.5,
    "qk_layernorm": True,
}
_LAYER, _THEIRS = "decoder.layers.{i}.", "layers.{i}."
NAMES = {
    **llama.NAMES,
    _LAYER + "attention.fused": _THEIRS + "self_attn.query_key_value",
    _LAYER + "attention.output": _THEIRS + "self_attn.dense",
    _LAYER + "attention.query_norm": _THEIRS + "self_attn.q_layernorm",
    _LAYER + "attention.key_norm": _THEIRS + "self_attn.k_layernorm",
    _LAYER + "feed_forward.up": _THEIRS + "mlp.dense_h_to_4h",
    _LAYER + "feed_forward.down": _THEIRS + "mlp.dense_4h_to_h",
    "decoder.norm": "final_layernorm",
}


def spec(config: Config, task: str) -> Model:
    config = config.with_values(num_key_value_heads=None, attention_bias=True, mlp_bias=True)
    norm = Norm(kind="layer", eps=config.number("layer_norm_eps", default=1e-5), bias=True)
    return arcee.build(config, task, norm, norm if config.flag("qk_layernorm") else None)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task, names=NAMES)
    parts = {f"{_LAYER}attention.{part}": 1 for part in ("query", "key", "value")}
    heads, layers = config.size("num_attention_heads"), config.size("num_hidden_layers")
    cut_heads(out, _LAYER + "attention.fused", parts, heads, layers)
    return out
