"""The core against its NumPy twin, on random descriptions with random weights.

The tolerance of each comparison is derived from the model, as for the fixtures. The twin's result is computed again
with random relative changes of 1e-6 in all weights and of `ROUNDING` in the operations of norms and GELU. Three times
the largest difference is allowed, and at least 2e-5 of the largest value. A wrong epsilon, activation, mask or rotation
exceeds this by far in almost every random model.

Noise in the weights does not cover the rounding of norms. A layer norm of two values a and b is plus and minus one for
any weights, if d = (a - b) / 2 is far above sqrt(eps). The core rounds their mean m to float32, an error of up to 2^-24
|m|, so its results have an error of 2^-24 |m / d|. If a residual adds two such rows that cancel, only rounding errors
remain, and the next norm magnifies them by up to 1 / sqrt(eps).

GELU has the same effect. For x far below zero, x (1 + erf(x / sqrt 2)) / 2 depends on the rounding of erf alone; if all
values of a row are multiples of one such value, so does the norm of the row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given

from lapwing.models.base import ragged
from lapwing.spec import (
    Activation,
    Attention,
    Block,
    DisentangledAttention,
    DynamicRotary,
    FeedForward,
    Layer,
    LongRotary,
    Model,
    Norm,
    RelativeBias,
    Rotary,
    Stack,
    TokenStem,
)

from .reference import Twin
from .strategies import LONGEST, VOCABULARY, Case, cases, compiled, random_weights

Array = np.ndarray[Any, Any]
Outputs = dict[str, Array]

ROUNDING = 1e-6
"""Bound of the float32 rounding errors of norms and of GELU: relative to the row's largest value for a norm's mean,
relative to the result for its output, and relative to one for GELU's 1 + erf and 1 + tanh.

The core sums n values in sixteen lanes, folds these in four steps, and divides: an error of at most (n / 16 + 5) 2^-24
of the mean of the magnitudes. Rows of `strategies` have up to 144 values (nine heads of sixteen, normalized together):
14 * 2^-24 is 8.4e-7. Squares, root and products add a few 2^-24 to the error of the output.

The core's erf is within 6 units in the last place, its tanh within 4: at most 6 * 2^-24 near one. Adding one costs
another half of a unit: 7 * 2^-24 is 4.2e-7.
"""


def unambiguous(exact: Twin, noisy: Twin) -> bool:
    """Whether the chosen experts lead the others by more than three times the noise of two scores, plus rounding."""
    for (scores, count), (other, _) in zip(exact.weights.routed, noisy.weights.routed, strict=True):
        ordered = -np.sort(-scores, axis=-1)
        lead = ordered[:, count - 1] - ordered[:, count] if count < scores.shape[1] else np.inf
        if np.any(lead <= 6 * np.abs(scores - other).max(axis=-1) + 1e-6):
            return False
    return True


def tolerances(
    case: Case, compute: Callable[[Twin], Outputs], change: float
) -> tuple[Outputs, dict[str, float]] | None:
    """The twin's outputs with their tolerances; None if noise may change the choice of experts."""
    twin = Twin(case.spec, case.weights)
    exact = compute(twin)
    found = {name: 2e-5 * float(np.abs(value).max(initial=0.0)) for name, value in exact.items()}
    for seed in (1, 2):
        generator = np.random.default_rng(seed)
        noisy = {k: v * (1 + change * generator.standard_normal(v.shape)) for k, v in case.weights.items()}

        def rounding(shape: tuple[int, ...], generator: np.random.Generator = generator) -> Array:
            return ROUNDING * generator.standard_normal(shape)

        changed = Twin(case.spec, noisy, rounding=rounding)
        for name, value in compute(changed).items():
            found[name] = max(found[name], 3 * float(np.abs(value - exact[name]).max(initial=0.0)))
        if not unambiguous(twin, changed):
            return None
    return exact, found


def compare(case: Case, compute: Callable[[Twin], Outputs], got: Outputs, change: float = 1e-6) -> None:
    found = tolerances(case, compute, change)
    if found is None:
        event("experts within noise of each other")
        return
    exact, allowed = found
    assert got.keys() == exact.keys()
    for name, want in exact.items():
        assert got[name].shape == want.shape, name
        np.testing.assert_allclose(got[name], want, rtol=0, atol=allowed[name], err_msg=name)


def attending(stack: Stack) -> list[int]:
    """The layers that have self-attention."""
    kinds = Attention | DisentangledAttention
    return [i for i, layer in enumerate(stack.layers) if any(isinstance(b.body, kinds) for b in layer.blocks)]


