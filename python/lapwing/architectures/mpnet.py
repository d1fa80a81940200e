"""MPNet: RoBERTa with a bias by relative position that all layers share.

Song et al. 2020, https://arxiv.org/abs/2004.09297
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model, RelativeBias
from . import _encoder, bert, roberta
from ._common import edit
from ._encoder import adjust as adjust
from ._names import Renamed

_ATTENTION = "encoder.layer.{i}.attention."
_BIAS = "encoder.relative_attention_bias.weight"
_BUCKETS = 32
NAMES = {
    **bert.NAMES,
    "encoder.layers.{i}.attention.query": _ATTENTION + "attn.q",
    "encoder.layers.{i}.attention.key": _ATTENTION + "attn.k",
    "encoder.layers.{i}.attention.value": _ATTENTION + "attn.v",
    "encoder.layers.{i}.attention.output": _ATTENTION + "attn.o",
    "encoder.layers.{i}.attention.residual_norm": _ATTENTION + "LayerNorm",
    _BIAS: _BIAS,
}

DEFAULTS = {**bert.DEFAULTS, "vocab_size": 30527}


def _config(config: Config) -> Config:
    """The family has no segments, and its padding id is always 1."""
    return config.with_values(type_vocab_size=0, pad_token_id=1)


def spec(config: Config, task: str) -> Model:
    config = _config(config)
    if config.size("relative_attention_num_buckets", default=_BUCKETS) < _BUCKETS:
        raise config.wrong("relative_attention_num_buckets", f"{_BUCKETS}")
    bias = RelativeBias(buckets=_BUCKETS, max_distance=128, bidirectional=True)
    layer = edit(bert.layer(config), "attention", relative_bias=bias)
    first = roberta.first_position(config)
    positions = config.size("max_position_embeddings") - first
    return roberta.heads(config, task, bert.encoder(config, layer, positions=positions, padding=first - 1))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = _encoder.tensors(checkpoint, task, NAMES, roberta.HEADS, prefixes=("mpnet.",))
    _encoder.shift(out, roberta.first_position(_config(config)))
    bias = out.pop(_BIAS, None)
    if bias is not None and bias.shape:
        shared = bias.rows(0, _BUCKETS)
        for i in range(config.size("num_hidden_layers")):
            out[f"encoder.layers.{i}.attention.relative_bias.weight"] = shared
    return out
