"""Phi 1 and 2: parallel blocks with one norm, biases everywhere, rotation of a part of each head.

Li et al. 2023, https://arxiv.org/abs/2309.05463
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _gpt, llama
from ._gpt import LAYER
from ._names import Renamed, share
from ._rope import rotary

DEFAULTS = {"vocab_size": 51200, "intermediate_size": 8192, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5}
NAMES = {
    **llama.NAMES,
    "decoder.norm": "final_layernorm",
    LAYER + "attention.output": "layers.{i}.self_attn.dense",
    LAYER + "attention.query_norm": "layers.{i}.self_attn.q_layernorm",
    LAYER + "attention.key_norm": "layers.{i}.self_attn.k_layernorm",
    LAYER + "feed_forward.up": "layers.{i}.mlp.fc1",
    LAYER + "feed_forward.down": "layers.{i}.mlp.fc2",
}


def _words(config: Config) -> Config:
    own = {key: config.get(key) for key in ("num_key_value_heads", "head_dim")}
    return _gpt.with_llama_keys(
        config, hidden=2048, layers=24, heads=32, length=2048, width="intermediate_size", act="hidden_act"
    ).with_values(**own)


def spec(config: Config, task: str) -> Model:
    config = _words(config)
    norm = _gpt.layer_norm(config)
    each = norm if config.flag("qk_layernorm") else None
    rotation = rotary(config, llama.head_dim(config))
    layer = _gpt.layer(config, norm, rotation, parallel=True, query_norm=each, key_norm=each)
    return _gpt.decoder(config, task, layer, norm, language_bias=True)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task, names=NAMES)
    layers = _words(config).size("num_hidden_layers")
    share(out, LAYER + "feed_forward.input_norm", LAYER + "attention.input_norm", layers)
    return out
