"""Jina embeddings v3: XLM-RoBERTa with rotary positions.

Sturua et al. 2024, https://arxiv.org/abs/2409.10173
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _encoder, bert, roberta
from ._common import edit
from ._encoder import adjust as adjust
from ._names import Renamed, cut
from ._rope import rotary

_LAYER, _THEIRS = "encoder.layers.{i}.", "encoder.layers.{i}."
NAMES = {
    "encoder.embedding.token": "embeddings.word_embeddings",
    "encoder.embedding.segment": "embeddings.token_type_embeddings",
    "encoder.embedding.norm": "emb_ln",
    _LAYER + "attention.qkv": _THEIRS + "mixer.Wqkv",
    _LAYER + "attention.output": _THEIRS + "mixer.out_proj",
    _LAYER + "attention.residual_norm": _THEIRS + "norm1",
    _LAYER + "feed_forward.up": _THEIRS + "mlp.fc1",
    _LAYER + "feed_forward.down": _THEIRS + "mlp.fc2",
    _LAYER + "feed_forward.residual_norm": _THEIRS + "norm2",
}
DEFAULTS = {
    **bert.DEFAULTS,
    "vocab_size": 250002,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


def spec(config: Config, task: str) -> Model:
    layer = edit(bert.layer(config), "attention", rotary=rotary(config, bert.head_dim(config), theta=20000.0))
    stack = bert.encoder(config, layer, positions=config.size("max_position_embeddings"), placed=False)
    return roberta.heads(config, task, stack)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = _encoder.tensors(checkpoint, task, NAMES, roberta.HEADS, prefixes=("roberta.",))
    place, hidden = _LAYER + "attention.", config.size("hidden_size")
    cut(
        out,
        place + "qkv",
        {place + part: hidden for part in ("query", "key", "value")},
        config.size("num_hidden_layers"),
    )
    return out
