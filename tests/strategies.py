"""Random descriptions of models, with weights and inputs, for hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lapwing import _core
from lapwing.spec import (
    Activation,
    Alibi,
    Attention,
    Block,
    Body,
    Convolution,
    CrossAttention,
    Dense,
    DisentangledAttention,
    DynamicRotary,
    Experts,
    FeedForward,
    Head,
    LanguageHead,
    Layer,
    LongRotary,
    Model,
    Norm,
    Normalization,
    Pooling,
    QueryScale,
    RelativeBias,
    RelativeTable,
    Rotary,
    Router,
    ShortConvolution,
    Stack,
    TokenDropout,
    TokenStem,
    UnitLength,
)

Array = np.ndarray[Any, Any]
ACTIVATIONS: tuple[Activation, ...] = Activation.__args__  # type: ignore[attr-defined]
LONGEST = 300
VOCABULARY = 53


@dataclass(frozen=True)
class Case:
    """A model and its inputs."""

    spec: Model
    weights: dict[str, Array] = field(repr=False)
    ids: list[list[int]]
    segments: list[list[int]] | None
    targets: list[list[int]]
    """Of the decoder, if there is an encoder too."""


def maybe(draw: st.DrawFn, strategy: st.SearchStrategy[Any]) -> Any:
    return draw(strategy) if draw(st.booleans()) else None


@st.composite
def norms(draw: st.DrawFn) -> Norm:
    kind = draw(st.sampled_from(("layer", "rms")))
    weight = draw(st.booleans())
    return Norm(kind=kind, eps=draw(st.sampled_from((1e-12, 1e-5, 0.1))), weight=weight, bias=draw(st.booleans()))


def frequencies(draw: st.DrawFn, count: int) -> tuple[float, ...]:
    base = draw(st.sampled_from((100.0, 10000.0)))
    return tuple(base ** (-j / count) for j in range(count))


@st.composite
def rotaries(draw: st.DrawFn, head_dim: int) -> Rotary:
    count = draw(st.integers(1, head_dim // 2))
    long = dynamic = None
    form = draw(st.sampled_from(("plain", "plain", "long", "dynamic")))
    if form == "long":
        long = LongRotary(after=draw(st.integers(1, 20)), inv_freq=frequencies(draw, count), scale=1.25)
    elif form == "dynamic" and count > 1:
        dynamic = DynamicRotary(
            base=100.0, factor=draw(st.sampled_from((2.0, 3.5))), original_length=draw(st.integers(2, 20))
        )
    return Rotary(
        inv_freq=frequencies(draw, count),
        scale=draw(st.sampled_from((1.0, 0.75))),
        interleaved=draw(st.booleans()),
        long=long,
        dynamic=dynamic,
    )


HEAD_DIMS = (2, 4, 6, 8, 16, 5)


def _biases(draw: st.DrawFn) -> dict[str, bool]:
    query = draw(st.booleans())
    return {
        "query_bias": query,
        "key_bias": query and draw(st.booleans()),
        "value_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
    }


@st.composite
def attentions(draw: st.DrawFn, *, causal: bool) -> Attention:
    kv_heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from(HEAD_DIMS))
    heads = kv_heads * draw(st.integers(1, 3))
    fields: dict[str, Any] = {}
    kind = draw(st.sampled_from(("none", "alibi", "relative")))
    if kind == "alibi":
        fields["alibi"] = Alibi(slopes=tuple(0.7 ** (h + 1) for h in range(heads)), rounded=draw(st.booleans()))
    elif kind == "relative":
        fields["relative_bias"] = RelativeBias(
            buckets=draw(st.sampled_from((8, 32))),
            max_distance=draw(st.sampled_from((17, 128))),
            bidirectional=not causal,
        )
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=draw(st.sampled_from((head_dim**-0.5, 1.0))),
        causal=causal,
        window=maybe(draw, st.integers(1, 40)),
        softcap=maybe(draw, st.sampled_from((0.5, 30.0))),
        **_biases(draw),
        query_norm=maybe(draw, norms()),
        key_norm=maybe(draw, norms()),
        norm_over=draw(st.sampled_from(("head", "heads", "all"))),
        norm_after_rotary=draw(st.booleans()),
        clip=maybe(draw, st.just(0.8)),
        rotary=maybe(draw, rotaries(head_dim)),
        query_scale=maybe(draw, st.builds(QueryScale, beta=st.just(0.3), original_length=st.integers(1, 16))),
        **fields,
    )


@st.composite
def cross_attentions(draw: st.DrawFn) -> CrossAttention:
    kv_heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from(HEAD_DIMS))
    return CrossAttention(
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=draw(st.sampled_from((head_dim**-0.5, 1.0))),
        softcap=maybe(draw, st.sampled_from((0.5, 30.0))),
        **_biases(draw),
        query_norm=maybe(draw, norms()),
        key_norm=maybe(draw, norms()),
        norm_over=draw(st.sampled_from(("head", "heads", "all"))),
    )


@st.composite
def disentangled_attentions(draw: st.DrawFn, span: int) -> DisentangledAttention:
    head_dim, buckets = draw(st.sampled_from(HEAD_DIMS)), draw(st.sampled_from((0, 4, span)))
    terms = draw(st.sampled_from(((True, False), (False, True), (True, True))))
    return DisentangledAttention(
        heads=draw(st.integers(1, 3)),
        head_dim=head_dim,
        scale=draw(st.sampled_from((head_dim**-0.5, 1.0))),
        **_biases(draw),
        span=span,
        buckets=buckets,
        max_distance=max(span, buckets // 2 + 2) + draw(st.integers(0, 30)),
        content_to_position=terms[0],
        position_to_content=terms[1],
        share_key=draw(st.booleans()),
    )


@st.composite
def feed_forwards(draw: st.DrawFn, widest: int = 40) -> FeedForward:
    gated = draw(st.booleans())
    return FeedForward(
        width=draw(st.integers(1, widest)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        gated=gated,
        gate_bias=gated and draw(st.booleans()),
        up_bias=draw(st.booleans()),
        down_bias=draw(st.booleans()),
    )


@st.composite
def experts(draw: st.DrawFn) -> Experts:
    count = draw(st.integers(1, 6))
    router = Router(
        count=count,
        per_token=draw(st.integers(1, min(count, 3))),
        score=draw(st.sampled_from(("softmax", "sigmoid"))),
        renormalize=draw(st.booleans()),
        scale=draw(st.sampled_from((1.0, 2.5))),
    )
    return Experts(router=router, expert=draw(feed_forwards(widest=20)))


@st.composite
def convolutions(draw: st.DrawFn, hidden: int) -> Convolution:
    return Convolution(
        kernel=draw(st.sampled_from((1, 3))),
        groups=draw(st.sampled_from([g for g in (1, 2, 4) if hidden % g == 0])),
        activation=draw(st.sampled_from(("gelu", "tanh"))),
    )


def short_convolutions() -> st.SearchStrategy[ShortConvolution]:
    return st.builds(ShortConvolution, kernel=st.integers(2, 5), bias=st.booleans())


@st.composite
def blocks(draw: st.DrawFn, body: Body, *, first: bool, name: str | None) -> Block:
    """A block of this body; the first block of a layer reads the layer's input anyway."""
    input_norm = maybe(draw, norms())
    from_layer_input = not first and draw(st.booleans())
    return Block(
        body=body,
        name=name,
        input_norm=input_norm,
        output_norm=maybe(draw, norms()),
        residual_norm=maybe(draw, norms()),
        residual_scale=draw(st.sampled_from((1.0, 0.25))),
        residual_after_norm=input_norm is not None and not from_layer_input and draw(st.booleans()),
        from_layer_input=from_layer_input,
    )


