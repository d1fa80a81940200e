"""EXAONE 4: OLMo 2 with norms on each head; layers that see everything have no positions where others have a window.

LG AI Research 2025, https://arxiv.org/abs/2507.11407
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama, olmo2
from ._rope import rotary
from .olmo2 import tensors as tensors

DEFAULTS = {**olmo2.DEFAULTS, "num_key_value_heads": 32, "sliding_window": 4096, "sliding_window_pattern": 4}


def _types(config: Config) -> list[str]:
    """Types of layers where the configuration does not list them."""
    pattern, layers = config.get("sliding_window_pattern"), config.size("num_hidden_layers")
    if config.get("sliding_window") is None:
        return [llama.FULL] * layers
    if isinstance(pattern, str):
        if not pattern or set(pattern) - {"L", "G"}:
            raise config.wrong("sliding_window_pattern", "a number, or letters L and G")
        return [llama.FULL if pattern[i % len(pattern)] == "G" else llama.SLIDING for i in range(layers)]
    return llama.every(config, config.size("sliding_window_pattern"))


def spec(config: Config, task: str) -> Model:
    config = config.with_values(attention_bias=False)
    types = llama.layer_types(config, config.size("num_hidden_layers"), _types(config))
    windows = llama.windows(config, types)
    rotation = rotary(config, llama.head_dim(config))
    plain = windows[llama.SLIDING] is None
    layers = [
        olmo2.layer(config, rotation if plain or kind == llama.SLIDING else None, windows[kind]) for kind in types
    ]
    return llama.decoder(config, task, layers, llama.rms(config))
