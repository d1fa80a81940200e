"""GPT BigCode (SantaCoder, StarCoder): GPT-2 with one head of keys and values, and weights that are not transposed.

Li et al. 2023, https://arxiv.org/abs/2305.06161
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _gpt, gpt2
from ._gpt import LAYER, QKV
from ._names import Renamed, cut_heads

DEFAULTS = {**gpt2.DEFAULTS, "activation_function": "gelu_pytorch_tanh", "multi_query": True}


def spec(config: Config, task: str) -> Model:
    config = gpt2.with_llama_keys(config)
    config = config.with_values(num_key_value_heads=1 if config.flag("multi_query") else None)
    norm, dim = _gpt.layer_norm(config), config["hidden_size"] // config["num_attention_heads"]
    scale = dim**-0.5 if config.flag("scale_attn_weights", default=True) else 1.0
    return _gpt.decoder(config, task, _gpt.layer(config, norm, scale=scale), norm, placed=True)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = gpt2.with_llama_keys(config)
    out = _gpt.tensors(config, checkpoint, task, gpt2.NAMES)
    heads, many = config.size("num_attention_heads"), config.flag("multi_query")
    parts = dict(zip((f"{LAYER}attention.{part}" for part in QKV), (heads if many else 1, 1, 1), strict=True))
    cut_heads(out, LAYER + "attention.fused", parts, 1 if many else heads, config.size("num_hidden_layers"))
    return out
