"""What a transformer is made of: the description that Python fills in and Rust computes.

A model is a tree of frozen dataclasses. It crosses to Rust once, as JSON, and is mirrored there by
``rust/model/spec.rs``; Rust knows these blocks and never a model's name. Placement of norms needs no
flag: each block owns three optional norms and one formula covers every family,

    x = residual_norm(x + residual_scale * output_norm(block(input_norm(x))))

Pre-norm (Llama) sets ``input_norm``, post-norm (BERT, BART) ``residual_norm``, OLMo 2 ``output_norm``,
Gemma 2 the first two. Layers are a list, so alternating patterns need no field. Whatever can be
computed from a configuration alone is computed in Python: rotary scalings become ``inv_freq``,
sinusoids a table of positions, fused weights are cut.

Every linear layer is ``y = x @ weight.T + bias`` with ``weight: [outputs, inputs]``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

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
class Disentangled:
    """DeBERTa's content-to-position and position-to-content scores, added before scaling by
    ``scale`` (which already counts the number of terms).

    Relative positions ``query - key`` fall into ``2 * span`` rows of the stack's table
    ``relative.weight: [2 * span, hidden]``; with ``buckets`` > 0 distances are log-bucketed up to
    ``max_distance``. ``share_key`` projects the table with the layer's own query and key weights, else
    the layer has ``position_query`` and ``position_key``.
    He et al. 2021, https://arxiv.org/abs/2006.03654
    """

    span: int
    buckets: int
    max_distance: int
    content_to_position: bool
    position_to_content: bool
    share_key: bool


@dataclass(frozen=True, kw_only=True)
class QueryScale:
    """Queries at position p are multiplied by ``1 + beta * log(1 + floor(p / original_length))``."""

    beta: float
    original_length: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """x becomes residual_norm(x + residual_scale * output_norm(block(input_norm(x)))).

    A norm that is None is skipped. With ``residual_after_norm`` the residual is the normed input
    (Bloom's ``apply_residual_connection_post_layernorm``).
    """

    input_norm: Norm | None = None
    output_norm: Norm | None = None
    residual_norm: Norm | None = None
    residual_scale: float = 1.0
    residual_after_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class Attention(Block):
    """Multi-head attention with ``kv_heads`` shared among groups of query heads.

    scores = softcap * tanh(scale * q.k / softcap) + bias; a key at position j is visible from query i if
    (not causal or j <= i) and (window is None or |i - j| < window).

    ``query_norm`` and ``key_norm`` act per head (``norm_over = "head"``: weight [head_dim]), on each head
    with weights of its own ("heads": weight [heads, head_dim]) or on the whole projection ("all": weight
    [heads * head_dim]), before the rotation or after it. ``clip`` clamps q, k and v to +-clip.
    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Ainslie et al. 2023, https://arxiv.org/abs/2305.13245
    """

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
    disentangled: Disentangled | None = None


@dataclass(frozen=True, kw_only=True)
class FeedForward(Block):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) where gated. ``width`` is the inner size."""

    width: int
    activation: Activation
    gated: bool = False
    gate_bias: bool = False
    up_bias: bool = False
    down_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """DeBERTa-v2-xl's convolution beside the first layer: out = norm(layer_output + activation(conv1d(input)))."""

    kernel: int
    groups: int
    activation: Activation
    norm: Norm


@dataclass(frozen=True, kw_only=True)
class Layer:
    """attention, then cross-attention where there is one, then feed-forward; ``parallel`` feeds
    attention and feed-forward the same input and adds both to it."""

    attention: Attention
    feed_forward: FeedForward
    cross_attention: Attention | None = None
    parallel: bool = False
    convolution: Convolution | None = None


@dataclass(frozen=True, kw_only=True)
class TokenDropout:
    """Mask tokens count as dropped (ESM): their embedding is zero, and that of the others is multiplied by
    ``kept / (1 - share of mask tokens in the sequence)``, before positions are added.
    """

    mask: int
    kept: float


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Embedding, layers and final norm of an encoder or a decoder.

    x = embedding_norm(embedding_scale * token[id] + position[p] + segment[s]), then the projection to
    ``hidden_size`` where there is an ``embedding_size``, even an equal one. ``positions`` is the number of rows of the
    position table (0: none) and thereby the longest sequence; ``max_length`` bounds the others.
    Tables and norm are ``embedding_size`` wide, or ``hidden_size`` with ``project_before_positions``.
    ``norm_before_positions`` adds positions and segments to what ``embedding_norm`` makes of the tokens
    (Blenderbot small); the token ``unplaced`` gets no position, though it takes up one (padding that M2M-100 writes).
    ``output_size`` projects the final states to another width (OPT-350m).
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[Layer, ...]
    max_length: int
    embedding_size: int | None = None
    embedding_scale: float = 1.0
    embedding_projection_bias: bool = False
    project_before_positions: bool = False
    positions: int = 0
    segments: int = 0
    embedding_norm: Norm | None = None
    norm_before_positions: bool = False
    unplaced: int | None = None
    relative_rows: int = 0
    relative_norm: Norm | None = None
    final_norm: Norm | None = None
    output_size: int | None = None
    token_dropout: TokenDropout | None = None


@dataclass(frozen=True, kw_only=True)
class Dense:
    """One layer of a head: norm(activation(x @ weight.T + bias))."""

    outputs: int
    bias: bool = True
    activation: Activation = "identity"
    norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class Head:
    """Task head over the hidden states: pooling, then a chain of dense layers.

    ``none`` keeps every token, ``first`` and ``last`` take one token, ``mean`` averages them; ``mean_output`` averages
    what the layers make of each token.
    """

    pool: Literal["none", "first", "mean", "last", "mean_output"]
    layers: tuple[Dense, ...]


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
    ``pooler`` the pooled output of BERT-like encoders, both on the last stack's states.
    """

    encoder: Stack | None = None
    decoder: Stack | None = None
    language_head: LanguageHead | None = None
    pooler: Head | None = None
    head: Head | None = None

    def to_json(self) -> str:
        """The text that crosses to Rust."""
        return json.dumps(asdict(self), allow_nan=False)
