"""MPT: ALiBi, norms without biases, queries, keys and values in one matrix and perhaps clipped.

https://www.databricks.com/blog/mpt-7b
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Alibi, Model
from . import _gpt
from ._gpt import LAYER, QKV
from ._names import Renamed, cut_heads

DEFAULTS = {"vocab_size": 50368, "tie_word_embeddings": True}
_FIXED = {
    "attn_type": "multihead_attention",
    "prefix_lm": False,
    "qk_ln": False,
    "alibi": True,
    "rope": False,
}
"""Choices of ``attn_config`` that have one value in every model."""
NAMES = {
    "decoder.embedding.token": "wte",
    "decoder.norm": "norm_f",
    LAYER + "attention.input_norm": "blocks.{i}.norm_1",
    LAYER + "attention.fused": "blocks.{i}.attn.Wqkv",
    LAYER + "attention.output": "blocks.{i}.attn.out_proj",
    LAYER + "feed_forward.input_norm": "blocks.{i}.norm_2",
    LAYER + "feed_forward.up": "blocks.{i}.ffn.up_proj",
    LAYER + "feed_forward.down": "blocks.{i}.ffn.down_proj",
    "language_head": "lm_head",
    "head.0": "score",
}


def _words(config: Config) -> Config:
    return _gpt.with_llama_keys(config, hidden=2048, layers=24, heads=16, length=2048).with_values(hidden_act="gelu")


def _slopes(heads: int, steepest: float) -> tuple[float, ...]:
    """Slopes of ALiBi for the next higher power of two: every second one first, then as many of the others as
    needed."""
    n = 1 << (heads - 1).bit_length()
    found = [2 ** (-steepest * j / n) for j in range(1, n + 1)]
    return tuple(found if n == heads else [*found[1::2], *found[::2]][:heads])


def spec(config: Config, task: str) -> Model:
    config = _words(config)
    attention = config.section("attn_config")
    for key, value in _FIXED.items():
        if attention.get(key) not in (None, value):
            raise attention.wrong(key, repr(value))
    if config.get("logit_scale") is not None:
        raise config.wrong("logit_scale", "null")
    if "rms" in config.word("norm_type", default=""):
        raise config.wrong("norm_type", "low_precision_layernorm or another layer norm")
    norm, heads = _gpt.layer_norm(config, bias=False), config.size("num_attention_heads")
    alibi = Alibi(slopes=_slopes(heads, attention.number("alibi_bias_max", default=8)))
    clip = attention.optional_number("clip_qkv") or None
    scale = attention.number("softmax_scale", default=(config["hidden_size"] / heads) ** -0.5)
    if clip is not None and clip < 0:
        raise attention.wrong("clip_qkv", "a number above zero, or null")
    layer = _gpt.layer(config, norm, bias=False, mlp_bias=False, clip=clip, scale=scale, alibi=alibi)
    return _gpt.decoder(config, task, layer, norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = _words(config)
    out = _gpt.tensors(config, checkpoint, task, NAMES)
    parts = {f"{LAYER}attention.{part}": 1 for part in QKV}
    cut_heads(out, LAYER + "attention.fused", parts, 1, config.size("num_hidden_layers"))
    return out
