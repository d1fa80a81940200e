"""ELECTRA: BERT with a narrow embedding; a discriminator that finds replaced tokens, and its generator.

Clark et al. 2020, https://arxiv.org/abs/2003.10555
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Dense, Model
from . import _encoder, bert
from ._common import activation, classifier
from ._encoder import layer_norm
from ._names import Renamed

NAMES = {**bert.NAMES, "encoder.embedding.projection": "embeddings_project"}
HEADS = {
    "sequence-classification": {"head.0": "classifier.dense", "head.1": "classifier.out_proj"},
    "token-classification": {"head.0": "classifier"},
    "question-answering": {"head.0": "qa_outputs"},
    "fill-mask": {
        "language_head.transform.0": "generator_predictions.dense",
        "language_head.transform.0.norm": "generator_predictions.LayerNorm",
        "language_head.weight": "generator_lm_head.weight",
        "language_head.bias": "generator_lm_head.bias",
    },
    "discriminator": {
        "head.0": "discriminator_predictions.dense",
        "head.1": "discriminator_predictions.dense_prediction",
    },
}
DEFAULTS = {
    **bert.DEFAULTS,
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}


def _task(config: Config, task: str) -> str:
    """The class for pre-training is the discriminator: it scores each token, and fills no masks."""
    return "discriminator" if task == "fill-mask" and "ElectraForPreTraining" in config.words("architectures") else task


def spec(config: Config, task: str) -> Model:
    bert.absolute(config)
    stack = bert.encoder(config, bert.layer(config), positions=config.size("max_position_embeddings"))
    width = config.size("embedding_size")
    if width != stack.hidden_size:
        stack = replace(stack, stem=replace(stack.stem, embedding_size=width, projection_bias=True))
    dense = Dense(outputs=stack.hidden_size, activation="gelu")
    if _task(config, task) == "discriminator":
        act = activation(config, "hidden_act")
        head = classifier(config, "none", replace(dense, activation=act), outputs=1)
        return Model(encoder=stack, head=head)
    transform = Dense(outputs=width, activation="gelu", norm=layer_norm(config))
    return _encoder.model(config, task, stack, sequence=(dense,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return _encoder.tensors(checkpoint, _task(config, task), NAMES, HEADS, prefixes=("electra.",))