@st.composite
def layers(draw: st.DrawFn, *, decoder: bool, cross: bool, hidden: int, span: int) -> Layer:
    """Attention or its replacement, then cross-attention, feed-forward networks and a convolution; or another order.
    Layers of an encoder may consist of feed-forward networks only.
    """
    found: list[tuple[Body, str | None]] = []
    if span:
        found.append((draw(disentangled_attentions(span)), None))
    elif decoder and draw(st.sampled_from((False, False, True))):
        found.append((draw(short_convolutions()), None))
    elif decoder or draw(st.sampled_from((True, True, True, False))):
        found.append((draw(attentions(causal=decoder)), draw(st.sampled_from((None, None, "mixer")))))
    if cross:
        found.append((draw(cross_attentions()), None))
    for name in (None, "second")[: draw(st.sampled_from((1, 1, 1, 2)))]:
        found.append((draw(draw(st.sampled_from((feed_forwards(), feed_forwards(), experts())))), name))
    if not decoder and draw(st.booleans()):
        found.append((draw(convolutions(hidden)), None))
    if draw(st.sampled_from((False, False, False, True))):
        found = draw(st.permutations(found))
    return Layer(blocks=tuple(draw(blocks(body, first=i == 0, name=name)) for i, (body, name) in enumerate(found)))


