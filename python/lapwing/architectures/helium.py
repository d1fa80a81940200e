"""Helium: Llama with rotation of neighbours.

https://huggingface.co/kyutai/helium-1-preview-2b
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = {
    "num_key_value_heads": 20,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-8,
    "rope_theta": 1e5,
}


def spec(config: Config, task: str) -> Model:
    norm, bias = llama.rms(config), config.flag("attention_bias")
    layer = llama.layer(
        config,
        rotary(config, llama.head_dim(config), interleaved=True),
        norm,
        bias=(bias, bias, bias, False),
        mlp_bias=config.flag("mlp_bias"),
    )
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)
