"""Qwen 3: Qwen 2 with a norm on each head's queries and keys, and biases only on request.

Yang et al. 2025, https://arxiv.org/abs/2505.09388
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import llama, qwen2
from .llama import tensors as tensors

DEFAULTS = {**qwen2.DEFAULTS, "head_dim": 128}


def spec(config: Config, task: str) -> Model:
    return qwen2.build(config, task, bias=(config.flag("attention_bias"),) * 4, head_norm=llama.rms(config))
