"""OPT: learned positions after two unused rows, norms before or after the blocks, embeddings of another width.

Zhang et al. 2022, https://arxiv.org/abs/2205.01068
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model, Norm
from . import _gpt, llama
from ._common import edit_blocks
from ._gpt import LAYER
from ._names import Renamed

DEFAULTS = {
    "vocab_size": 50272,
    "ffn_dim": 3072,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}
_OFFSET = 2
_POSITIONS = "decoder.embedding.position.weight"


def _words(config: Config) -> Config:
    return _gpt.with_llama_keys(
        config, hidden=768, layers=12, heads=12, length=2048, width="ffn_dim", act="activation_function"
    )


def spec(config: Config, task: str) -> Model:
    config = _words(config)
    trained, bias, before = (
        config.flag(key) for key in ("layer_norm_elementwise_affine", "enable_bias", "do_layer_norm_before")
    )
    norm = Norm(kind="layer", eps=1e-5, weight=trained, bias=trained)
    layer = _gpt.layer(config, norm, bias=bias, mlp_bias=bias)
    if not before:
        layer = edit_blocks(layer, input_norm=None, residual_norm=norm)
    hidden = config.size("hidden_size")
    width = config.size("word_embed_proj_dim", default=hidden)
    model = _gpt.decoder(config, task, layer, norm, placed=True)
    stack = model.decoder
    assert stack is not None
    if not before or config.flag("_remove_final_layer_norm"):
        stack = replace(stack, final_norm=None)
    if width != hidden:
        stem = replace(stack.stem, embedding_size=width, project_before_positions=True)
        stack = replace(stack, stem=stem, output_size=width)
    return replace(model, decoder=stack)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = _words(config)
    place = "residual_norm" if not config.flag("do_layer_norm_before") else "input_norm"
    names = {
        **llama.NAMES,
        "decoder.embedding.position": "embed_positions",
        "decoder.embedding.projection": "project_in",
        "decoder.output": "project_out",
        "decoder.norm": "final_layer_norm",
        LAYER + "attention.output": "layers.{i}.self_attn.out_proj",
        LAYER + f"attention.{place}": "layers.{i}.self_attn_layer_norm",
        LAYER + f"feed_forward.{place}": "layers.{i}.final_layer_norm",
        LAYER + "feed_forward.up": "layers.{i}.fc1",
        LAYER + "feed_forward.down": "layers.{i}.fc2",
    }
    out = _gpt.tensors(config, checkpoint, task, names, prefixes=("model.decoder.", "decoder."))
    table = out.get(_POSITIONS)
    if table is not None and table.shape:
        out[_POSITIONS] = table.rows(_OFFSET, table.shape[0])
    return out
