"""GLM 4 of 2025: that of 2024 with norms after the blocks too.

https://huggingface.co/zai-org/GLM-4-9B-0414
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import glm, llama, phi3
from ._common import edit_blocks
from ._names import Renamed

DEFAULTS = glm.DEFAULTS
NAMES = {
    **phi3.NAMES,
    "decoder.layers.{i}.attention.output_norm": "layers.{i}.post_self_attn_layernorm",
    "decoder.layers.{i}.feed_forward.output_norm": "layers.{i}.post_mlp_layernorm",
}


def spec(config: Config, task: str) -> Model:
    norm, layer = llama.rms(config), glm.layer(config)
    layer = edit_blocks(layer, output_norm=norm)
    return llama.decoder(config, task, [layer] * config.size("num_hidden_layers"), norm)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return glm.tensors(config, checkpoint, task, names=NAMES)
