"""Falcon: few heads of keys and values, parallel blocks with one or two norms; the oldest are sequential and have
ALiBi.

Almazrouei et al. 2023, https://arxiv.org/abs/2311.16867
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Alibi, Model
from . import _gpt, bloom, llama
from ._gpt import LAYER, QKV
from ._names import Renamed, cut_heads
from ._rope import rotary

DEFAULTS = {
    "vocab_size": 65024,
    "activation": "gelu",
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "tie_word_embeddings": True,
}


def _words(config: Config) -> Config:
    """The configuration with Llama's keys, with the number of key heads that the two architectures name differently."""
    config = _gpt.with_llama_keys(
        config, hidden=4544, layers=32, heads=71, length=2048, width="ffn_hidden_size", act="activation"
    )
    heads, count = config.size("num_attention_heads"), config.get("num_kv_heads")
    if not config.flag("new_decoder_architecture"):
        count = 1 if config.flag("multi_query") else None
    elif count is not None and heads % config.size("num_kv_heads"):
        raise config.wrong("num_kv_heads", f"a divisor of num_attention_heads, {heads}")
    if config.flag("alibi"):
        config = config.with_values(max_position_embeddings=_gpt.ENDLESS, rope_scaling=None, rope_parameters=None)
    return config.with_values(num_key_value_heads=count)


def _norms(config: Config) -> int:
    """Number of norms before parallel blocks; 0 for sequential blocks."""
    new = config.flag("new_decoder_architecture")
    if not config.flag("parallel_attn"):
        if new:
            raise config.wrong("parallel_attn", "true with new_decoder_architecture")
        return 0
    count = config.size("num_ln_in_parallel_attn", default=2 if new else 1, maximum=2)
    if count == 2 and not new:
        raise config.wrong("num_ln_in_parallel_attn", "1 without new_decoder_architecture")
    return count


def spec(config: Config, task: str) -> Model:
    config = _words(config)
    norm, bias, dim = _gpt.layer_norm(config), config.flag("bias"), llama.head_dim(config)
    slopes = _gpt.slopes(config.size("num_attention_heads"))
    alibi = Alibi(slopes=slopes, rounded=True) if config.flag("alibi") else None
    rotation = None if alibi else rotary(config, dim)
    layer = _gpt.layer(config, norm, rotation, bias=bias, mlp_bias=bias, parallel=_norms(config) > 0, alibi=alibi)
    return _gpt.decoder(config, task, layer, norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = _words(config)
    names, norms = {**bloom.NAMES}, _norms(config)
    del names["decoder.embedding.norm"]
    if norms == 2:
        names |= {LAYER + "attention.input_norm": "h.{i}.ln_attn", LAYER + "feed_forward.input_norm": "h.{i}.ln_mlp"}
    out = _gpt.tensors(config, checkpoint, task, names, one_norm=norms == 1)
    heads = config.size("num_attention_heads")
    groups = config.size("num_key_value_heads", default=heads)
    parts = dict(zip((f"{LAYER}attention.{part}" for part in QKV), (heads // groups, 1, 1), strict=True))
    cut_heads(out, LAYER + "attention.fused", parts, groups, config.size("num_hidden_layers"))
    return out
