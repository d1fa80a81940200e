"""SmolLM 3: Llama without positions in every fourth layer.

https://huggingface.co/blog/smollm3
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 2e6,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}


def _rotated(config: Config, layers: int) -> list[bool]:
    """Which layers have positions: 1 in ``no_rope_layers`` means that they do."""
    listed = config.get("no_rope_layers")
    if listed is None:
        interval = config.size("no_rope_layer_interval")
        return [(i + 1) % interval != 0 for i in range(layers)]
    if not isinstance(listed, list) or len(listed) < layers or any(value not in (0, 1) for value in listed):
        raise config.wrong("no_rope_layers", f"{layers} of 0 and 1")
    return [bool(value) for value in listed[:layers]]


def spec(config: Config, task: str) -> Model:
    norm, count = llama.rms(config), config.size("num_hidden_layers")
    rotated, rotation = _rotated(config, count), rotary(config, llama.head_dim(config))
    slides = config.flag("use_sliding_window") and config.get("sliding_window") is not None
    default = [llama.SLIDING if slides and not turns else llama.FULL for turns in rotated]
    types = llama.layer_types(config, count, default)
    windows = llama.windows(config, types)
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    layers = [
        llama.layer(
            config, rotation if turns else None, norm, bias=(bias,) * 4, mlp_bias=mlp_bias, window=windows[kind]
        )
        for turns, kind in zip(rotated, types, strict=True)
    ]
    return llama.decoder(config, task, layers, norm)
