"""Phi 3 and 4: Llama with query, key and value in one matrix, gate and up in another, and LongRoPE.

Abdin et al. 2024, https://arxiv.org/abs/2404.14219
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import llama
from ._names import Renamed, cut
from ._rope import parameters, rotary

DEFAULTS = {"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_ATTENTION, _FEED_FORWARD = "decoder.layers.{i}.attention.", "decoder.layers.{i}.feed_forward."
NAMES = {
    **llama.NAMES,
    _ATTENTION + "qkv": "layers.{i}.self_attn.qkv_proj",
    _FEED_FORWARD + "gate_up": "layers.{i}.mlp.gate_up_proj",
}


def spec(config: Config, task: str) -> Model:
    rope = parameters(config)
    if rope["rope_type"] in ("su", "yarn"):
        # Older names of the same scaling.
        rope = rope.with_values(rope_type="longrope")
    if rope["rope_type"] not in ("default", "longrope"):
        raise rope.wrong("rope_type", "default or longrope")
    norm = llama.rms(config)
    rotation = rotary(config, llama.head_dim(config), rope=rope, round_up=True)
    layer = llama.layer(config, rotation, norm, window=config.optional_size("sliding_window", maximum=1 << 30))
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task, names=NAMES)
    heads, dim, layers = config.size("num_attention_heads"), llama.head_dim(config), config.size("num_hidden_layers")
    rows = {"query": heads * dim, "key": config.size("num_key_value_heads", default=heads) * dim}
    rows["value"] = rows["key"]
    cut(out, _ATTENTION + "qkv", {_ATTENTION + part: size for part, size in rows.items()}, layers)
    cut_gate(config, out)
    return out


def cut_gate(config: Config, out: Renamed) -> None:
    """Splits gate and up, which are stored in one matrix."""
    width = config.size("intermediate_size")
    parts = {_FEED_FORWARD + part: width for part in ("gate", "up")}
    cut(out, _FEED_FORWARD + "gate_up", parts, config.size("num_hidden_layers"))
