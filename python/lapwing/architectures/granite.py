"""Granite: Llama with multipliers on embeddings, scores, residuals and logits.

IBM 2024, https://github.com/ibm-granite/granite-3.0-language-models
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama
from ._common import edit, edit_blocks
from ._rope import rotary
from .llama import tensors as tensors


def spec(config: Config, task: str) -> Model:
    norm = llama.rms(config)
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    layer = llama.layer(config, rotary(config, llama.head_dim(config)), norm, bias=(bias,) * 4, mlp_bias=mlp_bias)
    residual = config.number("residual_multiplier", default=1.0)
    scale = config.number("attention_multiplier", default=1.0)
    divisor = config.number("logits_scaling", default=1.0)
    if divisor == 0:
        raise config.wrong("logits_scaling", "a number other than zero")
    layer = edit(edit_blocks(layer, residual_scale=residual), "attention", scale=scale)
    return llama.decoder(
        config,
        task,
        [layer] * config.size("num_hidden_layers"),
        norm,
        embedding_scale=config.number("embedding_multiplier", default=1.0),
        logit_scale=1 / divisor,
    )
