"""RoFormer: BERT with rotary positions.

Su et al. 2021, https://arxiv.org/abs/2104.09864
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Dense, Model, Rotary
from . import _encoder, bert, electra
from ._common import activation, edit
from ._encoder import layer_norm
from ._names import Renamed

HEADS = {
    **{task: names for task, names in electra.HEADS.items() if task != "discriminator"},
    "fill-mask": bert.HEADS["fill-mask"],
}

DEFAULTS = {**bert.DEFAULTS, "vocab_size": 50000, "max_position_embeddings": 1536}


def spec(config: Config, task: str) -> Model:
    if config.flag("rotary_value"):
        raise config.wrong("rotary_value", "false")
    layer = bert.layer(config)
    half = bert.head_dim(config) // 2
    rotation = Rotary(inv_freq=tuple(10000 ** (-j / half) for j in range(half)), interleaved=True)
    layer = edit(layer, "attention", rotary=rotation)
    positions = config.size("max_position_embeddings")
    stack = bert.encoder(config, layer, positions=positions, placed=False)
    width = config.size("embedding_size", default=stack.hidden_size)
    if width != stack.hidden_size:
        stack = replace(stack, stem=replace(stack.stem, embedding_size=width, projection_bias=True))
    act = activation(config, "hidden_act")
    dense = Dense(outputs=stack.hidden_size, activation=act)
    transform = Dense(outputs=width, activation=act, norm=layer_norm(config))
    return _encoder.model(config, task, stack, sequence=(dense,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    ignore = [r"encoder\.embed_positions\.weight"]
    return _encoder.tensors(checkpoint, task, electra.NAMES, HEADS, prefixes=("roformer.",), ignore=ignore)
