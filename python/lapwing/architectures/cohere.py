"""Cohere's Command R: one norm before attention and feed-forward, which run in parallel; rotation of neighbours.

https://docs.cohere.com/docs/command-r
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Layer, Model, Norm, Rotary
from . import llama
from ._common import edit
from ._names import Renamed, share
from ._rope import rotary

DEFAULTS = {"max_position_embeddings": 8192, "rope_theta": 5e5, "logit_scale": 0.0625, "tie_word_embeddings": True}


def layer_norm(config: Config) -> Norm:
    """The family's norm, without bias."""
    return Norm(kind="layer", eps=config.number("layer_norm_eps", default=1e-5))


def layer(config: Config, rotation: Rotary | None, window: int | None = None, head_norm: Norm | None = None) -> Layer:
    """A layer of parallel blocks."""
    bias = config.flag("attention_bias")
    norm = layer_norm(config)
    one = llama.layer(config, rotation, norm, bias=(bias,) * 4, window=window, head_norm=head_norm, parallel=True)
    return edit(one, "attention", norm_over="heads")


def spec(config: Config, task: str) -> Model:
    norm = layer_norm(config)
    rotation = rotary(config, llama.head_dim(config), interleaved=True)
    one = layer(config, rotation, head_norm=norm if config.flag("use_qk_norm") else None)
    return decoder(config, task, [one] * config.size("num_hidden_layers"))


def decoder(config: Config, task: str, layers: list[Layer]) -> Model:
    """A model of these layers, with the family's scale of logits."""
    return llama.decoder(config, task, layers, layer_norm(config), logit_scale=config.number("logit_scale"))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task)
    place = "decoder.layers.{i}."
    layers = config.size("num_hidden_layers")
    share(out, place + "feed_forward.input_norm", place + "attention.input_norm", layers)
    return out
