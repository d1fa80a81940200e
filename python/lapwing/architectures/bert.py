"""BERT: post-norm encoder with learned positions and segments, and its task heads.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Attention, Dense, FeedForward, Head, LanguageHead, Layer, Model, Norm, Stack
from ._common import activation, classifier, question_answering
from ._names import Renamed, rename, tie

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
    "pooler.0": "pooler.dense",
}
_LANGUAGE_HEAD = {
    "language_head.transform.0": "cls.predictions.transform.dense",
    "language_head.transform.0.norm": "cls.predictions.transform.LayerNorm",
    "language_head.weight": "cls.predictions.decoder.weight",
    "language_head.bias": "cls.predictions.bias",
}
IGNORE = (r".*position_ids", r"cls\.predictions\.decoder\.bias", r"cls\.seq_relationship\..*")


def norm(config: Config) -> Norm:
    """The layer norm of the family."""
    return Norm(kind="layer", eps=config.number("layer_norm_eps", default=1e-12), bias=True)


def layer(config: Config) -> Layer:
    """A layer of the family, with biases everywhere."""
    hidden, heads = config.size("hidden_size", default=768), config.size("num_attention_heads", default=12)
    if hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size, {hidden}")
    return Layer(
        attention=Attention(
            residual_norm=norm(config),
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            scale=(hidden // heads) ** -0.5,
            query_bias=True,
            key_bias=True,
            value_bias=True,
            output_bias=True,
        ),
        feed_forward=FeedForward(
            residual_norm=norm(config),
            width=config.size("intermediate_size", default=3072),
            activation=activation(config, "hidden_act", default="gelu"),
            up_bias=True,
            down_bias=True,
        ),
    )


def encoder(config: Config, *, positions: int, segments: int) -> Stack:
    """The stack of the family."""
    return Stack(
        vocab_size=config.size("vocab_size", default=30522),
        hidden_size=config.size("hidden_size", default=768),
        max_length=positions,
        positions=positions,
        segments=segments,
        embedding_norm=norm(config),
        layers=(layer(config),) * config.size("num_hidden_layers", default=12),
    )


def spec(config: Config, task: str) -> Model:
    hidden = config.size("hidden_size", default=768)
    kind = config.word("position_embedding_type", default="absolute")
    if kind != "absolute":
        raise config.wrong("position_embedding_type", '"absolute"')
    positions = config.size("max_position_embeddings", default=512)
    stack = encoder(config, positions=positions, segments=config.size("type_vocab_size", default=2))
    pooled = Dense(outputs=hidden, activation="tanh")
    pooler = Head(pool="first", layers=(pooled,)) if task == "features" else None
    head = language_head = None
    if task == "sequence-classification":
        head = classifier(config, "first", pooled)
    elif task == "token-classification":
        head = classifier(config, "none")
    elif task == "question-answering":
        head = question_answering()
    elif task == "fill-mask":
        act = activation(config, "hidden_act", default="gelu")
        transform = Dense(outputs=hidden, activation=act, norm=norm(config))
        language_head = LanguageHead(vocab_size=stack.vocab_size, bias=True, transform=(transform,))
    return Model(encoder=stack, pooler=pooler, head=head, language_head=language_head)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    names = dict(NAMES)
    ignore = list(IGNORE)
    if task == "sequence-classification":
        # The classifier reads the pooled output: both are layers of the head.
        del names["pooler.0"]
        names |= {"head.0": "pooler.dense", "head.1": "classifier"}
    elif task in ("token-classification", "question-answering"):
        del names["pooler.0"]
        ignore.append(r"pooler\..*")
        names["head.0"] = "classifier" if task == "token-classification" else "qa_outputs"
    if task == "fill-mask":
        names |= _LANGUAGE_HEAD
        del names["pooler.0"]
        ignore.append(r"pooler\..*")
    else:
        ignore.append(r"cls\..*")
    out = rename(checkpoint, names, ignore=ignore, prefixes=("bert.",))
    if task == "fill-mask":
        tie(out, "language_head.weight", "encoder.embedding.token.weight")
    return out


def adjust(model: Model, out: Mapping[str, Tensor]) -> Model:
    """Drops the pooler from the description where the checkpoint has none (`add_pooling_layer=False`)."""
    from dataclasses import replace

    return replace(model, pooler=None) if model.pooler and "pooler.0.weight" not in out else model
