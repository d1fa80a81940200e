"""The cost model: weights read, multiply-adds and state of a model's work; one function for each kind of body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from .results import ModelInfo
from .spec import (
    Attention,
    Block,
    Body,
    Convolution,
    CrossAttention,
    DisentangledAttention,
    Experts,
    FeedForward,
    Layer,
    ShortConvolution,
    Stack,
)

WEIGHT_BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "q8": 1.0625, "q6": 0.8125, "q4": 0.5547}
"""Bytes of a weight, with its part of the scales."""
KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8": 1.0}
"""Bytes of a number of a cached key or value."""
STATE_BYTES = 4.0
"""Bytes of a number of other state, which is f32 always."""


@dataclass(frozen=True)
class Cost:
    """Cost of a body, or of several together; their sum is that of both."""

    held: int = 0
    """Weights of the matrices."""
    read: float = 0.0
    """Of these, weights that one step reads."""
    products: int = 0
    """Multiply-adds of a token with weights."""
    keys: int = 0
    """Multiply-adds for a token's keys and values: part of ``products`` in self-attention, beside them in
    cross-attention, where the token is one of the source."""
    pairs: int = 0
    """Multiply-adds of a token with each token that it attends to: of the score and of the sum of values."""
    cached: int = 0
    """Numbers of keys and values that are cached for a token."""
    state: int = 0
    """Numbers of state that are kept for a sequence of any length."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def attention(body: Attention | DisentangledAttention | CrossAttention, hidden: int) -> Cost:
    kv_heads = body.heads if isinstance(body, DisentangledAttention) else body.kv_heads
    cached = 2 * kv_heads * body.head_dim
    inner = body.heads * body.head_dim
    own, keys = 2 * hidden * inner, hidden * cached
    return Cost(
        held=own + keys,
        read=own + keys,
        products=own if isinstance(body, CrossAttention) else own + keys,
        keys=keys,
        pairs=2 * inner,
        cached=cached,
    )


def feed_forward(body: FeedForward, hidden: int) -> Cost:
    weights = (3 if body.gated else 2) * hidden * body.width
    return Cost(held=weights, read=weights, products=weights)


def convolution(body: Convolution, hidden: int) -> Cost:
    weights = hidden * hidden // body.groups * body.kernel
    return Cost(held=weights, read=weights, products=weights)


def short_convolution(body: ShortConvolution, hidden: int) -> Cost:
    weights = 4 * hidden * hidden + hidden * body.kernel
    return Cost(held=weights, read=weights, products=weights, state=hidden * (body.kernel - 1))


def experts(body: Experts, hidden: int, rows: int) -> Cost:
    """A step reads the experts that any of its rows chooses; their expected number if choices are equally likely."""
    router, each = body.router, feed_forward(body.expert, hidden).held
    logits = router.count * hidden
    chosen = router.count * (1 - (1 - router.per_token / router.count) ** rows)
    return Cost(
        held=logits + router.count * each,
        read=logits + chosen * each,
        products=logits + router.per_token * each,
    )


def of_body(body: Body, hidden: int, rows: int = 1) -> Cost:
    """Cost of a body over states of this width, in steps of this many rows."""
    match body:
        case Attention() | DisentangledAttention() | CrossAttention():
            return attention(body, hidden)
        case FeedForward():
            return feed_forward(body, hidden)
        case Convolution():
            return convolution(body, hidden)
        case ShortConvolution():
            return short_convolution(body, hidden)
        case Experts():
            return experts(body, hidden, rows)


def of_blocks(blocks: Iterable[Block], hidden: int, rows: int = 1) -> Cost:
    return sum((of_body(block.body, hidden, rows) for block in blocks), Cost())


def of_layers(stack: Stack, rows: int = 1) -> Cost:
    """Cost of all layers of a stack."""
    return of_blocks((block for layer in stack.layers for block in layer.blocks), stack.hidden_size, rows)


def scores(body: Body, length: int) -> int:
    """Multiply-adds of scores and sums of values of self-attention, over all tokens of a sequence."""
    if isinstance(body, DisentangledAttention):
        return 2 * body.heads * body.head_dim * length * length
    if not isinstance(body, Attention):
        return 0
    span = min(body.window or length, length)
    pairs = length * span - span * (span - 1) // 2  # the token itself and those before it
    return 2 * body.heads * body.head_dim * (pairs if body.causal else 2 * pairs - length)


def products(stack: Stack, length: int) -> int:
    """Multiply-adds of a sequence: of all matrices of the layers, of the scores and of the sums of values."""
    return of_layers(stack).products * length + stack_scores(stack, length)


def stack_scores(stack: Stack, length: int) -> int:
    return sum(scores(block.body, length) for layer in stack.layers for block in layer.blocks)


def prefill(stack: Stack, length: int) -> int:
    """Multiply-adds of a prompt's layers up to its first new token."""
    return products(stack, length) - _left_out(stack.layers[-1], stack.hidden_size, length)


def _left_out(last: Layer, hidden: int, length: int) -> int:
    """Multiply-adds that the last layer saves: of all tokens but the last one, only what makes state is computed."""
    tokens = length - 1
    mixing = [i for i, block in enumerate(last.blocks) if isinstance(block.body, Attention | ShortConvolution)]
    if not mixing:
        return tokens * of_blocks(last.blocks, hidden).products
    saved = tokens * of_blocks(last.blocks[mixing[-1] + 1 :], hidden).products
    body = last.blocks[mixing[-1]].body
    if isinstance(body, Attention):
        if not body.causal:
            return 0
        own = attention(body, hidden)
        saved += tokens * (own.products - own.keys) + scores(body, tokens)
    return saved


def weight_bytes(info: ModelInfo) -> tuple[float, float]:
    """Bytes of a weight of a model's layers, and of its tables of tokens."""
    if "q4" in info.weight_types:
        return WEIGHT_BYTES["q4"], WEIGHT_BYTES["q6"]
    heaviest = WEIGHT_BYTES[max(info.weight_types, key=lambda name: info.weight_types[name])]
    return heaviest, heaviest


def step_bytes(stack: Stack, info: ModelInfo, rows: int = 1) -> float:
    """Bytes of weights that one step of decoding reads: all matrices but experts that no row chooses, and of an
    embedding that is not the language head's only a row."""
    layers, (weight, of_table) = of_layers(stack, rows), weight_bytes(info)
    table = stack.stem.vocab_size * (stack.stem.embedding_size or stack.hidden_size)
    tied = info.parameters < layers.held + 2 * table
    # Both tables have the same type and shape: what is left when one is gone.
    return info.bytes - (layers.held - layers.read) * weight - (0 if tied else table * of_table)


def state_bytes(cost: Cost, kv: str, length: int) -> float:
    """Bytes of keys, values and other state of a sequence of this many tokens."""
    return length * cost.cached * KV_BYTES[kv] + cost.state * STATE_BYTES
