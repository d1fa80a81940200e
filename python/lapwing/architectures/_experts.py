"""What families with mixtures of experts share: the body in place of a feed-forward network, and stacked weights."""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Experts, FeedForward, Layer, Router
from ._common import activation, edit
from ._names import Renamed

PLACE = "decoder.layers.{i}.feed_forward."
"""Experts have the name of the network that they replace: so the names of the norms around both are the same."""
GATE_UP, DOWN = PLACE + "gate_up.weight", PLACE + "down_experts.weight"
STACKED = {GATE_UP: "layers.{i}.mlp.experts.gate_up_proj", DOWN: "layers.{i}.mlp.experts.down_proj"}
"""Names of the matrices of all experts of a layer, ``[count, outputs, inputs]``, as transformers 5 holds them."""


def count(config: Config) -> int:
    """Number of experts of a layer."""
    return config.size("num_local_experts", "num_experts", maximum=4096)


def with_experts(config: Config, layer: Layer, *, width: int, renormalize: bool) -> Layer:
    """The layer with experts of this width in place of its feed-forward network."""
    chosen = config.size("num_experts_per_tok")
    if chosen > count(config):
        raise config.wrong("num_experts_per_tok", f"at most the number of experts, {count(config)}")
    body = Experts(
        router=Router(count=count(config), per_token=chosen, renormalize=renormalize),
        expert=FeedForward(width=width, activation=activation(config, "hidden_act", default="silu"), gated=True),
    )
    return edit(layer, "feed_forward", body=body, name="feed_forward")


def cut_experts(config: Config, out: Renamed, layers: int) -> None:
    """Replaces the stacked matrices of every layer by those of each expert."""
    for i in range(layers):
        place = PLACE.replace("{i}", str(i))
        for stacked, parts in ((GATE_UP, ("gate", "up")), (DOWN, ("down",))):
            name = stacked.replace("{i}", str(i))
            tensor = out.get(name)
            # A tensor of another shape is kept, so that the check of shapes reports it.
            if tensor is None or len(tensor.shape) != 3 or tensor.shape[0] != count(config):
                continue
            _, rows, columns = tensor.shape
            if rows % len(parts):
                continue
            del out[name]
            for expert in range(count(config)):
                matrix = tensor.rows(expert, expert + 1).reshape(rows, columns)
                for part, piece in zip(parts, matrix.split(*[rows // len(parts)] * len(parts)), strict=True):
                    out[f"{place}{expert}.{part}.weight"] = piece