def reading(case: Case) -> Callable[[Twin], Outputs]:
    """All outputs of the stack that reads the text."""

    def compute(twin: Twin) -> Outputs:
        out: Outputs = {}
        for i, ids in enumerate(case.ids):
            segments = None if case.segments is None else case.segments[i]
            states, seen, _ = twin.run(twin.reader, ids, segments)
            out[f"{i}.states"] = states[-1]
            if i == 0:
                out |= {f"layer {j}": state for j, state in enumerate(states)}
                out |= {f"attention {j}": weights for j, weights in enumerate(seen) if weights is not None}
            if case.spec.decoder is None or case.spec.encoder is None:
                if case.spec.language_head is not None:
                    out[f"{i}.logits"] = twin.logits(states[-1])
                if case.spec.head is not None:
                    out[f"{i}.head"] = twin.head("head", states[-1])
                if case.spec.pooler is not None:
                    out[f"{i}.pooler"] = twin.head("pooler", states[-1])
                for route in range(len(case.spec.embeddings)):
                    if segments is None:
                        out[f"{i}.embedding {route}"] = twin.embedding(route, ids)
                        out[f"{i}.without a prompt {route}"] = twin.embedding(route, ids, 3)
        return out

    return compute


def core_reading(case: Case) -> Outputs:
    model = compiled(case.spec, case.weights)
    ids, starts = ragged(case.ids)
    flat = None if case.segments is None else ragged(case.segments)[0]
    cuts = list(itertools.pairwise(starts))
    out: Outputs = {
        f"{i}.states": rows for i, rows in enumerate(np.split(model.encode(ids, starts, flat), starts[1:-1]))
    }
    first, segments = ragged(case.ids[:1]), None if flat is None else flat[: len(case.ids[0])]
    for j, state in enumerate(model.hidden_states(*first, segments)):
        out[f"layer {j}"] = state
    stack = case.spec.encoder or case.spec.decoder
    assert stack is not None
    for j in attending(stack):
        out[f"attention {j}"] = model.attentions(first[0], j, segments)
    if case.spec.decoder is not None and case.spec.encoder is not None:
        return out
    if case.spec.language_head is not None:
        logits = model.logits(ids, starts, flat)
        out |= {f"{i}.logits": logits[a:b] for i, (a, b) in enumerate(cuts)}
    for name, head, call in (("head", case.spec.head, model.head), ("pooler", case.spec.pooler, model.pooled)):
        if head is not None:
            rows = call(ids, starts, flat)
            parts = np.split(rows, len(cuts)) if head.pool else np.split(rows, starts[1:-1])
            out |= {f"{i}.{name}": part for i, part in enumerate(parts)}
    for route, head in enumerate(case.spec.embeddings if flat is None else ()):
        for name, skip in (("embedding", 0), ("without a prompt", 3)):
            rows = model.embed(ids, starts, route, skip)
            parts = np.split(rows, len(cuts)) if head.pool else np.split(rows, starts[1:-1])
            out |= {f"{i}.{name} {route}": part for i, part in enumerate(parts)}
    return out


@given(cases("encoder"))
def test_encoders(case: Case) -> None:
    compare(case, reading(case), core_reading(case))


@given(cases("decoder"))
def test_decoders(case: Case) -> None:
    compare(case, reading(case), core_reading(case))


@given(cases("both"))
def test_encoder_decoders(case: Case) -> None:
    def compute(twin: Twin) -> Outputs:
        out: Outputs = {}
        for i, (source, target) in enumerate(zip(case.ids, case.targets, strict=True)):
            states, seen, crossed = twin.run("decoder", target, source=twin.states(source))
            out[f"{i}.logits"] = twin.logits(states[-1])
            if case.spec.head is not None:
                out[f"{i}.head"] = twin.head("head", states[-1])
            if i == 0:
                out |= {f"state {j}": state for j, state in enumerate(states)}
                out |= {f"attention {j}": weights for j, weights in enumerate(seen) if weights is not None}
                out |= {f"crossed {j}": weights for j, weights in enumerate(crossed) if weights is not None}
        return out

    model = compiled(case.spec, case.weights)
    starts = ragged(case.targets)[1]
    logits = model.decoder_logits(*ragged(case.ids), *ragged(case.targets))
    got = {f"{i}.logits": rows for i, rows in enumerate(np.split(logits, starts[1:-1]))}
    if case.spec.head is not None:
        rows = model.decoder_head(*ragged(case.ids), *ragged(case.targets))
        parts = np.split(rows, len(case.ids)) if case.spec.head.pool else np.split(rows, starts[1:-1])
        got |= {f"{i}.head": part for i, part in enumerate(parts)}
    source, target = ragged(case.ids[:1]), ragged(case.targets[:1])
    got |= {f"state {j}": s for j, s in enumerate(model.decoder_hidden_states(*source, *target))}
    assert case.spec.decoder is not None
    for j in attending(case.spec.decoder):
        got[f"attention {j}"] = model.decoder_attentions(source[0], target[0], j, False)
    for j in range(len(case.spec.decoder.layers)):
        got[f"crossed {j}"] = model.decoder_attentions(source[0], target[0], j, True)
    compare(case, compute, got)


