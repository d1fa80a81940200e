"""StarCoder 2: Llama with layer norms, biases, a plain feed-forward network and a window.

Lozhkov et al. 2024, https://arxiv.org/abs/2402.19173
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model, Norm
from . import llama
from ._names import Renamed
from ._rope import rotary

DEFAULTS = {
    "num_key_value_heads": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 4096,
    "use_bias": True,
    "tie_word_embeddings": True,
}
NAMES = {
    **llama.NAMES,
    "decoder.layers.{i}.feed_forward.up": "layers.{i}.mlp.c_fc",
    "decoder.layers.{i}.feed_forward.down": "layers.{i}.mlp.c_proj",
}


def spec(config: Config, task: str) -> Model:
    norm = Norm(kind="layer", eps=config.number("norm_epsilon", default=1e-5), bias=True)
    bias = config.flag("use_bias")
    layer = llama.layer(
        config,
        rotary(config, llama.head_dim(config)),
        norm,
        bias=(bias,) * 4,
        mlp_bias=bias,
        gated=False,
        window=config.optional_size("sliding_window", maximum=1 << 30),
    )
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return llama.tensors(config, checkpoint, task, names=NAMES)
