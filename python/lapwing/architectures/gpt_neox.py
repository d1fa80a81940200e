"""GPT-NeoX (Pythia): parallel blocks with two norms, and rotation of a part of each head.

Black et al. 2022, https://arxiv.org/abs/2204.06745
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _gpt, llama
from ._gpt import LAYER, QKV
from ._names import Renamed, cut_heads
from ._rope import rotary

DEFAULTS = {
    "vocab_size": 50432,
    "intermediate_size": 24576,
    "hidden_act": "gelu",
    "rotary_emb_base": 10000.0,
    "rotary_pct": 0.25,
    "attention_bias": True,
    "use_parallel_residual": True,
}
NAMES = {
    "decoder.embedding.token": "embed_in",
    "decoder.norm": "final_layer_norm",
    LAYER + "attention.input_norm": "layers.{i}.input_layernorm",
    LAYER + "attention.fused": "layers.{i}.attention.query_key_value",
    LAYER + "attention.output": "layers.{i}.attention.dense",
    LAYER + "feed_forward.input_norm": "layers.{i}.post_attention_layernorm",
    LAYER + "feed_forward.up": "layers.{i}.mlp.dense_h_to_4h",
    LAYER + "feed_forward.down": "layers.{i}.mlp.dense_4h_to_h",
    "language_head": "embed_out",
    "head.0": "score",
}


def _words(config: Config) -> Config:
    config = _gpt.with_llama_keys(
        config, hidden=6144, layers=44, heads=64, length=2048, width="intermediate_size", act="hidden_act"
    )
    # Defaults, if the parameters of the rotation lack them.
    return config.with_values(rope_theta=config["rotary_emb_base"], partial_rotary_factor=config["rotary_pct"])


def spec(config: Config, task: str) -> Model:
    config = _words(config)
    norm = _gpt.layer_norm(config)
    layer = _gpt.layer(
        config,
        norm,
        rotary(config, llama.head_dim(config), round_up=True),
        bias=config.flag("attention_bias"),
        parallel=config.flag("use_parallel_residual"),
    )
    return _gpt.decoder(config, task, layer, norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config, names = _words(config), NAMES
    if "lm_head.weight" in checkpoint:
        names = {**NAMES, "language_head": "lm_head"}
    out = _gpt.tensors(config, checkpoint, task, names, prefixes=("gpt_neox.",))
    parts = {f"{LAYER}attention.{part}": 1 for part in QKV}
    heads, layers = config.size("num_attention_heads"), config.size("num_hidden_layers")
    cut_heads(out, LAYER + "attention.fused", parts, heads, layers)
    return out
