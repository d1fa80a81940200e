"""ERNIE 4.5: Llama with rotation of neighbours, and biases everywhere if any.

https://huggingface.co/baidu/ERNIE-4.5-0.3B-PT
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama
from ._rope import rotary
from .llama import tensors as tensors

DEFAULTS = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "tie_word_embeddings": True,
}


def spec(config: Config, task: str) -> Model:
    norm, bias = llama.rms(config), config.flag("use_bias")
    rotation = rotary(config, llama.head_dim(config), interleaved=True)
    layer = llama.layer(config, rotation, norm, bias=(bias,) * 4, mlp_bias=bias)
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)
