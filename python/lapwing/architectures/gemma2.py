"""Gemma 2: Gemma with norms on both sides of each block, windows in every other layer and capped scores and logits.

Gemma Team 2024, https://arxiv.org/abs/2408.00118
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Layer, Model, Norm, Rotary
from . import gemma, llama
from ._common import edit, edit_blocks
from ._names import Renamed, plus_one
from ._rope import rotary

DEFAULTS = {
    **gemma.DEFAULTS,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
NAMES = {
    **llama.NAMES,
    "decoder.layers.{i}.attention.output_norm": "layers.{i}.post_attention_layernorm",
    "decoder.layers.{i}.feed_forward.input_norm": "layers.{i}.pre_feedforward_layernorm",
    "decoder.layers.{i}.feed_forward.output_norm": "layers.{i}.post_feedforward_layernorm",
}


def layer(config: Config, rotation: Rotary, window: int | None, head_norm: Norm | None = None) -> Layer:
    """A layer with norms before and after each block."""
    config = config.with_values(hidden_act=config.get("hidden_activation"))
    scalar = config.number("query_pre_attn_scalar")
    if scalar <= 0:
        raise config.wrong("query_pre_attn_scalar", "a number above zero")
    norm, bias = llama.rms(config), config.flag("attention_bias")
    one = llama.layer(config, rotation, norm, bias=(bias,) * 4, window=window, head_norm=head_norm)
    return edit(edit_blocks(one, output_norm=norm), "attention", scale=scalar**-0.5)


def spec(config: Config, task: str) -> Model:
    if config.flag("use_bidirectional_attention"):
        raise config.wrong("use_bidirectional_attention", "false")
    types = llama.layer_types(config, config.size("num_hidden_layers"), llama.every(config, 2))
    windows, rotation = llama.windows(config, types), rotary(config, llama.head_dim(config))
    softcap = config.optional_number("attn_logit_softcapping")
    layers = [layer(config, rotation, windows[kind]) for kind in types]
    return gemma.decoder(config, task, [edit(one, "attention", softcap=softcap) for one in layers])


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task, names=NAMES)
    plus_one(out)
    return out
