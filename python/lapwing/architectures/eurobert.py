"""EuroBERT: Llama's layers with attention in both directions.

Boizard et al. 2025, https://arxiv.org/abs/2503.05500
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..checkpoint import Config, Tensor
from ..spec import Dense, Model, Stack, TokenStem
from . import _encoder, llama
from ._common import edit
from ._names import Renamed
from ._rope import rotary

NAMES = {
    ours.replace("decoder.", "encoder."): theirs for ours, theirs in llama.NAMES.items() if ours.startswith("decoder.")
}
HEADS = {
    "sequence-classification": {"head.0": "dense", "head.1": "classifier"},
    "token-classification": {"head.0": "classifier"},
    "question-answering": {"head.0": "qa_outputs"},
    "fill-mask": {"language_head.weight": "lm_head.weight", "language_head.bias": "lm_head.bias"},
}
DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
}
POOLS: dict[str, Literal["first", "mean", "mean_output"]] = {"bos": "first", "mean": "mean", "late": "mean_output"}


def spec(config: Config, task: str) -> Model:
    norm, bias = llama.rms(config), config.flag("attention_bias")
    rotation = rotary(config, llama.head_dim(config))
    layer = llama.layer(config, rotation, norm, bias=(bias,) * 4, mlp_bias=config.flag("mlp_bias"))
    layer = edit(layer, "attention", causal=False)
    stack = Stack(
        hidden_size=config.size("hidden_size"),
        stem=TokenStem(vocab_size=config.size("vocab_size")),
        layers=(layer,) * config.size("num_hidden_layers"),
        max_length=config.size("max_position_embeddings"),
        final_norm=norm,
    )
    pool = config.word("classifier_pooling", default="late")
    if pool not in POOLS:
        raise config.wrong("classifier_pooling", ", ".join(POOLS))
    dense = Dense(outputs=stack.hidden_size, activation="gelu")
    return _encoder.model(
        config, task, stack, pool=POOLS[pool], sequence=(dense,), language_bias=config.flag("mlp_bias")
    )


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return _encoder.tensors(checkpoint, task, NAMES, HEADS, prefixes=llama.PREFIXES, ignore=llama.IGNORE)
