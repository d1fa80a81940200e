"""DeBERTa: BERT with disentangled attention; query, key and value in one tensor, without a bias of keys.

He et al. 2020, https://arxiv.org/abs/2006.03654
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import deberta_v2
from ._common import edit
from ._names import Renamed, cut_heads

_LAYER, _SELF = "encoder.layers.{i}.attention.", "encoder.layer.{i}.attention.self."
NAMES = {
    **deberta_v2.NAMES,
    _LAYER + "fused": _SELF + "in_proj",
    _LAYER + "query.bias": _SELF + "q_bias",
    _LAYER + "value.bias": _SELF + "v_bias",
    _LAYER + "position_query": _SELF + "pos_q_proj",
    _LAYER + "position_key": _SELF + "pos_proj",
}
DEFAULTS = {
    **deberta_v2.DEFAULTS,
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
FIXED = {"position_buckets": -1, "share_att_key": False, "norm_rel_ebd": "none", "conv_kernel_size": 0}
"""What the second version made configurable."""


def _config(config: Config) -> Config:
    return config.with_values(**FIXED)


def spec(config: Config, task: str) -> Model:
    if config.flag("talking_head"):
        raise config.wrong("talking_head", "false")
    model = deberta_v2.spec(_config(config), task)
    stack = model.encoder
    assert stack is not None
    layers = tuple(edit(layer, "attention", key_bias=False) for layer in stack.layers)
    return replace(model, encoder=replace(stack, layers=layers))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = _config(config)
    out = deberta_v2.tensors(config, checkpoint, task, names=NAMES)
    parts = {f"{_LAYER}{part}": 1 for part in ("query", "key", "value")}
    cut_heads(out, _LAYER + "fused", parts, config.size("num_attention_heads"), config.size("num_hidden_layers"))
    return out
