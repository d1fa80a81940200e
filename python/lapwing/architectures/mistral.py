"""Mistral: Llama with a sliding window in every layer.

Jiang et al. 2023, https://arxiv.org/abs/2310.06825
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}


def spec(config: Config, task: str) -> Model:
    norm, rotation = llama.rms(config), rotary(config, llama.head_dim(config))
    layer = llama.layer(config, rotation, norm, window=config.optional_size("sliding_window", maximum=1 << 30))
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)
