"""BERT: post-norm encoder with learned positions and segments, and its task heads.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Dense, FeedForward, Layer, Model, Stack, TokenStem
from . import _common, _encoder
from ._common import activation
from ._encoder import adjust as adjust
from ._encoder import attention, layer_norm
from ._names import Renamed

_LAYER = "encoder.layer.{i}."
NAMES = {
    "encoder.embedding.token": "embeddings.word_embeddings",
    "encoder.embedding.position": "embeddings.position_embeddings",
    "encoder.embedding.segment": "embeddings.token_type_embeddings",
    "encoder.embedding.norm": "embeddings.LayerNorm",
    "encoder.layers.{i}.attention.query": _LAYER + "attention.self.query",
    "encoder.layers.{i}.attention.key": _LAYER + "attention.self.key",
    "encoder.layers.{i}.attention.value": _LAYER + "attention.self.value",
    "encoder.layers.{i}.attention.output": _LAYER + "attention.output.dense",
    "encoder.layers.{i}.attention.residual_norm": _LAYER + "attention.output.LayerNorm",
    "encoder.layers.{i}.feed_forward.up": _LAYER + "intermediate.dense",
    "encoder.layers.{i}.feed_forward.down": _LAYER + "output.dense",
    "encoder.layers.{i}.feed_forward.residual_norm": _LAYER + "output.LayerNorm",
}
HEADS = {
    "features": {"pooler.0": "pooler.dense"},
    # The classifier reads the pooled output: both are layers of the head.
    "sequence-classification": {"head.0": "pooler.dense", "head.1": "classifier"},
    "token-classification": {"head.0": "classifier"},
    "question-answering": {"head.0": "qa_outputs"},
    "fill-mask": {
        "language_head.transform.0": "cls.predictions.transform.dense",
        "language_head.transform.0.norm": "cls.predictions.transform.LayerNorm",
        "language_head.weight": "cls.predictions.decoder.weight",
        "language_head.bias": "cls.predictions.bias",
    },
}
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "position_embedding_type": "absolute",
}
NEXT_SENTENCE = r"cls\.seq_relationship\..*"


def heads(checkpoint: Mapping[str, Tensor]) -> _encoder.Heads:
    """The heads of a checkpoint: without a classifier of its own, its pretraining on pairs of texts is one.

    Its two labels are whether the second text follows the first one, and whether it does not.
    """
    if (
        not any(name.endswith("cls.seq_relationship.weight") for name in checkpoint)
        or "classifier.weight" in checkpoint
    ):
        return HEADS
    return {**HEADS, "sequence-classification": {"head.0": "pooler.dense", "head.1": "cls.seq_relationship"}}


def head_dim(config: Config) -> int:
    """Dimensions of a head."""
    return config.size("hidden_size") // config.size("num_attention_heads")


def layer(config: Config) -> Layer:
    """A layer of the family, with biases everywhere."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    feed_forward = FeedForward(
        width=config.size("intermediate_size"),
        activation=activation(config, "hidden_act"),
        up_bias=True,
        down_bias=True,
    )
    return _common.layer(attention(config, hidden, heads), feed_forward, residual_norm=layer_norm(config))


def encoder(config: Config, layer: Layer, *, positions: int, placed: bool = True, padding: int | None = None) -> Stack:
    """The stack of the family, of up to ``positions`` tokens; ``placed`` is whether there is a table of positions,
    ``padding`` the id of tokens that take up no position."""
    return Stack(
        hidden_size=config.size("hidden_size"),
        stem=TokenStem(
            vocab_size=config.size("vocab_size"),
            positions=positions if placed else 0,
            segments=config.size("type_vocab_size", minimum=0),
            norm=layer_norm(config),
            padding=padding,
        ),
        layers=(layer,) * config.size("num_hidden_layers"),
        max_length=positions,
    )


def absolute(config: Config) -> None:
    """Refuses the relative positions of old configurations."""
    if config.word("position_embedding_type") != "absolute":
        raise config.wrong("position_embedding_type", '"absolute"')


def spec(config: Config, task: str) -> Model:
    absolute(config)
    stack = encoder(config, layer(config), positions=config.size("max_position_embeddings"))
    pooler = Dense(outputs=stack.hidden_size, activation="tanh")
    act = activation(config, "hidden_act")
    transform = Dense(outputs=stack.hidden_size, activation=act, norm=layer_norm(config))
    return _encoder.model(config, task, stack, pooler=pooler, sequence=(pooler,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return _encoder.tensors(checkpoint, task, NAMES, heads(checkpoint), prefixes=("bert.",), ignore=[NEXT_SENTENCE])
