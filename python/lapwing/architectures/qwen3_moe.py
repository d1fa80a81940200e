"""Qwen3 MoE: Qwen3 with experts in place of the feed-forward network, in some layers or all.

Qwen Team 2025, https://arxiv.org/abs/2505.09388
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import llama
from ._experts import PLACE, STACKED, cut_experts, with_experts
from ._names import Renamed
from ._rope import rotary

DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 8,
    "num_experts": 128,
}
_MLP = "layers.{i}.mlp."
NAMES = {
    **llama.NAMES,
    **STACKED,
    PLACE + "router": _MLP + "gate",
    PLACE + "{e}.gate": _MLP + "experts.{e}.gate_proj",
    PLACE + "{e}.up": _MLP + "experts.{e}.up_proj",
    PLACE + "{e}.down": _MLP + "experts.{e}.down_proj",
}


def _sparse(config: Config, layers: int) -> list[bool]:
    """Which layers have experts."""
    dense, step = config.get("mlp_only_layers") or [], config.size("decoder_sparse_step")
    if not isinstance(dense, list) or any(type(i) is not int for i in dense):
        raise config.wrong("mlp_only_layers", "a list of numbers of layers")
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def spec(config: Config, task: str) -> Model:
    norm, bias = llama.rms(config), config.flag("attention_bias")
    window = config.optional_size("sliding_window", maximum=1 << 30) if config.flag("use_sliding_window") else None
    rotation = rotary(config, llama.head_dim(config))
    dense = llama.layer(config, rotation, norm, bias=(bias,) * 4, window=window, head_norm=norm)
    width, renormalize = config.size("moe_intermediate_size"), config.flag("norm_topk_prob")
    sparse = with_experts(config, dense, width=width, renormalize=renormalize)
    layers = [sparse if each else dense for each in _sparse(config, config.size("num_hidden_layers"))]
    return llama.decoder(config, task, layers, norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task, names=NAMES)
    cut_experts(config, out, config.size("num_hidden_layers"))
    return out
