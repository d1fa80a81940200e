"""What the older decoders share: layer norms, plain feed-forward networks, and names of their own for Llama's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..checkpoint import Config, Tensor
from ..spec import Layer, Model, Norm, Rotary
from . import llama
from ._common import activation, edit
from ._names import Names, Renamed, share

HIDDEN = ("n_embd", "n_embed", "d_model", "hidden_size")
LAYERS = ("n_layer", "n_layers", "num_layers", "num_hidden_layers")
HEADS = ("n_head", "n_heads", "num_heads", "num_attention_heads")
LENGTH = ("n_positions", "max_seq_len", "max_position_embeddings")
ENDLESS = 1 << 30
"""Length of models without positions."""
QKV = ("query", "key", "value")
LAYER = "decoder.layers.{i}."
BLOCKS = {
    "decoder.embedding.token": "wte",
    "decoder.norm": "ln_f",
    LAYER + "attention.input_norm": "h.{i}.ln_1",
    LAYER + "feed_forward.input_norm": "h.{i}.ln_2",
    "language_head": "lm_head",
    "head.0": "score",
}
"""Names that begin with GPT-2's for what is around the projections."""


def with_llama_keys(
    config: Config,
    *,
    hidden: int,
    layers: int,
    heads: int,
    length: int,
    width: str = "",
    act: str = "",
) -> Config:
    """The configuration with Llama's keys in place of its own; missing ones have these values.

    ``width`` and ``act`` are its keys for the width of the feed-forward network, by default four times that of the
    hidden states, and for the activation; without such a key the caller sets them.
    """
    if act:
        activation(config, act, default="")  # refuses it under its own name
    size, count = config.size(*HIDDEN, default=hidden), config.size(*HEADS, default=heads)
    if size % count:
        raise config.wrong(next((key for key in HEADS if key in config), HEADS[-1]), f"a divisor of {size}")
    return config.with_values(
        hidden_size=size,
        num_hidden_layers=config.size(*LAYERS, default=layers),
        num_attention_heads=count,
        num_key_value_heads=None,
        head_dim=None,
        max_position_embeddings=config.size(*LENGTH, default=length, maximum=ENDLESS),
        intermediate_size=config.size(width, default=4 * size) if width else 4 * size,
        hidden_act=config.get(act),
    )


def layer_norm(config: Config, *, bias: bool = True) -> Norm:
    """The norm of these families."""
    return Norm(kind="layer", eps=config.number("layer_norm_epsilon", "layer_norm_eps", default=1e-5), bias=bias)


def layer(
    config: Config,
    norm: Norm,
    rotation: Rotary | None = None,
    *,
    bias: bool | tuple[bool, bool, bool, bool] = True,
    mlp_bias: bool = True,
    parallel: bool = False,
    **fields: Any,
) -> Layer:
    """Causal attention with ``fields`` replaced, and a plain feed-forward network; ``config`` is that of
    `with_llama_keys`."""
    four = bias if isinstance(bias, tuple) else (bias,) * 4
    one = llama.layer(config, rotation, norm, bias=four, mlp_bias=mlp_bias, gated=False, parallel=parallel)
    return edit(one, "attention", **fields)


def decoder(
    config: Config,
    task: str,
    layers: Layer | Sequence[Layer],
    norm: Norm,
    *,
    placed: bool = False,
    embedding_norm: Norm | None = None,
    language_bias: bool = False,
) -> Model:
    """A model of these layers, or of one repeated.

    Args:
        config: the configuration of `with_llama_keys`.
        task: the head of a task (`lapwing.tasks`).
        layers: the layers.
        norm: the final norm.
        placed: whether there is a table of positions.
        embedding_norm: the norm of the embedding.
        language_bias: whether the language head has a bias.
    """
    several = [layers] * config.size("num_hidden_layers") if isinstance(layers, Layer) else layers
    model = llama.decoder(config, task, several, norm)
    head, stack = model.language_head, model.decoder
    assert stack is not None
    positions = config.size("max_position_embeddings") if placed else 0
    return replace(
        model,
        decoder=replace(stack, stem=replace(stack.stem, positions=positions, norm=embedding_norm)),
        language_head=replace(head, bias=language_bias) if head is not None else None,
    )


def tensors(
    config: Config,
    checkpoint: Mapping[str, Tensor],
    task: str,
    names: Names,
    *,
    prefixes: Sequence[str] = ("transformer.",),
    one_norm: bool = False,
) -> Renamed:
    """Renamed tensors; with ``one_norm`` attention and feed-forward read the same one."""
    if task == "token-classification":
        names = {**names, "head.0": "classifier"}
    out = llama.tensors(config, checkpoint, task, names=names, prefixes=prefixes)
    if one_norm:
        count = config.size("num_hidden_layers")
        share(out, LAYER + "feed_forward.input_norm", LAYER + "attention.input_norm", count)
    return out


def slopes(heads: int) -> tuple[float, ...]:
    """Slopes of ALiBi: 2^(-8 j / n) for n heads, n the next lower power of two; those of further heads lie in between.

    Press et al. 2022, https://arxiv.org/abs/2108.12409
    """
    n = 1 << (heads.bit_length() - 1)
    first = [2 ** (-8 * j / n) for j in range(1, n + 1)]
    return (*first, *(2 ** (-4 * j / n) for j in range(1, 2 * (heads - n), 2)))
