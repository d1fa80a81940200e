"""Any model of `lapwing.spec`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lapwing.spec import Attention, Block, Dense, FeedForward, Head, Layer, Model, Stack

from .activation import activate
from .attention import attention, linear
from .disentangled import convolution
from .norm import Tensors, norm

Array = np.ndarray[Any, Any]
Ids = Sequence[int]


def feed_forward(spec: FeedForward, weights: Mapping[str, Array], name: str, x: Array) -> Array:
    """The block without its own norms and residual."""
    inner = linear(weights, f"{name}.up", x)
    if spec.gated:
        inner = activate(spec.activation, weights, linear(weights, f"{name}.gate", x)) * inner
    else:
        inner = activate(spec.activation, weights, inner)
    return linear(weights, f"{name}.down", inner)


class Twin:
    """A spec with its weights, by the names that the core asks for."""

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

    def _end(self, block: Block, name: str, x: Array, y: Array) -> Array:
        """``residual_norm(x + residual_scale * output_norm(y))``."""
        if block.residual_after_norm:
            x = norm(block.input_norm, self.weights, f"{name}.input_norm", x)
        x = x + block.residual_scale * norm(block.output_norm, self.weights, f"{name}.output_norm", y)
        return norm(block.residual_norm, self.weights, f"{name}.residual_norm", x)

    def _attend(
        self, block: Attention, name: str, x: Array, source: Array | None, relative: Array | None
    ) -> tuple[Array, Array]:
        x = norm(block.input_norm, self.weights, f"{name}.input_norm", x)
        return attention(block, self.weights, name, x, source, relative)

    def _feed(self, block: FeedForward, name: str, x: Array) -> Array:
        return feed_forward(block, self.weights, name, norm(block.input_norm, self.weights, f"{name}.input_norm", x))

    def _layer(
        self, layer: Layer, name: str, x: Array, source: Array | None, relative: Array | None
    ) -> tuple[Array, Array, Array | None]:
        before, a, f = x, layer.attention, layer.feed_forward
        y, seen = self._attend(a, f"{name}.attention", x, None, relative)
        crossed = None
        if layer.parallel:
            z = self._feed(f, f"{name}.feed_forward", x)
            x = self._end(a, f"{name}.attention", x, y)
            x = self._end(f, f"{name}.feed_forward", x, z)
        else:
            x = self._end(a, f"{name}.attention", x, y)
            if layer.cross_attention is not None:
                place = f"{name}.cross_attention"
                y, crossed = self._attend(layer.cross_attention, place, x, source, None)
                x = self._end(layer.cross_attention, place, x, y)
            x = self._end(f, f"{name}.feed_forward", x, self._feed(f, f"{name}.feed_forward", x))
        if layer.convolution is not None:
            x = convolution(layer.convolution, self.weights, f"{name}.convolution", before, x)
        return x, seen, crossed

    def embed(self, stack: Stack, name: str, ids: Ids, segments: Ids | None) -> Array:
        w, place = self.weights, f"{name}.embedding"
        x = w[f"{place}.token.weight"][list(ids)] * stack.embedding_scale
        if stack.embedding_size is not None and stack.project_before_positions:
            x = linear(w, f"{place}.projection", x)
        if stack.token_dropout is not None:
            masked = np.array(ids) == stack.token_dropout.mask
            kept = stack.token_dropout.kept / (1 - masked.mean()) if not masked.all() else 0.0
            x = np.where(masked[:, None], 0.0, x * kept)
        if stack.norm_before_positions:
            x = norm(stack.embedding_norm, w, f"{place}.norm", x)
        if stack.segments:
            x = x + w[f"{place}.segment.weight"][[0] * len(ids) if segments is None else list(segments)]
        if stack.positions:
            placed = np.array(ids) != (-1 if stack.unplaced is None else stack.unplaced)
            x = x + w[f"{place}.position.weight"][: len(ids)] * placed[:, None]
        if not stack.norm_before_positions:
            x = norm(stack.embedding_norm, w, f"{place}.norm", x)
        if stack.embedding_size is not None and not stack.project_before_positions:
            x = linear(w, f"{place}.projection", x)
        return x

    def run(
        self, name: str, ids: Ids, segments: Ids | None = None, source: Array | None = None
    ) -> tuple[list[Array], list[Array], list[Array | None]]:
        """States (the embedding, each layer's, the last after the final norm), attentions and cross-attentions."""
        stack = self.spec.encoder if name == "encoder" else self.spec.decoder
        assert stack is not None
        relative = None
        if stack.relative_rows:
            relative = norm(
                stack.relative_norm, self.weights, f"{name}.relative.norm", self.weights[f"{name}.relative.weight"]
            )
        x = self.embed(stack, name, ids, segments)
        states, seen, crossed = [x], [], []
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

    def dense(self, name: str, layers: Sequence[Dense], x: Array) -> Array:
        for i, layer in enumerate(layers):
            x = activate(layer.activation, self.weights, linear(self.weights, f"{name}.{i}", x))
            x = norm(layer.norm, self.weights, f"{name}.{i}.norm", x)
        return x

    def logits(self, states: Array) -> Array:
        """Logits of the language head."""
        head = self.spec.language_head
        assert head is not None
        x = self.dense("language_head.transform", head.transform, states)
        x = head.scale * linear(self.weights, "language_head", x)
        return x if head.softcap is None else head.softcap * np.tanh(x / head.softcap)

    def head(self, name: str, states: Array) -> Array:
        """The ``head`` or the ``pooler``: a row for each token or for the sequence."""
        head = self.spec.head if name == "head" else self.spec.pooler
        assert isinstance(head, Head)
        if head.pool == "mean_output":
            return self.dense(name, head.layers, states).mean(axis=0, keepdims=True)
        pooled = {
            "none": states,
            "first": states[:1],
            "last": states[-1:],
            "mean": states.mean(axis=0, keepdims=True),
        }[head.pool]
        return self.dense(name, head.layers, pooled)
