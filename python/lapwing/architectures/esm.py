"""ESM-1b and ESM-2: pre-norm encoders of proteins, with learned or rotary positions.

Lin et al. 2022, https://doi.org/10.1101/2022.07.20.500902
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Model, TokenDropout
from . import _encoder, bert, roberta
from ._common import edit
from ._encoder import adjust as adjust
from ._encoder import layer_norm, pre_norm
from ._names import Renamed
from ._rope import rotary

NAMES = {
    **{ours: theirs for ours, theirs in bert.NAMES.items() if not ours.endswith("norm") and "segment" not in ours},
    "encoder.embedding.norm": "embeddings.layer_norm",
    "encoder.layers.{i}.attention.input_norm": "encoder.layer.{i}.attention.LayerNorm",
    "encoder.layers.{i}.feed_forward.input_norm": "encoder.layer.{i}.LayerNorm",
    "encoder.norm": "encoder.emb_layer_norm_after",
}
KEPT_SHARE = 1 - 0.15 * 0.8
"""Share of tokens that training left unmasked."""

DEFAULTS = {
    **{key: value for key, value in bert.DEFAULTS.items() if key != "vocab_size"},
    "max_position_embeddings": 1026,
}


def _rotates(config: Config) -> bool:
    kind = config.word("position_embedding_type")
    if kind not in ("absolute", "rotary"):
        raise config.wrong("position_embedding_type", "absolute or rotary")
    return kind == "rotary"


def spec(config: Config, task: str) -> Model:
    if config.flag("is_folding_model"):
        raise config.wrong("is_folding_model", "false: folding is not supported")
    # The family has no segments, and its activation is always the exact GELU.
    config = config.with_values(type_vocab_size=0, hidden_act="gelu")
    norm = layer_norm(config)
    layer = pre_norm(bert.layer(config), norm)
    positions, padding = config.size("max_position_embeddings"), None
    if _rotates(config):
        layer = edit(layer, "attention", rotary=rotary(config, bert.head_dim(config)))
    else:
        first = roberta.first_position(config)
        positions, padding = positions - first, first - 1
    stack = bert.encoder(config, layer, positions=positions, placed=not _rotates(config), padding=padding)
    dropout = None
    if config.flag("token_dropout"):
        dropout = TokenDropout(mask=config.size("mask_token_id", minimum=0), kept=KEPT_SHARE)
    stem = replace(stack.stem, norm=norm if config.flag("emb_layer_norm_before") else None, dropout=dropout)
    return roberta.heads(config, task, replace(stack, stem=stem, final_norm=norm))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    ignore = [r".*rotary_embeddings\.inv_freq", r"contact_head\..*"]
    names = dict(NAMES)
    if _rotates(config):
        # Stored by some checkpoints, but unused.
        ignore.append(names.pop("encoder.embedding.position").replace(".", r"\.") + r"\.weight")
    out = _encoder.tensors(checkpoint, task, names, roberta.HEADS, prefixes=("esm.",), ignore=ignore)
    if not _rotates(config):
        _encoder.shift(out, roberta.first_position(config))
    return out
