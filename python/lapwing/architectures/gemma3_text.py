"""Gemma 3: Gemma 2 with a norm on each head's queries and keys instead of capped scores, and two rotations.

Gemma Team 2025, https://arxiv.org/abs/2503.19786
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import gemma, gemma2, llama
from ._rope import rotations
from .gemma2 import tensors as tensors

DEFAULTS = {
    **gemma2.DEFAULTS,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}


def spec(config: Config, task: str) -> Model:
    if config.flag("use_bidirectional_attention"):
        raise config.wrong("use_bidirectional_attention", "false")
    pattern = config.size("sliding_window_pattern", default=6)
    types = llama.layer_types(config, config.size("num_hidden_layers"), llama.every(config, pattern))
    windows = llama.windows(config, types)
    rotation = rotations(config, llama.head_dim(config), local=config.number("rope_local_base_freq"))
    norm = llama.rms(config)
    return gemma.decoder(config, task, [gemma2.layer(config, rotation[kind], windows[kind], norm) for kind in types])
