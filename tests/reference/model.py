"""Any model of `lapwing.spec`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lapwing.spec import (
    Attention,
    Body,
    Convolution,
    CrossAttention,
    Dense,
    DisentangledAttention,
    Experts,
    FeedForward,
    Head,
    HeadLayer,
    Layer,
    Model,
    Normalization,
    Pooling,
    ShortConvolution,
    TokenStem,
    UnitLength,
)

from .activation import activate
from .attention import attention, cross_attention, linear
from .convolution import convolution, short_convolution
from .disentangled import disentangled_attention
from .feed_forward import experts, feed_forward
from .norm import Tensors, norm

Array = np.ndarray[Any, Any]
Ids = Sequence[int]


class Twin:
    """A spec with its weights, by tensor name."""

    def __init__(
        self,
        spec: Model,
        weights: Mapping[str, Array],
        dtype: Any = np.float64,
        rounding: Callable[[tuple[int, ...]], Array] | None = None,
    ) -> None:
        self.spec = spec
        self.weights = Tensors({name: value.astype(dtype) for name, value in weights.items()}, rounding)

    # -- blocks ----------------------------------------------------------------------------------------

    def _body(
        self, body: Body, name: str, x: Array, source: Array | None, relative: Array | None
    ) -> tuple[Array, Array | None]:
        """The output of a body, and the probabilities of an attention."""
        w = self.weights
        match body:
            case Attention():
                return attention(body, w, name, x)
            case CrossAttention():
                assert source is not None
                return cross_attention(body, w, name, x, source)
            case DisentangledAttention():
                assert relative is not None
                return disentangled_attention(body, w, name, x, relative)
            case FeedForward():
                return feed_forward(body, w, name, x), None
            case Convolution():
                return convolution(body, w, name, x), None
            case ShortConvolution():
                return short_convolution(body, w, name, x), None
            case Experts():
                return experts(body, w, name, x), None

    def _layer(
        self, layer: Layer, name: str, x: Array, source: Array | None, relative: Array | None
    ) -> tuple[Array, Array | None, Array | None]:
        """States, and the probabilities of the layer's attention and cross-attention."""
        given, w = x, self.weights
        seen = crossed = None
        for block in layer.blocks:
            place = f"{name}.{block.place}"
            normed = norm(block.input_norm, w, f"{place}.input_norm", given if block.from_layer_input else x)
            y, probabilities = self._body(block.body, place, normed, source, relative)
            residual = normed if block.residual_after_norm else x
            x = residual + block.residual_scale * norm(block.output_norm, w, f"{place}.output_norm", y)
            x = norm(block.residual_norm, w, f"{place}.residual_norm", x)
            if isinstance(block.body, CrossAttention):
                crossed = probabilities
            elif probabilities is not None:
                seen = probabilities
        return x, seen, crossed

    def embed(self, stem: TokenStem, name: str, ids: Ids, segments: Ids | None) -> Array:
        w, place = self.weights, f"{name}.embedding"
        x = w[f"{place}.token.weight"][list(ids)] * stem.scale
        if stem.embedding_size is not None and stem.project_before_positions:
            x = linear(w, f"{place}.projection", x)
        if stem.dropout is not None:
            masked = np.array(ids) == stem.dropout.mask
            kept = stem.dropout.kept / (1 - masked.mean()) if not masked.all() else 0.0
            x = np.where(masked[:, None], 0.0, x * kept)
        if stem.norm_before_positions:
            x = norm(stem.norm, w, f"{place}.norm", x)
        if stem.segments:
            x = x + w[f"{place}.segment.weight"][[0] * len(ids) if segments is None else list(segments)]
        if stem.positions:
            placed = np.array(ids) != (-1 if stem.unplaced is None else stem.unplaced)
            padding = np.array(ids) == (-1 if stem.padding is None else stem.padding)
            rows = np.where(padding, stem.positions, np.cumsum(~padding) - 1)
            x = x + w[f"{place}.position.weight"][rows] * (placed | padding)[:, None]
        if not stem.norm_before_positions:
            x = norm(stem.norm, w, f"{place}.norm", x)
        if stem.embedding_size is not None and not stem.project_before_positions:
            x = linear(w, f"{place}.projection", x)
        return x

    def run(
        self, name: str, ids: Ids, segments: Ids | None = None, source: Array | None = None
    ) -> tuple[list[Array], list[Array | None], list[Array | None]]:
        """States (the embedding, each layer's, the last after the final norm), attentions and cross-attentions."""
        stack = self.spec.encoder if name == "encoder" else self.spec.decoder
        assert stack is not None
        relative = None
        if stack.relative is not None:
            table = self.weights[f"{name}.relative.weight"]
            relative = norm(stack.relative.norm, self.weights, f"{name}.relative.norm", table)
        x = self.embed(stack.stem, name, ids, segments)
        states: list[Array] = [x]
        seen: list[Array | None] = []
        crossed: list[Array | None] = []
        for i, layer in enumerate(stack.layers):
            x, own, other = self._layer(layer, f"{name}.layers.{i}", x, source, relative)
            states.append(x)
            seen.append(own)
            crossed.append(other)
        x = norm(stack.final_norm, self.weights, f"{name}.norm", x)
        if stack.output_size is not None:
            x = linear(self.weights, f"{name}.output", x)
        states[-1] = x
        return states, seen, crossed

    # -- whole models ----------------------------------------------------------------------------------

    @property
    def reader(self) -> str:
        """The stack that reads text."""
        return "encoder" if self.spec.encoder is not None else "decoder"

    def states(self, ids: Ids, segments: Ids | None = None) -> Array:
        """Final states of the stack that reads text, ``[tokens, width]``."""
        return self.run(self.reader, ids, segments)[0][-1]

    def decode(self, source: Ids, ids: Ids) -> Array:
        """Final states of the decoder beside an encoder."""
        return self.run("decoder", ids, source=self.states(source))[0][-1]

    def dense(self, name: str, layers: Sequence[HeadLayer], x: Array, first: int = 0) -> Array:
        """Layers of a head; ``first`` is the number of the first one in tensor names."""
        w = self.weights
        for i, layer in enumerate(layers, first):
            match layer:
                case Dense():
                    y = activate(layer.activation, w, linear(w, f"{name}.{i}", x))
                    if layer.residual:
                        y = y + (x if layer.outputs == x.shape[-1] else linear(w, f"{name}.{i}.residual", x))
                    x = norm(layer.norm, w, f"{name}.{i}.norm", y)
                case Normalization():
                    x = norm(layer.norm, w, f"{name}.{i}.norm", x)
                case UnitLength():
                    x = unit_length(x)
        return x

    def logits(self, states: Array) -> Array:
        """Logits of the language head."""
        head = self.spec.language_head
        assert head is not None
        x = self.dense("language_head.transform", head.transform, states)
        x = head.scale * linear(self.weights, "language_head", x)
        return x if head.softcap is None else head.softcap * np.tanh(x / head.softcap)

    def head(self, name: str, states: Array, skip: int = 0) -> Array:
        """The ``head`` or the ``pooler``: a row for each token or for the sequence."""
        head = self.spec.head if name == "head" else self.spec.pooler
        assert isinstance(head, Head)
        return self.apply_head(name, head, states, skip)

    def embedding(self, route: int, ids: Ids, skip: int = 0) -> Array:
        """The embedding by a head, which leaves out ``skip`` tokens in its poolings."""
        head, name = self.spec.embeddings[route], f"embeddings.{route}"
        states = self.run(self.reader, ids)[0]
        x = states[-1]
        if head.mixture is not None:
            weights = self.weights[f"{name}.mixture"]
            x = np.tensordot(weights, np.stack(states[head.mixture :]), 1) / weights.sum()
        return self.apply_head(name, head, x, skip)

    def apply_head(self, name: str, head: Head, states: Array, skip: int) -> Array:
        x = self.dense(name, head.layers[: head.token_layers], states)
        if head.pool:
            x = np.concatenate([pool(mode, x, skip) for mode in head.pool])[None]
        return self.dense(name, head.layers[head.token_layers :], x, head.token_layers)


def pool(mode: Pooling, states: Array, skip: int = 0) -> Array:
    """One row of the states ``[tokens, width]`` of a text, without the first ``skip`` tokens but at least one."""
    skip = min(skip, len(states) - 1)
    kept = states[skip:]
    positions = np.arange(1, len(states) + 1)[skip:, None]
    return {
        "first": kept[0],
        "last": kept[-1],
        "mean": kept.mean(axis=0),
        "mean_sqrt_len": kept.sum(axis=0) / np.sqrt(len(kept)),
        "weighted_mean": (kept * positions).sum(axis=0) / positions.sum(),
        "max": kept.max(axis=0),
    }[mode]


def unit_length(x: Array) -> Array:
    return x / np.maximum(np.sqrt((x**2).sum(axis=-1, keepdims=True)), 1e-12)
