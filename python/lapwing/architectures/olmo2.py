"""OLMo 2: Llama with norms after the blocks, and over all queries and all keys of a token.

OLMo Team 2025, https://arxiv.org/abs/2501.00656
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Layer, Model, Rotary
from . import llama
from ._common import edit, edit_blocks
from ._names import Renamed
from ._rope import rotary

DEFAULTS = {"rms_norm_eps": 1e-5}
NAMES = {
    **{ours: theirs for ours, theirs in llama.NAMES.items() if not ours.endswith("input_norm")},
    "decoder.layers.{i}.attention.output_norm": "layers.{i}.post_attention_layernorm",
    "decoder.layers.{i}.feed_forward.output_norm": "layers.{i}.post_feedforward_layernorm",
}


def layer(config: Config, rotation: Rotary | None, window: int | None = None) -> Layer:
    """A layer with norms after its blocks, and on each head's queries and keys."""
    norm, bias = llama.rms(config), config.flag("attention_bias")
    one = llama.layer(config, rotation, None, bias=(bias,) * 4, window=window, head_norm=norm)
    return edit_blocks(one, output_norm=norm)


def over_all(one: Layer) -> Layer:
    """The layer with norms over all heads of a token together."""
    return edit(one, "attention", norm_over="all")


def spec(config: Config, task: str) -> Model:
    one = over_all(layer(config, rotary(config, llama.head_dim(config))))
    return llama.decoder(config, task, [one] * config.size("num_hidden_layers"), llama.rms(config))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return llama.tensors(config, checkpoint, task, names=NAMES)
