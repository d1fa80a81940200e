"""BLOOM: ALiBi instead of positions, and a norm over the embeddings.

BigScience Workshop 2022, https://arxiv.org/abs/2211.05100
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Alibi, Model
from . import _gpt
from ._common import edit_blocks
from ._gpt import LAYER, QKV
from ._names import Renamed, cut_heads

DEFAULTS = {"vocab_size": 250880, "tie_word_embeddings": True}
NAMES = {
    **_gpt.BLOCKS,
    "decoder.embedding.token": "word_embeddings",
    "decoder.embedding.norm": "word_embeddings_layernorm",
    LAYER + "attention.input_norm": "h.{i}.input_layernorm",
    LAYER + "attention.fused": "h.{i}.self_attention.query_key_value",
    LAYER + "attention.output": "h.{i}.self_attention.dense",
    LAYER + "feed_forward.input_norm": "h.{i}.post_attention_layernorm",
    LAYER + "feed_forward.up": "h.{i}.mlp.dense_h_to_4h",
    LAYER + "feed_forward.down": "h.{i}.mlp.dense_4h_to_h",
}


def _words(config: Config) -> Config:
    config = _gpt.with_llama_keys(config, hidden=64, layers=2, heads=8, length=_gpt.ENDLESS)
    return config.with_values(hidden_act="gelu_pytorch_tanh", max_position_embeddings=_gpt.ENDLESS)


def spec(config: Config, task: str) -> Model:
    config = _words(config)
    norm = _gpt.layer_norm(config)
    layer = _gpt.layer(config, norm, alibi=Alibi(slopes=_gpt.slopes(config.size("num_attention_heads"))))
    if config.flag("apply_residual_connection_post_layernorm"):
        layer = edit_blocks(layer, residual_after_norm=True)
    return _gpt.decoder(config, task, layer, norm, embedding_norm=norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = _words(config)
    out = _gpt.tensors(config, checkpoint, task, NAMES)
    parts = {f"{LAYER}attention.{part}": 1 for part in QKV}
    heads, layers = config.size("num_attention_heads"), config.size("num_hidden_layers")
    cut_heads(out, LAYER + "attention.fused", parts, heads, layers)
    return out