@given(cases("encoder"))
def test_embeddings_cut_and_normalized_by_the_call(case: Case) -> None:
    model = compiled(case.spec, case.weights)
    ids, starts = ragged(case.ids)
    for route in range(len(case.spec.embeddings)):
        whole = model.embed(ids, starts, route)
        size = (whole.shape[1] + 1) // 2
        cut = model.embed(ids, starts, route, size=size)
        assert np.array_equal(cut, whole[:, :size])
        got = model.embed(ids, starts, route, size=size, normalize=True)
        want = cut / np.maximum(np.sqrt((cut.astype(np.float64) ** 2).sum(axis=1, keepdims=True)), 1e-12)
        # A square root, a sum of squares in another order and a division.
        np.testing.assert_allclose(got, want, rtol=1e-6)


SMALL_FEED_FORWARD = Block(body=FeedForward(width=4, activation="silu"))


def one_layer(attention: Attention, length: int, feed_forward: Block = SMALL_FEED_FORWARD) -> Case:
    """A minimal decoder with this attention; an encoder if it is not causal."""
    stack = Stack(
        hidden_size=12,
        stem=TokenStem(vocab_size=VOCABULARY),
        layers=(Layer(blocks=(Block(body=attention), feed_forward)),),
        max_length=LONGEST,
    )
    spec = Model(decoder=stack) if attention.causal else Model(encoder=stack)
    ids = [int(token) for token in np.random.default_rng(length).integers(0, VOCABULARY, length)]
    return Case(spec, random_weights(spec, length), [ids], None, [])


PLAIN: dict[str, Any] = {"heads": 2, "kv_heads": 2, "head_dim": 6, "scale": 0.4}


@pytest.mark.parametrize("length", [9, 10, 11, 130])
@pytest.mark.parametrize(
    "rotary",
    [
        Rotary(inv_freq=(1.0, 0.1), long=LongRotary(after=10, inv_freq=(0.5, 0.02), scale=1.2)),
        Rotary(inv_freq=(1.0, 0.1, 0.01), dynamic=DynamicRotary(base=50.0, factor=3.0, original_length=10)),
    ],
    ids=["long", "dynamic"],
)
def test_borders_of_rotations(rotary: Rotary, length: int) -> None:
    case = one_layer(Attention(**PLAIN, causal=True, rotary=rotary), length)
    compare(case, reading(case), core_reading(case))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 2, 32, 127, 128, 129, 160])
def test_borders_of_windows(causal: bool, window: int) -> None:
    case = one_layer(Attention(**PLAIN, causal=causal, window=window), 161)
    compare(case, reading(case), core_reading(case))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("buckets, farthest", [(4, 3), (8, 17), (32, 128), (33, 100)])
def test_borders_of_buckets(causal: bool, buckets: int, farthest: int) -> None:
    relative = RelativeBias(buckets=buckets, max_distance=farthest, bidirectional=not causal)
    case = one_layer(Attention(**PLAIN, causal=causal, relative_bias=relative), 150)
    compare(case, reading(case), core_reading(case))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_gelu_of_values_far_below_zero(activation: Activation) -> None:
    """Each row is one such value times a vector of weights, then normalized."""
    norm = Norm(kind="layer", eps=1e-12, weight=False, bias=False)
    narrow = Block(body=FeedForward(width=1, activation=activation), output_norm=norm)
    case = one_layer(Attention(**PLAIN, causal=True), 150, narrow)
    up = "decoder.layers.0.feed_forward.up.weight"
    case.weights[up] = 9 * case.weights[up]
    compare(case, reading(case), core_reading(case))
