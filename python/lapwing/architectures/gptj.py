"""GPT-J: parallel blocks with one norm, and rotation of neighbours in a part of each head.

https://github.com/kingoflolz/mesh-transformer-jax
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _gpt, llama
from ._gpt import LAYER
from ._names import Renamed
from ._rope import rotary

DEFAULTS = {"vocab_size": 50400, "activation_function": "gelu_new", "rotary_dim": 64}
NAMES = {
    **_gpt.BLOCKS,
    LAYER + "attention.query": "h.{i}.attn.q_proj",
    LAYER + "attention.key": "h.{i}.attn.k_proj",
    LAYER + "attention.value": "h.{i}.attn.v_proj",
    LAYER + "attention.output": "h.{i}.attn.out_proj",
    LAYER + "feed_forward.up": "h.{i}.mlp.fc_in",
    LAYER + "feed_forward.down": "h.{i}.mlp.fc_out",
}


def with_llama_keys(config: Config) -> Config:
    return _gpt.with_llama_keys(
        config, hidden=4096, layers=28, heads=16, length=2048, width="n_inner", act="activation_function"
    )


def spec(config: Config, task: str) -> Model:
    config = with_llama_keys(config)
    norm, head_dim = _gpt.layer_norm(config), llama.head_dim(config)
    # Without a number the whole hidden width is rotated, which fits only a single head.
    dim = config.optional_size("rotary_dim", minimum=0) or config.size("hidden_size")
    if dim > head_dim or dim % 2:
        raise config.wrong("rotary_dim", f"an even number up to the {head_dim} dimensions of a head")
    rotation = rotary(config, head_dim, dim=dim, interleaved=True)
    layer = _gpt.layer(config, norm, rotation, bias=False, parallel=True)
    return _gpt.decoder(config, task, layer, norm, language_bias=True)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return _gpt.tensors(with_llama_keys(config), checkpoint, task, NAMES, one_norm=True)
