"""Nemotron: Arcee with layer norms stored as their difference from one, and rotation of half of each head.

Parmar et al. 2024, https://arxiv.org/abs/2402.16819
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model, Norm
from . import arcee, llama
from ._names import Renamed, plus_one
from ._rope import rotary

DEFAULTS = {"hidden_act": "relu2", "max_position_embeddings": 4096, "partial_rotary_factor": 0.5}


def spec(config: Config, task: str) -> Model:
    norm = Norm(kind="layer", eps=config.number("norm_eps", default=1e-5), bias=True)
    rotation = rotary(config, llama.head_dim(config), round_up=True)
    return arcee.build(config, task, norm, rotation=rotation)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task)
    plus_one(out)
    return out
