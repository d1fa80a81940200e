"""GLM 4 of 2024: Llama with rotation of neighbours in half of each head, and gate and up in one matrix.

Team GLM 2024, https://arxiv.org/abs/2406.12793
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Layer, Model
from . import llama, phi3
from ._names import Names, Renamed
from ._rope import rotary

DEFAULTS = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7,
    "partial_rotary_factor": 0.5,
    "attention_bias": True,
}


def layer(config: Config) -> Layer:
    """A layer of the family."""
    bias = config.flag("attention_bias")
    rotation = rotary(config, llama.head_dim(config), interleaved=True, round_up=True)
    return llama.layer(config, rotation, llama.rms(config), bias=(bias, bias, bias, False))


def spec(config: Config, task: str) -> Model:
    return llama.decoder(config, task, [layer(config)] * config.size("num_hidden_layers"), llama.rms(config))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str, *, names: Names = phi3.NAMES) -> Renamed:
    out = llama.tensors(config, checkpoint, task, names=names)
    phi3.cut_gate(config, out)
    return out
