"""Ministral 3: Mistral with YaRN, and queries that grow with their position.

https://huggingface.co/mistralai/Ministral-3-3B-Instruct-2512
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checkpoint import Config
from ..spec import Model, QueryScale
from . import mistral
from ._common import edit
from ._rope import parameters
from .llama import tensors as tensors

DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5}
ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""The rotation of a configuration that names none."""


def spec(config: Config, task: str) -> Model:
    if not config.get("rope_scaling") and config.get("rope_parameters") is None:
        config = config.with_values(rope_parameters=ROPE)
    model = mistral.spec(config, task)
    rope = parameters(config)
    beta = rope.optional_number("llama_4_scaling_beta")
    if not beta or model.decoder is None:
        return model
    original = rope.size("original_max_position_embeddings", maximum=1 << 30)
    scale = QueryScale(beta=beta, original_length=original)
    layers = tuple(edit(one, "attention", query_scale=scale) for one in model.decoder.layers)
    return replace(model, decoder=replace(model.decoder, layers=layers))
