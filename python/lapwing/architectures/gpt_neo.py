"""GPT-Neo: GPT-2 with unscaled scores and a window in some layers.

Black et al. 2021, https://doi.org/10.5281/zenodo.5297715
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import _gpt, gpt2
from ._gpt import LAYER
from ._names import Renamed

DEFAULTS = {**gpt2.DEFAULTS, "window_size": 256}
NAMES = {
    **_gpt.BLOCKS,
    "decoder.embedding.position": "wpe",
    LAYER + "attention.query": "h.{i}.attn.attention.q_proj",
    LAYER + "attention.key": "h.{i}.attn.attention.k_proj",
    LAYER + "attention.value": "h.{i}.attn.attention.v_proj",
    LAYER + "attention.output": "h.{i}.attn.attention.out_proj",
    LAYER + "feed_forward.up": "h.{i}.mlp.c_fc",
    LAYER + "feed_forward.down": "h.{i}.mlp.c_proj",
}


def _words(config: Config) -> Config:
    return _gpt.with_llama_keys(
        config, hidden=2048, layers=24, heads=16, length=2048, width="intermediate_size", act="activation_function"
    )


def _kinds(config: Config, layers: int) -> list[str]:
    """Whether each layer is "global" or "local", from pairs of a pattern and how often it comes."""
    kinds: list[str] = []
    expected = f'pairs of a list of "global" and "local" and a number, for {layers} layers in all'
    pairs = config.get("attention_types")
    for pair in [[["global", "local"], 12]] if pairs is None else pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], list) or type(pair[1]) is not int:
            raise config.wrong("attention_types", expected)
        if not 0 <= pair[1] * len(pair[0]) <= layers or not all(kind in ("global", "local") for kind in pair[0]):
            raise config.wrong("attention_types", expected)
        kinds += pair[0] * pair[1]
    if len(kinds) != layers:
        raise config.wrong("attention_types", expected)
    return kinds


def spec(config: Config, task: str) -> Model:
    config = _words(config)
    norm, window = _gpt.layer_norm(config), config.size("window_size", maximum=1 << 30)
    layers = [
        _gpt.layer(
            config, norm, bias=(False, False, False, True), scale=1.0, window=window if kind == "local" else None
        )
        for kind in _kinds(config, config.size("num_hidden_layers"))
    ]
    return _gpt.decoder(config, task, layers, norm, placed=True)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    return _gpt.tensors(_words(config), checkpoint, task, NAMES)
