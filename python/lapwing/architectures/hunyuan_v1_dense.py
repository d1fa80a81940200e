"""Hunyuan V1 dense: Llama with norms on each head's queries and keys after their rotation.

https://huggingface.co/tencent/Hunyuan-7B-Instruct
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import llama
from ._common import edit
from ._names import Renamed
from ._rope import rotary

DEFAULTS = {"rms_norm_eps": 1e-5}
NAMES = {
    **llama.NAMES,
    "decoder.layers.{i}.attention.query_norm": "layers.{i}.self_attn.query_layernorm",
    "decoder.layers.{i}.attention.key_norm": "layers.{i}.self_attn.key_layernorm",
}


def spec(config: Config, task: str) -> Model:
    norm, bias = llama.rms(config), config.flag("attention_bias")
    layer = llama.layer(config, rotary(config, llama.head_dim(config)), norm, bias=(bias,) * 4, head_norm=norm)
    layer = edit(layer, "attention", norm_after_rotary=True)
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return llama.tensors(config, checkpoint, task, names=NAMES)
