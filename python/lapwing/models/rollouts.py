"""Attention rollout through the stacks of a model, with bounds on its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ContextLengthError, OptionError
from ..explain.methods import mean_of_heads, rollout
from ..spec import Attention, Convolution, CrossAttention, DisentangledAttention, ShortConvolution
from .base import ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .. import _core
    from ..spec import Model as Spec
    from ..spec import Stack

    Values = NDArray[np.float64]

ATTENTION_BYTES = 256 << 20
"""Bound of the attention probabilities of one layer in memory."""


def of_stack(core: _core.Model, stack: Stack, ids: Sequence[int], segments: Any = None) -> Values:
    """The share of each input token in each final state of an encoder or of a decoder alone, [tokens, tokens].

    Raises:
        OptionError: a layer mixes tokens by another operator than attention.
        ContextLengthError: the probabilities of a layer do not fit into `ATTENTION_BYTES`.
    """
    layers = [number for number, kinds in enumerate(_attentions(stack)) if kinds]
    _check_size(_heads(stack), len(ids), len(ids))
    flat = ragged([ids])[0]
    return rollout((core.attentions(flat, number, segments) for number in layers), len(ids))


def of_pair(core: _core.Model, spec: Spec, source: Sequence[int], target: Sequence[int]) -> tuple[Values, Values]:
    """The shares of the decoder's inputs [targets, targets] and of the source's tokens [targets, sources] in each final
    state of the decoder.

    Cross-attention mixes the rollout of the encoder half and half into the states of the decoder, so that the shares of
    both sum to 1.
    """
    encoder, decoder = spec.encoder, spec.decoder
    assert encoder is not None  # of an encoder-decoder
    assert decoder is not None
    blocks = list(_attentions(decoder))
    _check_size(_heads(decoder), len(target), max(len(source), len(target)))
    memory = of_stack(core, encoder, source)
    ids, sources = ragged([target])[0], ragged([source])[0]
    own, from_source = np.eye(len(target)), np.zeros((len(target), len(source)))
    for number, kinds in enumerate(blocks):
        for kind in kinds:
            cross = kind is CrossAttention
            mean = mean_of_heads(core.decoder_attentions(sources, ids, number, cross))
            if cross:
                own, from_source = own / 2, (from_source + mean @ memory) / 2
            else:
                own, from_source = (own + mean @ own) / 2, (from_source + mean @ from_source) / 2
    return own, from_source


def _attentions(stack: Stack) -> Iterator[list[type]]:
    """The kinds of attention of each layer, in order."""
    for number, layer in enumerate(stack.layers):
        found: list[type] = []
        for block in layer.blocks:
            body = block.body
            if isinstance(body, Convolution | ShortConvolution):
                raise OptionError(
                    f"method is 'rollout', but layer {number} mixes tokens by {type(body).__name__}, which has no attention "
                    "probabilities: use 'occlusion' or 'shapley'"
                )
            if isinstance(body, Attention | DisentangledAttention | CrossAttention):
                found.append(CrossAttention if isinstance(body, CrossAttention) else Attention)
        if len(set(found)) < len(found):
            raise OptionError(
                f"method is 'rollout', but layer {number} has several attentions of one kind: expected one; use 'occlusion' "
                "or 'shapley'"
            )
        yield found


def _heads(stack: Stack) -> int:
    bodies = (block.body for layer in stack.layers for block in layer.blocks)
    kinds = Attention | DisentangledAttention | CrossAttention
    return max((body.heads for body in bodies if isinstance(body, kinds)), default=1)


def _check_size(heads: int, queries: int, keys: int) -> None:
    size = 4 * heads * queries * keys
    if size > ATTENTION_BYTES:
        raise ContextLengthError(
            f"rollout of {queries} by {keys} tokens needs {size >> 20} MiB for the {heads} heads of a layer: expected at "
            f"most {ATTENTION_BYTES >> 20} MiB, {int((ATTENTION_BYTES / 4 / heads) ** 0.5)} tokens; shorten the text, or "
            "use 'occlusion'"
        )
