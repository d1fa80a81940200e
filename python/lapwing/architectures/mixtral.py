"""Mixtral: Mistral with experts in place of the feed-forward network.

Jiang et al. 2024, https://arxiv.org/abs/2401.04088
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import llama, mistral
from ._experts import PLACE, STACKED, cut_experts, with_experts
from ._names import Renamed

DEFAULTS = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
}
_MOE = "layers.{i}.block_sparse_moe."
NAMES = {
    **llama.NAMES,
    **STACKED,
    PLACE + "router": _MOE + "gate",
    PLACE + "{e}.gate": _MOE + "experts.{e}.w1",
    PLACE + "{e}.up": _MOE + "experts.{e}.w3",
    PLACE + "{e}.down": _MOE + "experts.{e}.w2",
}
_ROUTER = "layers.{i}.mlp.gate"
"""The router beside stacked experts."""


def spec(config: Config, task: str) -> Model:
    model = mistral.spec(config, task)
    assert model.decoder is not None
    width = config.size("intermediate_size")
    layers = tuple(with_experts(config, one, width=width, renormalize=True) for one in model.decoder.layers)
    return replace(model, decoder=replace(model.decoder, layers=layers))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    stacked = not any(".block_sparse_moe." in name for name in checkpoint)
    out = llama.tensors(config, checkpoint, task, names={**NAMES, PLACE + "router": _ROUTER} if stacked else NAMES)
    cut_experts(config, out, config.size("num_hidden_layers"))
    return out
