"""What a transformer is made of: the description that Python fills in and Rust computes.

A model is a tree of frozen dataclasses. It crosses to Rust once, as JSON, and is mirrored there by
``rust/model/spec.rs``; Rust knows these parts and never a model's name. A layer is a list of residual
blocks, and a block owns its body: attention, a feed-forward network, a convolution, experts. Placement of
norms needs no flag: each block has three optional norms and one formula covers every family,

    x = residual_norm(x + residual_scale * output_norm(body(input_norm(x))))

Pre-norm (Llama) sets ``input_norm``, post-norm (BERT, BART) ``residual_norm``, OLMo 2 ``output_norm``,
Gemma 2 the first two. Layers are a list, so alternating patterns need no field. Whatever can be
computed from a configuration alone is computed in Python: rotary scalings become ``inv_freq``,
sinusoids a table of positions, fused weights are cut.

Every linear layer is ``y = x @ weight.T + bias`` with ``weight: [outputs, inputs]``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal

Activation = Literal["identity", "relu", "relu2", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh", "sigmoid"]
"""Names of activations: ``gelu`` is exact (erf), ``relu2`` is relu squared, ``quick_gelu`` is
``x * sigmoid(1.702 * x)``."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Root-mean-square or layer normalization over the last dimension.

    rms:   x / sqrt(mean(x^2) + eps) * weight
    layer: (x - mean) / sqrt(var + eps) * weight + bias

    ``weight`` and ``bias`` say which tensors exist. Gemma's ``1 + w`` is added while loading.
    """

    kind: Literal["layer", "rms"]
    eps: float
    weight: bool = True
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class LongRotary:
    """Frequencies used instead once the sequence is longer than ``after`` tokens (LongRoPE)."""

    after: int
    inv_freq: tuple[float, ...]
    scale: float


@dataclass(frozen=True, kw_only=True)
class DynamicRotary:
    """Dynamic NTK: beyond ``original_length`` tokens the base grows with the sequence length n,

    base * ((factor * n / original_length) - (factor - 1)) ** (dim / (dim - 2)), dim = 2 * len(inv_freq).
    """

    base: float
    factor: float
    original_length: int


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotary embedding of the first ``2 * len(inv_freq)`` dimensions of each head.

    The angle at position p and pair j is ``p * inv_freq[j]``; cos and sin are multiplied by ``scale``.
    Pairs are (j, j + len(inv_freq)), or neighbours (2j, 2j + 1) where ``interleaved``.
    Su et al. 2021, https://arxiv.org/abs/2104.09864
    """

    inv_freq: tuple[float, ...]
    scale: float = 1.0
    interleaved: bool = False
    long: LongRotary | None = None
    dynamic: DynamicRotary | None = None


@dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """Bias by bucketed distance, added to the scores (T5). Tensor ``bias.weight: [buckets, heads]``.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683
    """

    buckets: int
    max_distance: int
    bidirectional: bool


@dataclass(frozen=True, kw_only=True)
class Alibi:
    """Bias ``slope[head] * (key position - query position)`` added to the scores.

    ``rounded`` (Falcon) makes it ``scale * round(round(slope[head]) * round(key position))``, with the attention's
    scale and everything rounded to bfloat16; that of the query is the same for all keys and left out.
    Press et al. 2022, https://arxiv.org/abs/2108.12409
    """

    slopes: tuple[float, ...]
    rounded: bool = False


@dataclass(frozen=True, kw_only=True)
class QueryScale:
    """Queries at position p are multiplied by ``1 + beta * log(1 + floor(p / original_length))``."""

    beta: float
    original_length: int


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Multi-head self-attention with ``kv_heads`` shared among groups of query heads.

    scores = softcap * tanh(scale * q.k / softcap) + bias; a key at position j is visible from query i if
    (not causal or j <= i) and (window is None or |i - j| < window).

    ``query_norm`` and ``key_norm`` act per head (``norm_over = "head"``: weight [head_dim]), on each head
    with weights of its own ("heads": weight [heads, head_dim]) or on the whole projection ("all": weight
    [heads * head_dim]), before the rotation or after it. ``clip`` clamps q, k and v to +-clip.
    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Ainslie et al. 2023, https://arxiv.org/abs/2305.13245
    """

    kind: ClassVar[str] = "attention"

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    output_bias: bool = False
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_over: Literal["head", "heads", "all"] = "head"
    norm_after_rotary: bool = False
    clip: float | None = None
    rotary: Rotary | None = None
    query_scale: QueryScale | None = None
    relative_bias: RelativeBias | None = None
    alibi: Alibi | None = None


@dataclass(frozen=True, kw_only=True)
class CrossAttention:
    """Attention of a decoder to the final states of the encoder, all of which are visible; fields as in `Attention`."""

    kind: ClassVar[str] = "cross_attention"

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float | None = None
    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    output_bias: bool = False
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_over: Literal["head", "heads", "all"] = "head"


@dataclass(frozen=True, kw_only=True)
class DisentangledAttention:
    """DeBERTa's bidirectional attention, scores = scale * (q.k + content-to-position + position-to-content).

    ``scale`` already counts the number of terms. Relative positions ``query - key`` fall into ``2 * span`` rows of
    the stack's table ``relative.weight: [2 * span, hidden]``; with ``buckets`` > 0 distances are log-bucketed up to
    ``max_distance``. ``share_key`` projects the table with the layer's own query and key weights, else
    the layer has ``position_query`` and ``position_key``.
    He et al. 2021, https://arxiv.org/abs/2006.03654
    """

    kind: ClassVar[str] = "disentangled_attention"

    heads: int
    head_dim: int
    scale: float
    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    output_bias: bool = False
    span: int
    buckets: int
    max_distance: int
    content_to_position: bool
    position_to_content: bool
    share_key: bool


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) where gated. ``width`` is the inner size."""

    kind: ClassVar[str] = "feed_forward"

    width: int
    activation: Activation
    gated: bool = False
    gate_bias: bool = False
    up_bias: bool = False
    down_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """activation(conv1d(x)), centred and zero-padded, with bias (DeBERTa-v2-xl).

    Tensors ``weight: [hidden, hidden / groups * kernel]`` and ``bias: [hidden]``.
    """

    kind: ClassVar[str] = "convolution"

    kernel: int
    groups: int
    activation: Activation


