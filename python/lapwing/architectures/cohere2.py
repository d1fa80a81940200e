"""Cohere's Command R7B and A: Command R with a window in three of four layers, and no positions in the others.

Team Cohere 2025, https://arxiv.org/abs/2504.00698
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import cohere, llama
from ._rope import rotary
from .cohere import tensors as tensors

DEFAULTS = {**cohere.DEFAULTS, "rope_theta": 1e4, "sliding_window": 4096}


def spec(config: Config, task: str) -> Model:
    pattern = config.size("sliding_window_pattern", default=4)
    types = llama.layer_types(config, config.size("num_hidden_layers"), llama.every(config, pattern))
    windows, rotation = llama.windows(config, types), rotary(config, llama.head_dim(config), interleaved=True)
    layers = [cohere.layer(config, rotation if kind == llama.SLIDING else None, windows[kind]) for kind in types]
    return cohere.decoder(config, task, layers)
