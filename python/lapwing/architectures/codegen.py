"""CodeGen: GPT-J with queries, values and keys in one matrix, cut into four groups of rows.

Nijkamp et al. 2022, https://arxiv.org/abs/2203.13474
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from . import _gpt, gptj
from ._gpt import LAYER
from ._names import Renamed, cut_heads
from .gptj import DEFAULTS as DEFAULTS
from .gptj import spec as spec

NAMES = {**gptj.NAMES, LAYER + "attention.fused": "h.{i}.attn.qkv_proj"}
_GROUPS = 4


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = gptj.with_llama_keys(config)
    out = _gpt.tensors(config, checkpoint, task, NAMES, one_norm=True)
    parts = {f"{LAYER}attention.{part}": 1 for part in ("query", "value", "key")}
    cut_heads(out, LAYER + "attention.fused", parts, _GROUPS, config.size("num_hidden_layers"))
    return out
