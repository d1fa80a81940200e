"""Arcee: Llama with a plain feed-forward network and squared ReLU.

https://huggingface.co/arcee-ai/AFM-4.5B
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model, Norm, Rotary
from . import llama
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = {"hidden_act": "relu2", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}


def build(
    config: Config, task: str, norm: Norm, head_norm: Norm | None = None, *, rotation: Rotary | None = None
) -> Model:
    """The family with another norm, and perhaps one on each head's queries and keys, or another rotation."""
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    rotation = rotation or rotary(config, llama.head_dim(config))
    layer = llama.layer(config, rotation, norm, bias=(bias,) * 4, mlp_bias=mlp_bias, gated=False, head_norm=head_norm)
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)


def spec(config: Config, task: str) -> Model:
    return build(config, task, llama.rms(config))
