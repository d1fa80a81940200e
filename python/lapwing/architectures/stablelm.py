"""StableLM: Llama with layer norms, rotation of a part of each head, and optionally norms per head.

https://huggingface.co/stabilityai/stablelm-2-1_6b
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model, Norm
from . import llama
from ._common import edit
from ._names import Renamed, share
from ._rope import rotary

DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 4096, "partial_rotary_factor": 0.25}
NAMES = {
    **llama.NAMES,
    "decoder.layers.{i}.attention.query_norm": "layers.{i}.self_attn.q_layernorm",
    "decoder.layers.{i}.attention.key_norm": "layers.{i}.self_attn.k_layernorm",
}
_OF_HEAD = re.compile(r"(.*\.self_attn\.[qk]_layernorm)\.norms\.(\d{1,4})\.weight")


def spec(config: Config, task: str) -> Model:
    norm = Norm(kind="layer", eps=config.number("layer_norm_eps", default=1e-5), bias=True)
    bias = config.flag("use_qkv_bias")
    head_norm = replace(norm, bias=False) if config.flag("qk_layernorm") else None
    layer = llama.layer(
        config,
        rotary(config, llama.head_dim(config)),
        norm,
        bias=(bias, bias, bias, False),
        head_norm=head_norm,
        parallel=config.flag("use_parallel_residual"),
    )
    layer = edit(layer, "attention", norm_over="heads")
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, _stacked(checkpoint), task, names=NAMES)
    if config.flag("use_parallel_residual"):
        place = "decoder.layers.{i}."
        share(
            out,
            place + "feed_forward.input_norm",
            place + "attention.input_norm",
            config.size("num_hidden_layers"),
        )
    return out


def _stacked(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint with the norms of a layer's heads, stored one by one, as one tensor."""
    out: dict[str, Tensor] = {}
    norms: dict[str, dict[int, Tensor]] = {}
    for name, tensor in checkpoint.items():
        if match := _OF_HEAD.fullmatch(name):
            norms.setdefault(match[1], {})[int(match[2])] = tensor
        else:
            out[name] = tensor
    for name, heads in norms.items():
        parts = [heads[head] for head in sorted(heads)]
        if sorted(heads) == list(range(len(heads))) and len({(part.dtype, part.shape) for part in parts}) == 1:
            out[f"{name}.weight"] = Tensor.stack(parts)
        else:
            # Left as they are, so that the check of names reports them.
            out |= {part.name: part for part in parts}
    return out