@dataclass(frozen=True, kw_only=True)
class ShortConvolution:
    """output(c * conv(b * h)) with [b, c, h] = input(x) and a causal depthwise convolution (LFM2).

    Tensors ``input: [3 * hidden, hidden]``, ``convolution.weight: [hidden, kernel]`` and ``output: [hidden, hidden]``;
    ``bias`` gives all three a bias. The state of a sequence is the last ``kernel - 1`` rows of b * h.
    Liquid AI 2025, https://arxiv.org/abs/2511.23404
    """

    kind: ClassVar[str] = "short_convolution"

    kernel: int
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Router:
    """Chooses ``per_token`` of ``count`` experts by the logits ``weight: [count, hidden]`` gives.

    Scores are the softmax over all logits or the sigmoid of each; those of the top-k experts are divided by their sum
    with ``renormalize``, then multiplied by ``scale``.
    """

    count: int
    per_token: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    renormalize: bool = True
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Mixture of experts: the sum of score * expert(x) over the experts that the router chooses for each token.

    Tensors ``router.weight``, and those of a feed-forward network for each expert: ``0.gate``, ``0.up``, ``0.down`` ...
    Shazeer et al. 2017, https://arxiv.org/abs/1701.06538
    """

    kind: ClassVar[str] = "experts"

    router: Router
    expert: FeedForward


Body = Attention | CrossAttention | DisentangledAttention | FeedForward | Convolution | ShortConvolution | Experts
"""What a block computes."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """x becomes residual_norm(x + residual_scale * output_norm(body(input_norm(x)))).

    A norm that is None is skipped. With ``residual_after_norm`` the residual is the normed input
    (Bloom's ``apply_residual_connection_post_layernorm``). With ``from_layer_input`` the body reads x as it was before
    the layer's first block (GPT-J's parallel feed-forward), and its output is added to the running x.

    ``name`` is the block's name in tensor names, unique in its layer; None is the body's default (`place`).
    """

    body: Body
    name: str | None = None
    input_norm: Norm | None = None
    output_norm: Norm | None = None
    residual_norm: Norm | None = None
    residual_scale: float = 1.0
    residual_after_norm: bool = False
    from_layer_input: bool = False

    @property
    def place(self) -> str:
        """The name in tensor names: ``layers.{i}.{place}.``"""
        if self.name is not None:
            return self.name
        return Attention.kind if isinstance(self.body, DisentangledAttention) else self.body.kind


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Residual blocks, one after the other."""

    blocks: tuple[Block, ...]

    def block(self, place: str) -> Block:
        """The block of this name."""
        return next(block for block in self.blocks if block.place == place)


@dataclass(frozen=True, kw_only=True)
class TokenDropout:
    """Mask tokens count as dropped (ESM): their embedding is zero, and that of the others is multiplied by
    ``kept / (1 - share of mask tokens in the sequence)``, before positions are added.
    """

    mask: int
    kept: float


@dataclass(frozen=True, kw_only=True)
class TokenStem:
    """Embedding of token ids.

    x = norm(scale * token[id] + position[p] + segment[s]), then the projection to the stack's ``hidden_size`` where
    there is an ``embedding_size``, even an equal one. ``positions`` is the number of rows of the position table
    (0: none) and thereby the longest sequence.
    Tables and norm are ``embedding_size`` wide, or ``hidden_size`` with ``project_before_positions``.
    ``norm_before_positions`` adds positions and segments to what ``norm`` makes of the tokens
    (Blenderbot small); the token ``unplaced`` gets no position, though it takes up one (padding that M2M-100 writes).
    The token ``padding`` takes up no position, in encoders; its own is a further row at the end of the table.
    """

    kind: ClassVar[str] = "tokens"

    vocab_size: int
    embedding_size: int | None = None
    scale: float = 1.0
    projection_bias: bool = False
    project_before_positions: bool = False
    positions: int = 0
    segments: int = 0
    norm: Norm | None = None
    norm_before_positions: bool = False
    unplaced: int | None = None
    padding: int | None = None
    dropout: TokenDropout | None = None


