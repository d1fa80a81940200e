"""Nomic BERT: BERT with rotary positions, gated feed-forward networks and no biases in them.

Configurations of the hub have the names of the family's own code (``n_embd``), those of transformers 5 the usual ones.
Nussbaum et al. 2024, https://arxiv.org/abs/2402.01613
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint import Config, Tensor
from ..spec import Activation, Dense, DynamicRotary, FeedForward, Model, Rotary, Stack, TokenStem
from . import _encoder
from ._common import activation, layer
from ._encoder import adjust as adjust
from ._encoder import attention, layer_norm
from ._names import Renamed, cut
from ._rope import rotary

_LAYER, _THEIRS = "encoder.layers.{i}.", "encoder.layers.{i}."
NAMES = {
    "encoder.embedding.token": "embeddings.word_embeddings",
    "encoder.embedding.segment": "embeddings.token_type_embeddings",
    "encoder.embedding.norm": "emb_ln",
    _LAYER + "attention.qkv": _THEIRS + "attn.Wqkv",
    _LAYER + "attention.output": _THEIRS + "attn.out_proj",
    _LAYER + "attention.residual_norm": _THEIRS + "norm1",
    _LAYER + "feed_forward.residual_norm": _THEIRS + "norm2",
    _LAYER + "feed_forward.down": _THEIRS + "mlp.fc2",
}
HEADS = {
    "features": {"pooler.0": "pooler.dense"},
    "sequence-classification": {"head.0": "pooler.dense", "head.1": "classifier"},
    "token-classification": {"head.0": "classifier"},
    "question-answering": {"head.0": "qa_outputs"},
    "fill-mask": {
        "language_head.transform.0": "cls.predictions.transform.dense",
        "language_head.transform.0.norm": "cls.predictions.transform.layer_norm",
        "language_head.weight": "cls.predictions.decoder.weight",
        "language_head.bias": "cls.predictions.bias",
    },
}
GATED: dict[str, Activation] = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid"}
OFF = ("prenorm", "use_rms_norm", "parallel_block", "causal", "rotary_emb_interleaved")
"""Options of the family's code that no published checkpoint sets."""


def _hidden(config: Config) -> int:
    return config.size("n_embd", "hidden_size", default=768)


def _layers(config: Config) -> int:
    return config.size("n_layer", "num_hidden_layers", default=12)


def _activation(config: Config) -> tuple[Activation, bool]:
    """The activation, and whether it gates."""
    name = config.word("activation_function", default="")
    if name in GATED:
        return GATED[name], True
    return (
        (activation(config, "activation_function", default=""), False)
        if name
        else (
            activation(config, "hidden_act", default="silu"),
            True,
        )
    )


def _rotary(config: Config, head_dim: int) -> Rotary:
    base = config.optional_number("rotary_emb_base")
    if base is None:
        return rotary(config, head_dim, theta=1000.0)
    fraction = config.number("rotary_emb_fraction", default=1.0)
    dim = int(head_dim * fraction)
    if not 2 <= dim <= head_dim or base <= 0:
        raise config.wrong("rotary_emb_fraction", f"a share that rotates 2 to {head_dim} dimensions")
    frequencies = tuple(base ** (-2 * j / dim) for j in range(dim // 2))
    factor = config.optional_number("rotary_scaling_factor")
    if not factor:
        return Rotary(inv_freq=frequencies)
    trained = config.size("max_trained_positions", default=2048)
    return Rotary(inv_freq=frequencies, dynamic=DynamicRotary(base=base, factor=factor, original_length=trained))


def spec(config: Config, task: str) -> Model:
    for key in OFF:
        if config.flag(key):
            raise config.wrong(key, "false")
    if config.size("num_experts", default=0, minimum=0) and config.size("moe_every_n_layers", default=0, minimum=0):
        raise config.wrong("num_experts", "0: layers with experts are not supported")
    hidden, heads = _hidden(config), config.size("n_head", "num_attention_heads", default=12)
    norm = layer_norm(config, "layer_norm_epsilon", "layer_norm_eps")
    act, gated = _activation(config)
    plain = attention(config, hidden, heads, bias=config.flag("qkv_proj_bias"))
    first, second = config.flag("mlp_fc1_bias"), config.flag("mlp_fc2_bias")
    feed_forward = FeedForward(
        width=config.size("n_inner", "intermediate_size", default=4 * hidden),
        activation=act,
        gated=gated,
        gate_bias=gated and first,
        up_bias=first,
        down_bias=second,
    )
    rotated = replace(plain, rotary=_rotary(config, plain.head_dim))
    stack = Stack(
        hidden_size=hidden,
        stem=TokenStem(
            vocab_size=config.size("vocab_size", default=30528),
            segments=config.size("type_vocab_size", default=2, minimum=0),
            norm=norm,
        ),
        layers=(layer(rotated, feed_forward, residual_norm=norm),) * _layers(config),
        max_length=config.size("n_positions", "max_position_embeddings", default=2048),
    )
    pooler = Dense(outputs=hidden, activation="tanh")
    transform = Dense(outputs=hidden, activation=act, norm=norm)
    return _encoder.model(config, task, stack, pooler=pooler, sequence=(pooler,), language=(transform,))


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    _, gated = _activation(config)
    first = {"gate": "fc12", "up": "fc11"} if gated else {"up": "fc1"}
    names = NAMES | {f"{_LAYER}feed_forward.{ours}": f"{_THEIRS}mlp.{theirs}" for ours, theirs in first.items()}
    out = _encoder.tensors(
        checkpoint, task, names, HEADS, prefixes=("bert.", "nomic_bert."), ignore=[r"cls\.seq_relationship\..*"]
    )
    place = _LAYER + "attention."
    parts = {place + part: _hidden(config) for part in ("query", "key", "value")}
    cut(out, place + "qkv", parts, _layers(config))
    return out
