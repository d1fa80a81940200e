"""ALBERT: BERT with a narrow embedding and few layers that are run many times.

Lan et al. 2019, https://arxiv.org/abs/1909.11942
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Dense, Model
from . import _encoder, bert
from ._common import activation
from ._encoder import adjust as adjust
from ._encoder import layer_norm
from ._names import Renamed

_LAYER = "encoder.layers.{i}."
BODY = {
    **{ours: theirs for ours, theirs in bert.NAMES.items() if "{i}" not in ours},
    "encoder.embedding.projection": "encoder.embedding_hidden_mapping_in",
}
LAYER = {
    _LAYER + "attention.query": "attention.query",
    _LAYER + "attention.key": "attention.key",
    _LAYER + "attention.value": "attention.value",
    _LAYER + "attention.output": "attention.dense",
    _LAYER + "attention.residual_norm": "attention.LayerNorm",
    _LAYER + "feed_forward.up": "ffn",
    _LAYER + "feed_forward.down": "ffn_output",
    _LAYER + "feed_forward.residual_norm": "full_layer_layer_norm",
}
HEADS = {
    "features": {"pooler.0": "pooler"},
    "sequence-classification": {"head.0": "pooler", "head.1": "classifier"},
    "token-classification": {"head.0": "classifier"},
    "question-answering": {"head.0": "qa_outputs"},
    "fill-mask": {
        "language_head.transform.0": "predictions.dense",
        "language_head.transform.0.norm": "predictions.LayerNorm",
        "language_head.weight": "predictions.decoder.weight",
        "language_head.bias": "predictions.bias",
    },
}
DEFAULTS = {
    **bert.DEFAULTS,
    "embedding_size": 128,
    "inner_group_num": 1,
    "num_hidden_groups": 1,
    "vocab_size": 30000,
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "intermediate_size": 16384,
    "hidden_act": "gelu_new",
}


def _inner(config: Config) -> int:
    return config.size("inner_group_num", maximum=64)


def spec(config: Config, task: str) -> Model:
    bert.absolute(config)
    stack = bert.encoder(config, bert.layer(config), positions=config.size("max_position_embeddings"))
    width = config.size("embedding_size")
    stem = replace(stack.stem, embedding_size=width, projection_bias=True)
    stack = replace(stack, stem=stem, layers=stack.layers * _inner(config))
    pooler = Dense(outputs=stack.hidden_size, activation="tanh")
    transform = Dense(outputs=width, activation=activation(config, "hidden_act"), norm=layer_norm(config))
    return _encoder.model(config, task, stack, pooler=pooler, sequence=(pooler,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    names = dict(BODY)
    layers, inner = config.size("num_hidden_layers"), _inner(config)
    groups = config.size("num_hidden_groups", maximum=layers)
    for group in range(groups):
        for part in range(inner):
            place = f"encoder.albert_layer_groups.{group}.albert_layers.{part}."
            names |= {ours.replace("{i}", f"{group}:{part}"): place + theirs for ours, theirs in LAYER.items()}
    ignore = [r"sop_classifier\..*", r"albert\.sop_classifier\..*"]
    found = _encoder.tensors(checkpoint, task, names, HEADS, prefixes=("albert.",), ignore=ignore)
    out = Renamed()
    out.unused = found.unused
    shared: dict[str, list[tuple[str, Tensor]]] = {}
    for name, tensor in found.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+:\d+)\.(.*)", name):
            shared.setdefault(match[1], []).append((match[2], tensor))
        else:
            out[name] = tensor
    for i in range(layers):
        for part in range(inner):
            for rest, tensor in shared.get(f"{int(i / (layers / groups))}:{part}", []):
                out[f"encoder.layers.{i * inner + part}.{rest}"] = tensor
    return out
