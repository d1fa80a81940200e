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
    Convolution,
    Dense,
    Disentangled,
    DynamicRotary,
    FeedForward,
    Head,
    LanguageHead,
    Layer,
    LongRotary,
    Model,
    Norm,
    QueryScale,
    RelativeBias,
    Rotary,
    Stack,
    TokenDropout,
)

Array = np.ndarray[Any, Any]
ACTIVATIONS: tuple[Activation, ...] = Activation.__args__  # type: ignore[attr-defined]
LONGEST = 300
VOCABULARY = 53


@dataclass(frozen=True)
class Case:
    """A model and what to feed it."""

    spec: Model
    weights: dict[str, Array] = field(repr=False)
    ids: list[list[int]]
    segments: list[list[int]] | None
    targets: list[list[int]]
    """Of the decoder, where there is an encoder too."""


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


@st.composite
def attentions(draw: st.DrawFn, *, causal: bool, cross: bool = False, span: int = 0) -> Attention:
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * (1 if span else draw(st.integers(1, 3)))
    head_dim = draw(st.sampled_from((2, 4, 6, 8, 16, 5)))
    fields: dict[str, Any] = {}
    if not cross and not span:
        fields["rotary"] = maybe(draw, rotaries(head_dim))
        fields["window"] = maybe(draw, st.integers(1, 40))
        fields["softcap"] = maybe(draw, st.sampled_from((0.5, 30.0)))
        fields["query_scale"] = maybe(
            draw, st.builds(QueryScale, beta=st.just(0.3), original_length=st.integers(1, 16))
        )
        kind = draw(st.sampled_from(("none", "alibi", "relative")))
        if kind == "alibi":
            fields["alibi"] = Alibi(slopes=tuple(0.7 ** (h + 1) for h in range(heads)), rounded=draw(st.booleans()))
        elif kind == "relative":
            fields["relative_bias"] = RelativeBias(
                buckets=draw(st.sampled_from((8, 32))),
                max_distance=draw(st.sampled_from((17, 128))),
                bidirectional=not causal,
            )
        fields["norm_after_rotary"] = draw(st.booleans())
    if span:
        terms = draw(st.sampled_from(((True, False), (False, True), (True, True))))
        buckets = draw(st.sampled_from((0, 4, span)))
        fields["disentangled"] = Disentangled(
            span=span,
            buckets=buckets,
            max_distance=max(span, buckets // 2 + 2) + draw(st.integers(0, 30)),
            content_to_position=terms[0],
            position_to_content=terms[1],
            share_key=draw(st.booleans()),
        )
    if not span:
        fields["query_norm"], fields["key_norm"] = maybe(draw, norms()), maybe(draw, norms())
        fields["norm_over"] = draw(st.sampled_from(("head", "heads", "all")))
        fields["clip"] = maybe(draw, st.just(0.8)) if not cross else None
    bias = draw(st.booleans())
    return Attention(
        **_block(draw),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=draw(st.sampled_from((head_dim**-0.5, 1.0))),
        causal=causal and not cross,
        query_bias=bias,
        key_bias=bias and draw(st.booleans()),
        value_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        **fields,
    )


def _block(draw: st.DrawFn) -> dict[str, Any]:
    input_norm = maybe(draw, norms())
    return {
        "input_norm": input_norm,
        "output_norm": maybe(draw, norms()),
        "residual_norm": maybe(draw, norms()),
        "residual_scale": draw(st.sampled_from((1.0, 0.25))),
        "residual_after_norm": input_norm is not None and draw(st.booleans()),
    }


@st.composite
def feed_forwards(draw: st.DrawFn) -> FeedForward:
    gated = draw(st.booleans())
    return FeedForward(
        **_block(draw),
        width=draw(st.integers(1, 40)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        gated=gated,
        gate_bias=gated and draw(st.booleans()),
        up_bias=draw(st.booleans()),
        down_bias=draw(st.booleans()),
    )


@st.composite
def layers(draw: st.DrawFn, *, causal: bool, cross: bool, hidden: int, span: int) -> Layer:
    attention, feed = draw(attentions(causal=causal, span=span)), draw(feed_forwards())
    parallel = not cross and not span and draw(st.booleans())
    if parallel:
        plain: dict[str, Any] = {"residual_norm": None, "residual_after_norm": False}
        attention = Attention(**{**vars(attention), **plain})
        feed = FeedForward(**{**vars(feed), **plain})
    convolution = None
    if not causal and draw(st.booleans()):
        convolution = Convolution(
            kernel=draw(st.sampled_from((1, 3))),
            groups=draw(st.sampled_from([g for g in (1, 2, 4) if hidden % g == 0])),
            activation=draw(st.sampled_from(("gelu", "tanh"))),
            norm=draw(norms()),
        )
    return Layer(
        attention=attention,
        feed_forward=feed,
        cross_attention=draw(attentions(causal=True, cross=True)) if cross else None,
        parallel=parallel,
        convolution=convolution,
    )


@st.composite
def stacks(draw: st.DrawFn, *, decoder: bool, beside: bool = False) -> Stack:
    hidden = draw(st.integers(1, 40))
    span = 0 if decoder else draw(st.sampled_from((0, 0, 6)))
    embedding = maybe(draw, st.integers(1, 24))
    count = draw(st.integers(1, 3))
    return Stack(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        layers=tuple(draw(layers(causal=decoder, cross=beside, hidden=hidden, span=span)) for _ in range(count)),
        max_length=LONGEST,
        embedding_size=embedding,
        embedding_scale=draw(st.sampled_from((1.0, 2.5))),
        embedding_projection_bias=embedding is not None and draw(st.booleans()),
        project_before_positions=embedding is not None and draw(st.booleans()),
        positions=draw(st.sampled_from((0, LONGEST))),
        segments=0 if decoder else draw(st.sampled_from((0, 2))),
        embedding_norm=maybe(draw, norms()),
        norm_before_positions=draw(st.booleans()),
        unplaced=maybe(draw, st.integers(0, VOCABULARY - 1)),
        relative_rows=2 * span,
        relative_norm=draw(norms()) if span and draw(st.booleans()) else None,
        final_norm=maybe(draw, norms()),
        output_size=maybe(draw, st.integers(1, 20)),
        token_dropout=None if decoder else maybe(draw, st.just(TokenDropout(mask=3, kept=0.88))),
    )


@st.composite
def dense_layers(draw: st.DrawFn) -> tuple[Dense, ...]:
    return tuple(
        Dense(
            outputs=draw(st.integers(1, 20)),
            bias=draw(st.booleans()),
            activation=draw(st.sampled_from(ACTIVATIONS)),
            norm=maybe(draw, norms()),
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
    pool = draw(st.sampled_from(("none", "first", "mean", "last", "mean_output")))
    return Head(pool=pool, layers=(*draw(dense_layers()), last))


def random_weights(spec: Model, seed: int) -> dict[str, Array]:
    """Weights of every tensor that the core asks for, float32, of a size that keeps states near one."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, shape in _core.spec_tensors(spec.to_json()):
        values = generator.standard_normal(shape)
        if "norm.weight" in name or name.endswith("norm.weight"):
            values = 1 + 0.2 * values
        elif len(shape) == 2 and "embedding" not in name:
            values /= np.sqrt(shape[1])
        else:
            values *= 0.5
        found[name] = values.astype(np.float32)
    return found


def compiled(spec: Model, values: dict[str, Array], *, threads: int = 2, **options: str) -> _core.Model:
    """The core's model; ``kv`` is for those that have a decoder."""
    if spec.decoder is None:
        options.pop("kv", None)
    loader = _core.Loader(spec.to_json(), **{"weights": "f32", **options}, threads=threads)  # type: ignore[arg-type]
    for name, value in values.items():
        loader.add([name], value, "float32")
    return loader.finish()


LENGTHS = st.one_of(st.integers(1, 12), st.sampled_from((31, 32, 33, 63, 65, 127, 129, 140)))


@st.composite
def batches(draw: st.DrawFn, most: int = 3) -> list[list[int]]:
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=most))
    # Never the mask alone: a text of nothing but masks has no share of others.
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
    )
    ids = draw(batches())
    segments = None
    if encoder is not None and encoder.segments and draw(st.booleans()):
        segments = [[int(i > len(one) // 2) for i in range(len(one))] for one in ids]
    targets = [[1, *one[: max(1, len(one) // 2)]] for one in reversed(ids)]
    return Case(spec, random_weights(spec, draw(st.integers(0, 2**31))), ids, segments, targets)
