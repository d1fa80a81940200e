"""DistilBERT: BERT without segments and pooler, half as deep.

Sanh et al. 2019, https://arxiv.org/abs/1910.01108
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Dense, FeedForward, Model, Norm, Stack, TokenStem
from . import _encoder
from ._common import activation, layer
from ._encoder import attention
from ._names import Renamed

_LAYER = "transformer.layer.{i}."
NAMES = {
    "encoder.embedding.token": "embeddings.word_embeddings",
    "encoder.embedding.position": "embeddings.position_embeddings",
    "encoder.embedding.norm": "embeddings.LayerNorm",
    "encoder.layers.{i}.attention.query": _LAYER + "attention.q_lin",
    "encoder.layers.{i}.attention.key": _LAYER + "attention.k_lin",
    "encoder.layers.{i}.attention.value": _LAYER + "attention.v_lin",
    "encoder.layers.{i}.attention.output": _LAYER + "attention.out_lin",
    "encoder.layers.{i}.attention.residual_norm": _LAYER + "sa_layer_norm",
    "encoder.layers.{i}.feed_forward.up": _LAYER + "ffn.lin1",
    "encoder.layers.{i}.feed_forward.down": _LAYER + "ffn.lin2",
    "encoder.layers.{i}.feed_forward.residual_norm": _LAYER + "output_layer_norm",
}
HEADS = {
    "sequence-classification": {"head.0": "pre_classifier", "head.1": "classifier"},
    "token-classification": {"head.0": "classifier"},
    "question-answering": {"head.0": "qa_outputs"},
    "fill-mask": {
        "language_head.transform.0": "vocab_transform",
        "language_head.transform.0.norm": "vocab_layer_norm",
        "language_head.weight": "vocab_projector.weight",
        "language_head.bias": "vocab_projector.bias",
    },
}


def spec(config: Config, task: str) -> Model:
    hidden = config.size("dim", "hidden_size", default=768)
    heads = config.size("n_heads", "num_attention_heads", default=12)
    positions = config.size("max_position_embeddings", default=512)
    act = activation(config, "activation", default="gelu")
    norm = Norm(kind="layer", eps=1e-12, bias=True)
    feed_forward = FeedForward(
        width=config.size("hidden_dim", default=3072), activation=act, up_bias=True, down_bias=True
    )
    one = layer(attention(config, hidden, heads), feed_forward, residual_norm=norm)
    stack = Stack(
        hidden_size=hidden,
        stem=TokenStem(vocab_size=config.size("vocab_size", default=30522), positions=positions, norm=norm),
        layers=(one,) * config.size("n_layers", "num_hidden_layers", default=6),
        max_length=positions,
    )
    before = Dense(outputs=hidden, activation="relu")
    transform = Dense(outputs=hidden, activation=act, norm=norm)
    return _encoder.model(config, task, stack, sequence=(before,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return _encoder.tensors(checkpoint, task, NAMES, HEADS, prefixes=("distilbert.",))
