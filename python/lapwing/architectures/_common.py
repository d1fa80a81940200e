"""What several families need: layers and changes of them, activations by their names in configurations, task heads."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Literal

from ..checkpoint import Config
from ..spec import Activation, Block, Body, Dense, Head, Layer, Pooling

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}

_OF_BLOCK = frozenset(field.name for field in fields(Block))


def layer(*bodies: Body, parallel: bool = False, **of_block: Any) -> Layer:
    """A layer of these bodies in this order, in blocks that all have the fields ``of_block``.

    With ``parallel`` every body reads the layer's input.
    """
    blocks = (Block(body=body, from_layer_input=parallel and i > 0, **of_block) for i, body in enumerate(bodies))
    return Layer(blocks=tuple(blocks))


def edit(layer: Layer, place: str, **changes: Any) -> Layer:
    """The layer with other fields of the block ``place``; each goes to the block or to its body by its name."""
    block = layer.block(place)
    of_block: dict[str, Any] = {name: value for name, value in changes.items() if name in _OF_BLOCK}
    of_body: dict[str, Any] = {name: value for name, value in changes.items() if name not in _OF_BLOCK}
    edited = replace(block, **of_block)
    edited = replace(edited, body=replace(edited.body, **of_body))
    return replace(layer, blocks=tuple(edited if one is block else one for one in layer.blocks))


def edit_blocks(layer: Layer, **changes: Any) -> Layer:
    """The layer with other fields of all its blocks."""
    return replace(layer, blocks=tuple(replace(block, **changes) for block in layer.blocks))


def activation(config: Config, *keys: str, default: str | None = None) -> Activation:
    """The activation that the first of ``keys`` names."""
    name = config.word(*keys) if default is None else config.word(*keys, default=default)
    if name not in _ACTIVATIONS:
        raise config.wrong(
            next((k for k in keys if config.get(k) is not None), keys[0]), f"one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def labels(config: Config) -> int:
    """Number of labels of a classification head: ``num_labels``, or the length of ``id2label``, or 2."""
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        return len(names)
    return config.size("num_labels", default=2)


def classifier(
    config: Config,
    pool: Pooling | Literal["none", "mean_output"],
    *before: Dense,
    bias: bool = True,
    outputs: int | None = None,
) -> Head:
    """A head of some dense layers and one output per label: for each token ("none"), for the pooled text, or the mean
    of the outputs for each token ("mean_output")."""
    last = Dense(outputs=labels(config) if outputs is None else outputs, bias=bias)
    layers = (*before, last)
    if pool == "mean_output":
        return Head(pool=("mean",), layers=layers, token_layers=len(layers))
    return Head(pool=() if pool == "none" else (pool,), layers=layers)


def question_answering() -> Head:
    """Start and end scores of each token."""
    return Head(pool=(), layers=(Dense(outputs=2),))
