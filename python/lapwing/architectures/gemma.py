"""Gemma: Llama with scaled embeddings, norms stored as their difference from one, and GELU.

Gemma Team 2024, https://arxiv.org/abs/2403.08295
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..checkpoint import Config, Tensor
from ..spec import Layer, Model
from . import llama
from ._names import Renamed, plus_one
from ._rope import rotary

DEFAULTS = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def decoder(config: Config, task: str, layers: Sequence[Layer]) -> Model:
    """A model of these layers, with the family's embedding."""
    return llama.decoder(
        config,
        task,
        layers,
        llama.rms(config),
        embedding_scale=config.size("hidden_size") ** 0.5,
        logit_softcap=config.optional_number("final_logit_softcapping"),
    )


def spec(config: Config, task: str) -> Model:
    if config.flag("use_bidirectional_attention"):
        raise config.wrong("use_bidirectional_attention", "false")
    if config.get("hidden_act") == "gelu":
        # The first checkpoints state it, but were trained with the approximation.
        config = config.with_values(hidden_act="gelu_pytorch_tanh")
    norm, bias = llama.rms(config), config.flag("attention_bias")
    layer = llama.layer(config, rotary(config, llama.head_dim(config)), norm, bias=(bias,) * 4)
    return decoder(config, task, [layer] * config.size("num_hidden_layers"))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task)
    plus_one(out)
    return out