@st.composite
def stems(draw: st.DrawFn, *, decoder: bool) -> TokenStem:
    embedding = maybe(draw, st.integers(1, 24))
    positions = draw(st.sampled_from((0, LONGEST)))
    return TokenStem(
        vocab_size=VOCABULARY,
        embedding_size=embedding,
        scale=draw(st.sampled_from((1.0, 2.5))),
        projection_bias=embedding is not None and draw(st.booleans()),
        project_before_positions=embedding is not None and draw(st.booleans()),
        positions=positions,
        segments=0 if decoder else draw(st.sampled_from((0, 2))),
        norm=maybe(draw, norms()),
        norm_before_positions=draw(st.booleans()),
        unplaced=maybe(draw, st.integers(0, VOCABULARY - 1)),
        padding=None if decoder or not positions else maybe(draw, st.integers(0, VOCABULARY - 1)),
        dropout=None if decoder else maybe(draw, st.just(TokenDropout(mask=3, kept=0.88))),
    )


@st.composite
def stacks(draw: st.DrawFn, *, decoder: bool, beside: bool = False) -> Stack:
    hidden = draw(st.integers(1, 40))
    span = 0 if decoder else draw(st.sampled_from((0, 0, 6)))
    count = draw(st.integers(1, 3))
    return Stack(
        hidden_size=hidden,
        stem=draw(stems(decoder=decoder)),
        layers=tuple(draw(layers(decoder=decoder, cross=beside, hidden=hidden, span=span)) for _ in range(count)),
        max_length=LONGEST,
        relative=RelativeTable(rows=2 * span, norm=maybe(draw, norms())) if span else None,
        final_norm=maybe(draw, norms()),
        output_size=maybe(draw, st.integers(1, 20)),
    )


@st.composite
def dense_layers(draw: st.DrawFn) -> tuple[Dense, ...]:
    return tuple(
        Dense(
            outputs=draw(st.integers(1, 20)),
            bias=draw(st.booleans()),
            activation=draw(st.sampled_from(ACTIVATIONS)),
            norm=maybe(draw, norms()),
            residual=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(0, 2)))
    )


@st.composite
def language_heads(draw: st.DrawFn) -> LanguageHead:
    return LanguageHead(
        vocab_size=VOCABULARY,
        bias=draw(st.booleans()),
        scale=draw(st.sampled_from((1.0, 0.3))),
        softcap=maybe(draw, st.sampled_from((0.7, 20.0))),
        transform=draw(dense_layers()),
    )


