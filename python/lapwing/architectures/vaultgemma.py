"""VaultGemma: Gemma 2 without the norms behind its blocks.

Sinha et al. 2025, https://arxiv.org/abs/2510.15001
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import gemma2, llama
from ._common import edit_blocks
from ._names import Renamed, plus_one

DEFAULTS = gemma2.DEFAULTS
NAMES = {**llama.NAMES, "decoder.layers.{i}.feed_forward.input_norm": "layers.{i}.pre_feedforward_layernorm"}


def spec(config: Config, task: str) -> Model:
    model = gemma2.spec(config, task)
    assert model.decoder is not None
    layers = tuple(edit_blocks(one, output_norm=None) for one in model.decoder.layers)
    return replace(model, decoder=replace(model.decoder, layers=layers))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = llama.tensors(config, checkpoint, task, names=NAMES)
    plus_one(out)
    return out
