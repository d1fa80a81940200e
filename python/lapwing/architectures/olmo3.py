"""OLMo 3: OLMo 2 with a window in three of four layers, whose rotation is never scaled.

Team OLMo 2025, https://arxiv.org/abs/2512.13961
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama, olmo2
from ._rope import rotations
from .olmo2 import tensors as tensors

DEFAULTS = {**olmo2.DEFAULTS, "sliding_window": 4096, "rope_theta": 5e5}


def spec(config: Config, task: str) -> Model:
    types = llama.layer_types(config, config.size("num_hidden_layers"), llama.every(config, 4))
    windows = llama.windows(config, types)
    rotation = rotations(config, llama.head_dim(config), local=config.number("rope_theta"))
    layers = [olmo2.over_all(olmo2.layer(config, rotation[kind], windows[kind])) for kind in types]
    return llama.decoder(config, task, layers, llama.rms(config))
