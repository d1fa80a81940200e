"""OLMo: Llama with norms that have no weights, and clipped queries, keys and values.

Groeneveld et al. 2024, https://arxiv.org/abs/2402.00838
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model, Norm
from . import llama
from ._common import edit
from ._rope import rotary
from .llama import tensors as tensors


def spec(config: Config, task: str) -> Model:
    norm = Norm(kind="layer", eps=1e-5, weight=False)
    clip, bias = config.optional_number("clip_qkv"), config.flag("attention_bias")
    if clip is not None and clip <= 0:
        raise config.wrong("clip_qkv", "a number above zero")
    layer = llama.layer(config, rotary(config, llama.head_dim(config)), norm, bias=(bias,) * 4)
    layer = edit(layer, "attention", clip=clip)
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)
