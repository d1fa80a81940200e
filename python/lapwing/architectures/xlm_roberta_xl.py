"""XLM-RoBERTa-XL: RoBERTa with norms before the blocks and one at the end.

Goyal et al. 2021, https://arxiv.org/abs/2105.00572
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _encoder, bert, roberta
from ._encoder import adjust as adjust
from ._encoder import layer_norm, pre_norm
from ._names import Renamed

NAMES = {
    **{ours: theirs for ours, theirs in bert.NAMES.items() if not ours.endswith("norm")},
    "encoder.layers.{i}.attention.input_norm": "encoder.layer.{i}.attention.self_attn_layer_norm",
    "encoder.layers.{i}.feed_forward.input_norm": "encoder.layer.{i}.LayerNorm",
    "encoder.norm": "encoder.LayerNorm",
}
DEFAULTS = {
    **bert.DEFAULTS,
    "vocab_size": 250880,
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "intermediate_size": 10240,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


def spec(config: Config, task: str) -> Model:
    norm = layer_norm(config)
    layer = pre_norm(bert.layer(config), norm)
    first = roberta.first_position(config)
    stack = bert.encoder(config, layer, positions=config.size("max_position_embeddings") - first, padding=first - 1)
    return roberta.heads(config, task, replace(stack, stem=replace(stack.stem, norm=None), final_norm=norm))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = _encoder.tensors(checkpoint, task, NAMES, roberta.HEADS, prefixes=("roberta.",))
    _encoder.shift(out, roberta.first_position(config))
    return out
