"""DeBERTa v2 and v3: BERT with disentangled attention.

He et al. 2020, https://arxiv.org/abs/2006.03654; He et al. 2021, https://arxiv.org/abs/2111.09543
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Block, Convolution, Dense, DisentangledAttention, Model, RelativeTable
from . import _encoder, bert
from ._common import activation, edit
from ._encoder import layer_norm
from ._names import Names, Renamed

_LAYER, _SELF = "encoder.layers.{i}.", "encoder.layer.{i}.attention.self."
NAMES = {
    **bert.NAMES,
    _LAYER + "attention.query": _SELF + "query_proj",
    _LAYER + "attention.key": _SELF + "key_proj",
    _LAYER + "attention.value": _SELF + "value_proj",
    _LAYER + "attention.position_query": _SELF + "pos_query_proj",
    _LAYER + "attention.position_key": _SELF + "pos_key_proj",
    "encoder.relative.weight": "encoder.rel_embeddings.weight",
    "encoder.relative.norm": "encoder.LayerNorm",
    "encoder.layers.0.convolution": "encoder.conv.conv",
    "encoder.layers.0.convolution.residual_norm": "encoder.conv.LayerNorm",
}
_OLD = {
    "language_head.transform.0": "cls.predictions.transform.dense",
    "language_head.transform.0.norm": "cls.predictions.transform.LayerNorm",
    "language_head.weight": "cls.predictions.decoder.weight",
    "language_head.bias": "cls.predictions.bias",
}
_NEW = {
    "language_head.transform.0": "lm_predictions.lm_head.dense",
    "language_head.transform.0.norm": "lm_predictions.lm_head.LayerNorm",
    "language_head.bias": "lm_predictions.lm_head.bias",
}
HEADS = {
    "sequence-classification": {"head.0": "pooler.dense", "head.1": "classifier"},
    "token-classification": {"head.0": "classifier"},
    "question-answering": {"head.0": "qa_outputs"},
}
DEFAULTS = {
    **bert.DEFAULTS,
    "max_relative_positions": -1,
    "position_buckets": -1,
    "norm_rel_ebd": "none",
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
    "pooler_hidden_act": "gelu",
    "vocab_size": 128100,
    "hidden_size": 1536,
    "num_hidden_layers": 24,
    "num_attention_heads": 24,
    "intermediate_size": 6144,
    "layer_norm_eps": 1e-7,
    "type_vocab_size": 0,
}


def _kinds(config: Config) -> set[str]:
    """``pos_att_type``: a list, or words between bars."""
    value = config.get("pos_att_type")
    words = value.split("|") if isinstance(value, str) else config.words("pos_att_type")
    return {word.strip().lower() for word in words}


def _disentangled(config: Config) -> DisentangledAttention | None:
    """Attention with the position scores that the configuration names, if any."""
    kinds = _kinds(config) & {"c2p", "p2c"}
    if not config.flag("relative_attention") or not kinds:
        return None
    longest = config.size("max_relative_positions", minimum=-1)
    if longest < 1:
        longest = config.size("max_position_embeddings")
    buckets = max(config.size("position_buckets", minimum=-1), 0)
    heads, terms = config.size("num_attention_heads"), 1 + len(kinds)
    head_dim = config.size("hidden_size") // heads
    return DisentangledAttention(
        heads=heads,
        head_dim=head_dim,
        scale=(head_dim * terms) ** -0.5,
        query_bias=True,
        key_bias=True,
        value_bias=True,
        output_bias=True,
        span=buckets or longest,
        buckets=buckets,
        max_distance=longest,
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
        share_key=config.flag("share_att_key"),
    )


def _convolution(config: Config) -> Block | None:
    kernel = config.size("conv_kernel_size", minimum=0)
    if not kernel:
        return None
    body = Convolution(
        kernel=kernel,
        groups=config.size("conv_groups"),
        activation=activation(config, "conv_act"),
    )
    return Block(body=body, residual_norm=layer_norm(config), from_layer_input=True)


def spec(config: Config, task: str) -> Model:
    hidden = config.size("hidden_size")
    for key in ("embedding_size", "attention_head_size"):
        expected = hidden if key == "embedding_size" else hidden // config.size("num_attention_heads")
        if config.size(key, default=expected) != expected:
            raise config.wrong(key, str(expected))
    layer, found = bert.layer(config), _disentangled(config)
    if found is not None:
        layer = edit(layer, "attention", body=found)
    else:
        # Scores of positions count in the scale, also where the flag for them is off.
        terms = 1 + len(_kinds(config) & {"c2p", "p2c"})
        layer = edit(layer, "attention", scale=(bert.head_dim(config) * terms) ** -0.5)
    positions = config.size("max_position_embeddings")
    placed = config.flag("position_biased_input", default=True)
    stack = bert.encoder(config, layer, positions=positions, placed=placed)
    if convolution := _convolution(config):
        stack = replace(stack, layers=(replace(layer, blocks=(*layer.blocks, convolution)), *stack.layers[1:]))
    if found is not None:
        normed = "layer_norm" in [part.strip() for part in config.word("norm_rel_ebd").lower().split("|")]
        stack = replace(stack, relative=RelativeTable(rows=2 * found.span, norm=layer_norm(config) if normed else None))
    pooler = Dense(
        outputs=config.size("pooler_hidden_size", default=hidden),
        activation=activation(config, "pooler_hidden_act"),
    )
    act = activation(config, "hidden_act")
    transform = Dense(outputs=hidden, activation=act, norm=layer_norm(config))
    return _encoder.model(config, task, stack, sequence=(pooler,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str, *, names: Names = NAMES) -> Renamed:
    """Renamed tensors; the first version of the family has other ``names``."""
    found = _disentangled(config)
    names, ignore = dict(names), [r"mask_predictions\..*"]
    if found is None:
        # Stored, but not used by any score.
        for name in ("encoder.relative.weight", "encoder.relative.norm"):
            ignore.append(names.pop(name).replace(".", r"\.") + r"(\.(weight|bias))?")
    # Both heads may be stored; the newer one has no table of its own.
    old = any(name.endswith(_OLD["language_head.transform.0"] + ".weight") for name in checkpoint)
    new = any(name.endswith(_NEW["language_head.transform.0"] + ".weight") for name in checkpoint)
    chosen = _OLD if old and (config.flag("legacy", default=True) or not new) else _NEW
    ignore += [r"cls\..*", r"lm_predictions\..*"]
    out = _encoder.tensors(
        checkpoint, task, names, {**HEADS, "fill-mask": chosen}, prefixes=("deberta.",), ignore=ignore
    )
    kernel = out.get("encoder.layers.0.convolution.weight")
    if kernel is not None and len(kernel.shape) == 3:
        out["encoder.layers.0.convolution.weight"] = kernel.reshape(kernel.shape[0], kernel.shape[1] * kernel.shape[2])
    if found is not None and "encoder.relative.weight" in out:
        out["encoder.relative.weight"] = out["encoder.relative.weight"].rows(0, 2 * found.span)
    return out
