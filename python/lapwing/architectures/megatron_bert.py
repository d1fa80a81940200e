"""Megatron-BERT: BERT with norms before the blocks and one at the end.

Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Dense, Model
from . import _encoder, bert
from ._common import activation
from ._encoder import adjust as adjust
from ._encoder import layer_norm, pre_norm
from ._names import Renamed

NAMES = {
    **{ours: theirs for ours, theirs in bert.NAMES.items() if not ours.endswith("norm")},
    "encoder.layers.{i}.attention.input_norm": "encoder.layer.{i}.attention.ln",
    "encoder.layers.{i}.feed_forward.input_norm": "encoder.layer.{i}.ln",
    "encoder.norm": "encoder.ln",
}
DEFAULTS = {
    **bert.DEFAULTS,
    "vocab_size": 29056,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


def spec(config: Config, task: str) -> Model:
    bert.absolute(config)
    layer = pre_norm(bert.layer(config), layer_norm(config))
    stack = bert.encoder(config, layer, positions=config.size("max_position_embeddings"))
    stack = replace(stack, stem=replace(stack.stem, norm=None), final_norm=layer_norm(config))
    pooler = Dense(outputs=stack.hidden_size, activation="tanh")
    act = activation(config, "hidden_act")
    transform = Dense(outputs=stack.hidden_size, activation=act, norm=layer_norm(config))
    return _encoder.model(config, task, stack, pooler=pooler, sequence=(pooler,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return _encoder.tensors(
        checkpoint, task, NAMES, bert.heads(checkpoint), prefixes=("bert.",), ignore=[bert.NEXT_SENTENCE]
    )