@dataclass(frozen=True, kw_only=True)
class RelativeTable:
    """Embeddings of relative positions that all layers with `DisentangledAttention` share:
    ``norm(relative.weight)``."""

    rows: int
    norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Stem, layers and final norm of an encoder or a decoder.

    ``max_length`` bounds sequences where the stem has no table of positions. ``output_size`` projects the final states
    to another width (OPT-350m).
    """

    hidden_size: int
    stem: TokenStem
    layers: tuple[Layer, ...]
    max_length: int
    relative: RelativeTable | None = None
    final_norm: Norm | None = None
    output_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Dense:
    """norm(activation(x @ weight.T + bias)).

    With ``residual`` x is added before the norm, projected by ``residual.weight`` where the widths differ.
    """

    kind: ClassVar[str] = "dense"

    outputs: int
    bias: bool = True
    activation: Activation = "identity"
    norm: Norm | None = None
    residual: bool = False


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """A norm as a layer of a head; its tensors are ``norm.weight`` and ``norm.bias``."""

    kind: ClassVar[str] = "normalization"

    norm: Norm


@dataclass(frozen=True, kw_only=True)
class UnitLength:
    """Scales a row to unit length; one shorter than 1e-12 is divided by that."""

    kind: ClassVar[str] = "unit_length"


HeadLayer = Dense | Normalization | UnitLength
"""What a layer of a head computes, row by row."""

Pooling = Literal["first", "last", "mean", "mean_sqrt_len", "weighted_mean", "max"]
"""Reductions over the tokens of a sequence: one token, their mean, their sum divided by the square root of the length,
their mean with the weights 1, 2, 3 ..., their maximum."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a task makes of the hidden states: layers over each token, pooling, layers over the pooled row.

    ``pool`` lists the poolings, whose results are concatenated; without any, every token keeps its row. The first
    ``token_layers`` of the layers run before the pooling. ``mixture`` replaces the final states by the mean of the
    embedding and all layers' outputs, from this one on, weighted by the tensor ``mixture``.
    Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084
    """

    pool: tuple[Pooling, ...]
    layers: tuple[HeadLayer, ...] = ()
    token_layers: int = 0
    mixture: int | None = None

    def output_width(self, states: int) -> int:
        """Width of the output, for states of this width."""
        width = states
        for i in range(len(self.layers) + 1):
            if i == self.token_layers:
                width *= max(1, len(self.pool))
            if i < len(self.layers):
                layer = self.layers[i]
                width = layer.outputs if isinstance(layer, Dense) else width
        return width


@dataclass(frozen=True, kw_only=True)
class LanguageHead:
    """Logits over the vocabulary: ``softcap * tanh(scale * (transform(x) @ weight.T + bias) / softcap)``.

    ``transform`` are the dense layers of a masked-language head.
    """

    vocab_size: int
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    transform: tuple[Dense, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Model:
    """A whole model. An encoder alone, a decoder alone, or both with cross-attention in the decoder.

    ``language_head`` sits on the decoder (or on an encoder, for fill-mask); ``head`` is a task head and
    ``pooler`` the pooled output of BERT-like encoders, both on the last stack's states. ``embeddings`` make embeddings
    of the states of the stack that reads text; several are routes of one model, as for queries and documents.
    """

    encoder: Stack | None = None
    decoder: Stack | None = None
    language_head: LanguageHead | None = None
    pooler: Head | None = None
    head: Head | None = None
    embeddings: tuple[Head, ...] = ()

    def to_json(self) -> str:
        """The text that crosses to Rust."""
        return json.dumps(plain(self), allow_nan=False)


VARIANTS = ("body", "stem", "layers", "transform")
"""Fields that hold one of several classes, or a tuple of them: their JSON says which."""


def plain(value: Any) -> Any:
    """Lists and dicts instead of tuples and dataclasses, without what is None; the JSON of `VARIANTS` has the
    ``kind``."""
    if is_dataclass(value):
        found = {}
        for field in fields(value):
            one = getattr(value, field.name)
            if one is not None:
                found[field.name] = tagged(one) if field.name in VARIANTS else plain(one)
        return found
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def tagged(value: Any) -> Any:
    """`plain`, with the ``kind`` of a class that has one."""
    if isinstance(value, tuple):
        return [tagged(item) for item in value]
    kind = getattr(value, "kind", None)
    return plain(value) if kind is None else {"kind": kind, **plain(value)}
