"""GPT-2: layer norms before the blocks, learned positions, weights stored transposed.

Radford et al. 2019,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _gpt
from ._gpt import LAYER, QKV
from ._names import Renamed, cut_heads

DEFAULTS = {"vocab_size": 50257, "activation_function": "gelu_new", "tie_word_embeddings": True}
NAMES = {
    **_gpt.BLOCKS,
    "decoder.embedding.position": "wpe",
    LAYER + "attention.fused": "h.{i}.attn.c_attn",
    LAYER + "attention.output": "h.{i}.attn.c_proj",
    LAYER + "feed_forward.up": "h.{i}.mlp.c_fc",
    LAYER + "feed_forward.down": "h.{i}.mlp.c_proj",
}
_TRANSPOSED = (".fused.weight", ".output.weight", ".up.weight", ".down.weight")


def with_llama_keys(config: Config) -> Config:
    if config.flag("add_cross_attention"):
        raise config.wrong("add_cross_attention", "false: a decoder that reads another model's states has no source")
    return _gpt.with_llama_keys(
        config, hidden=768, layers=12, heads=12, length=1024, width="n_inner", act="activation_function"
    )


def spec(config: Config, task: str) -> Model:
    config = with_llama_keys(config)
    norm, dim = _gpt.layer_norm(config), config["hidden_size"] // config["num_attention_heads"]
    scale = dim**-0.5 if config.flag("scale_attn_weights", default=True) else 1.0
    falling = config.flag("scale_attn_by_inverse_layer_idx")
    layers = [
        _gpt.layer(config, norm, scale=scale / (i + 1) if falling else scale)
        for i in range(config.size("num_hidden_layers"))
    ]
    return _gpt.decoder(config, task, layers, norm, placed=True)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    config = with_llama_keys(config)
    # The head for multiple choice of a model with two heads; it generates like any other.
    checkpoint = {name: t for name, t in checkpoint.items() if not name.startswith("multiple_choice_head.")}
    out = _gpt.tensors(config, checkpoint, task, NAMES)
    for name, tensor in out.items():
        if name.endswith(_TRANSPOSED):
            out[name] = tensor.transpose()
    parts = {f"{LAYER}attention.{part}": 1 for part in QKV}
    cut_heads(out, LAYER + "attention.fused", parts, 1, config.size("num_hidden_layers"))
    return out
