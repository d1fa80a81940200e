"""RoBERTa: BERT with positions counted from the padding id, and heads of its own.

Liu et al. 2019, https://arxiv.org/abs/1907.11692
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Dense, Model, Stack
from . import _encoder, bert
from ._encoder import adjust as adjust
from ._encoder import layer_norm
from ._names import Renamed

HEADS = {
    **bert.HEADS,
    "sequence-classification": {"head.0": "classifier.dense", "head.1": "classifier.out_proj"},
    "fill-mask": {
        "language_head.transform.0": "lm_head.dense",
        "language_head.transform.0.norm": "lm_head.layer_norm",
        "language_head.weight": "lm_head.decoder.weight",
        "language_head.bias": "lm_head.bias",
    },
}

DEFAULTS = bert.DEFAULTS


def first_position(config: Config) -> int:
    """Row of the position table that the first token uses; the one before it is that of padding, wherever it is."""
    first = config.size("pad_token_id", default=1, minimum=0) + 1
    if config.size("max_position_embeddings") <= first:
        raise config.wrong("max_position_embeddings", f"more than pad_token_id + 1, {first}")
    return first


def heads(config: Config, task: str, stack: Stack) -> Model:
    """The stack with one of the family's heads."""
    pooled = Dense(outputs=stack.hidden_size, activation="tanh")
    transform = Dense(outputs=stack.hidden_size, activation="gelu", norm=layer_norm(config))
    return _encoder.model(config, task, stack, pooler=pooled, sequence=(pooled,), language=(transform,))


def spec(config: Config, task: str) -> Model:
    bert.absolute(config)
    first = first_position(config)
    positions = config.size("max_position_embeddings") - first
    return heads(config, task, bert.encoder(config, bert.layer(config), positions=positions, padding=first - 1))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    prefixes = ("roberta.", "camembert.", "data2vec_text.")
    out = _encoder.tensors(checkpoint, task, bert.NAMES, HEADS, prefixes=prefixes)
    _encoder.shift(out, first_position(config))
    return out