@st.composite
def heads(draw: st.DrawFn) -> Head:
    last = Dense(outputs=draw(st.integers(1, 5)), bias=draw(st.booleans()))
    layers = (*draw(dense_layers()), last)
    pool = draw(st.sampled_from(((), ("first",), ("mean",), ("last",))))
    return Head(pool=pool, layers=layers, token_layers=draw(st.sampled_from((0, len(layers)))) if pool else 0)


POOLINGS: tuple[Pooling, ...] = ("first", "last", "mean", "mean_sqrt_len", "weighted_mean", "max")


@st.composite
def embedding_heads(draw: st.DrawFn, stack: Stack) -> Head:
    """Heads for embeddings of a stack's states."""
    pool = tuple(draw(st.lists(st.sampled_from(POOLINGS), max_size=3)))
    norm = norms().map(lambda norm: Normalization(norm=norm))
    dense = dense_layers().map(lambda layers: layers[0] if layers else UnitLength())
    layers = tuple(draw(st.lists(st.one_of(norm, dense, st.just(UnitLength())), max_size=4)))
    return Head(
        pool=pool,
        layers=layers,
        token_layers=draw(st.integers(0, len(layers))) if pool else 0,
        mixture=maybe(draw, st.integers(0, len(stack.layers))) if stack.output_size is None else None,
    )


def random_weights(spec: Model, seed: int) -> dict[str, Array]:
    """Weights of every tensor that the core requires, float32, scaled to keep states near one."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, shape in _core.spec_tensors(spec.to_json()):
        values = generator.standard_normal(shape)
        if "norm.weight" in name or name.endswith("norm.weight"):
            values = 1 + 0.2 * values
        elif name.endswith("mixture"):
            values = 0.5 + np.abs(values)  # their sum is a divisor
        elif len(shape) == 2 and "embedding" not in name:
            values /= np.sqrt(shape[1])
        else:
            values *= 0.5
        found[name] = values.astype(np.float32)
    return found


def compiled(spec: Model, values: dict[str, Array], *, threads: int = 2, **options: str) -> _core.Model:
    """The core's model; ``kv`` applies to models with a decoder."""
    if spec.decoder is None:
        options.pop("kv", None)
    loader = _core.Loader(spec.to_json(), **{"weights": "f32", **options}, threads=threads)  # type: ignore[arg-type]
    for name, value in values.items():
        loader.add([name], value, "float32")
    return loader.finish()


LENGTHS = st.one_of(st.integers(1, 12), st.sampled_from((31, 32, 33, 63, 65, 127, 129, 140)))


@st.composite
def batches(draw: st.DrawFn, max_batch: int = 3) -> list[list[int]]:
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=max_batch))
    # Never only masks: such a text has no share of other tokens.
    return [[5, *map(int, generator.integers(0, VOCABULARY, length - 1))] for length in lengths]


@st.composite
def cases(draw: st.DrawFn, shape: str) -> Case:
    """A random model: shape "encoder", "decoder" or "both"."""
    encoder = draw(stacks(decoder=False)) if shape != "decoder" else None
    decoder = draw(stacks(decoder=True, beside=shape == "both")) if shape != "encoder" else None
    language = draw(language_heads()) if shape != "encoder" or draw(st.booleans()) else None
    spec = Model(
        encoder=encoder,
        decoder=decoder,
        language_head=language,
        pooler=maybe(draw, heads()) if shape == "encoder" else None,
        head=maybe(draw, heads()) if shape != "decoder" else None,
        embeddings=tuple(draw(st.lists(embedding_heads(encoder or decoder), max_size=2))) if shape != "both" else (),
    )
    ids = draw(batches())
    segments = None
    if encoder is not None and encoder.stem.segments and draw(st.booleans()):
        segments = [[int(i > len(one) // 2) for i in range(len(one))] for one in ids]
    targets = [[1, *one[: max(1, len(one) // 2)]] for one in reversed(ids)]
    return Case(spec, random_weights(spec, draw(st.integers(0, 2**31))), ids, segments, targets)
