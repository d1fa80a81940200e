"""Gemma 3: Gemma 2 with a norm on each head's queries and keys instead of capped scores, and two rotations.

With ``use_bidirectional_attention`` it is an encoder (EmbeddingGemma): windows reach half as far, to both sides.
Gemma Team 2025, https://arxiv.org/abs/2503.19786; Schechter Vera et al. 2025, https://arxiv.org/abs/2509.20354
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import gemma, gemma2, llama
from ._common import edit
from ._names import Renamed
from ._rope import rotations

DEFAULTS = {
    **gemma2.DEFAULTS,
    # Larger models, which also read images, omit even some sizes.
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}


def spec(config: Config, task: str) -> Model:
    bidirectional = config.flag("use_bidirectional_attention")
    if bidirectional and task == "generation":
        raise config.wrong("use_bidirectional_attention", "false in a model that generates")
    pattern = config.size("sliding_window_pattern", default=6)
    types = llama.layer_types(config, config.size("num_hidden_layers"), llama.every(config, pattern))
    windows = llama.windows(config, types)
    rotation = rotations(config, llama.head_dim(config), local=config.number("rope_local_base_freq"))
    norm = llama.rms(config)
    if bidirectional:
        windows = {kind: window and window // 2 + 1 for kind, window in windows.items()}
    layers = [gemma2.layer(config, rotation[kind], windows[kind], norm) for kind in types]
    if not bidirectional:
        return gemma.decoder(config, task, layers)
    model = gemma.decoder(config, task, [edit(one, "attention", causal=False) for one in layers])
    return replace(model, encoder=model.decoder, decoder=None)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    out = gemma2.tensors(config, checkpoint, task)
    if config.flag("use_bidirectional_attention"):
        for name in [name for name in out if name.startswith("decoder.")]:
            out[name.replace("decoder.", "encoder.", 1)] = out.pop(name)
    return out
