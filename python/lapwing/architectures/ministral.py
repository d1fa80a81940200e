"""Ministral: Mistral where ``layer_types`` says which layers have the window.

https://huggingface.co/mistralai/Ministral-8B-Instruct-2410
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama, mistral
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = mistral.DEFAULTS


def spec(config: Config, task: str) -> Model:
    norm, rotation = llama.rms(config), rotary(config, llama.head_dim(config))
    count = config.size("num_hidden_layers")
    default = llama.FULL if config.get("sliding_window") is None else llama.SLIDING
    types = llama.layer_types(config, count, [default] * count)
    windows = llama.windows(config, types)
    layers = [llama.layer(config, rotation, norm, window=windows[kind]) for kind in types]
    return llama.decoder(config, task, layers, norm)
