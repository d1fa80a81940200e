"""Qwen 2 and 2.5: Llama with biases on query, key and value; upper layers may see a window.

Yang et al. 2024, https://arxiv.org/abs/2407.10671
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model, Norm
from . import llama
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096}


def windows(config: Config) -> list[int | None]:
    """The window of each layer."""
    layers = config.size("num_hidden_layers")
    first = config.size("max_window_layers", default=28, minimum=0)
    used = config.flag("use_sliding_window") and config.get("sliding_window") is not None
    default = ["sliding_attention" if used and i >= first else "full_attention" for i in range(layers)]
    window = config.optional_size("sliding_window", maximum=1 << 30) if used else None
    return [window if t == "sliding_attention" else None for t in llama.layer_types(config, layers, default)]


def build(config: Config, task: str, *, bias: tuple[bool, bool, bool, bool], head_norm: Norm | None) -> Model:
    norm = llama.rms(config)
    rotation = rotary(config, llama.head_dim(config))
    layers = [
        llama.layer(config, rotation, norm, bias=bias, window=window, head_norm=head_norm) for window in windows(config)
    ]
    return llama.decoder(config, task, layers, norm)


def spec(config: Config, task: str) -> Model:
    return build(config, task, bias=(True, True, True, False), head_norm=None)
