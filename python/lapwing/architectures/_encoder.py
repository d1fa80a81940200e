"""What the families of encoders share: the heads of the usual tasks and the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from ..checkpoint import Config, Tensor
from ..spec import Attention, Dense, Head, LanguageHead, Layer, Model, Norm, Stack
from ._common import classifier, edit_blocks, question_answering
from ._names import Names, Renamed, rename, tie

Heads = Mapping[str, Names]
"""By task, the names of the tensors that only this task reads."""

_OTHER_BIAS = "language_head.decoder.bias"


def pre_norm(layer: Layer, norm: Norm) -> Layer:
    """A post-norm layer with its norms moved before the blocks."""
    return edit_blocks(layer, input_norm=norm, residual_norm=None)


def layer_norm(config: Config, *keys: str, default: float = 1e-12) -> Norm:
    """A layer norm with weight and bias; ``keys`` name its eps."""
    return Norm(kind="layer", eps=config.number(*(keys or ("layer_norm_eps",)), default=default), bias=True)


def attention(config: Config, hidden: int, heads: int, *, bias: bool = True, **fields: object) -> Attention:
    """Attention with as many key heads as query heads; ``fields`` are further ones of the body."""
    if hidden % heads:
        raise config.wrong("num_attention_heads", f"a divisor of hidden_size, {hidden}")
    values: dict[str, object] = {
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "scale": (hidden // heads) ** -0.5,
        "query_bias": bias,
        "key_bias": bias,
        "value_bias": bias,
        "output_bias": bias,
    }
    return Attention(**(values | fields))  # type: ignore[arg-type]


def model(
    config: Config,
    task: str,
    stack: Stack,
    *,
    pooler: Dense | None = None,
    sequence: tuple[Dense, ...] = (),
    pool: Literal["first", "mean", "mean_output"] = "first",
    token: tuple[Dense, ...] = (),
    language: tuple[Dense, ...] = (),
    language_bias: bool = True,
) -> Model:
    """The stack with the head of the task.

    Args:
        config: the checkpoint's configuration.
        task: the head of a task (`lapwing.tasks`); any without a head here leaves the hidden states.
        stack: the encoder.
        pooler: the layer over the first token that gives the pooled output.
        sequence: layers before the classifier of whole texts, over the token or the mean that ``pool`` takes.
        token: layers before the classifier of tokens.
        language: layers before the logits over the vocabulary.
        language_bias: whether these have a bias.
    """
    if task == "sequence-classification":
        return Model(encoder=stack, head=classifier(config, pool, *sequence))
    if task == "token-classification":
        return Model(encoder=stack, head=classifier(config, "none", *token))
    if task == "question-answering":
        head = question_answering()
        return Model(encoder=stack, head=replace(head, layers=(*token, *head.layers)))
    if task == "fill-mask":
        return Model(
            encoder=stack,
            language_head=LanguageHead(vocab_size=stack.stem.vocab_size, bias=language_bias, transform=language),
        )
    return Model(encoder=stack, pooler=Head(pool=("first",), layers=(pooler,)) if pooler else None)


def tensors(
    checkpoint: Mapping[str, Tensor],
    task: str,
    names: Names,
    heads: Heads,
    *,
    prefixes: Iterable[str],
    ignore: Iterable[str] = (),
) -> Renamed:
    """Renames the tensors of the body and of one task's head; those of other tasks' heads are left out.

    A language head without a table of its own gets the embedding's.
    """
    used = dict(heads.get(task, heads.get("features", {})))
    if task == "fill-mask":
        # Stored beside the bias or instead of it, with the same numbers; if the head is not tied, this one is used.
        decoder = used.get("language_head.weight", "").removesuffix(".weight")
        used.setdefault(_OTHER_BIAS, f"{decoder}.bias")
    others = {name for head in heads.values() for name in head.values()} - set(used.values())
    unused = [
        re.escape(name) + ("" if name.endswith((".weight", ".bias")) else r"\.(weight|bias|gamma|beta)")
        for name in sorted(others)
    ]
    decoders = {head["language_head.weight"] for head in heads.values() if "language_head.weight" in head}
    unused += [re.escape(name.removesuffix("weight") + "bias") for name in sorted(decoders)]
    out = rename(
        checkpoint,
        {**names, **used},
        ignore=[*ignore, *unused, r".*\.(position_ids|token_type_ids)"],
        prefixes=prefixes,
    )
    if task == "fill-mask":
        tie(out, "language_head.weight", "encoder.embedding.token.weight")
        other = out.pop(_OTHER_BIAS, None)
        if other is not None:
            out["language_head.bias"] = other
    return out


def shift(out: Renamed, first: int) -> None:
    """Drops the rows of the position table before ``first``, which no token uses, and puts that of padding, the one
    before it, at the end."""
    table = out.get("encoder.embedding.position.weight")
    if table is not None and len(table.shape) == 2 and table.shape[0] >= first:
        used = table.rows(first - 1, table.shape[0])
        out["encoder.embedding.position.weight"] = used.gather(used.shape, lambda rows: np.roll(rows, -1, axis=0))


def adjust(model: Model, out: Mapping[str, Tensor]) -> Model:
    """Drops the pooler from the description where the checkpoint has none (`add_pooling_layer=False`)."""
    return replace(model, pooler=None) if model.pooler and "pooler.0.weight" not in out else model
