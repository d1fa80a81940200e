"""Seed-OSS: Llama with biases on query, key and value, and optionally on the output.

https://huggingface.co/ByteDance-Seed/Seed-OSS-36B-Instruct
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288, "attention_bias": True}


def spec(config: Config, task: str) -> Model:
    norm, bias = llama.rms(config), config.flag("attention_bias")
    layer = llama.layer(
        config,
        rotary(config, llama.head_dim(config)),
        norm,
        bias=(bias, bias, bias, config.flag("attention_out_bias")),
        mlp_bias=config.flag("mlp_bias"),
    )
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)
