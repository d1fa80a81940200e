"""The description crosses to Rust and comes back the same; what does not make sense is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lapwing
from lapwing import _core, spec
from lapwing.models.base import ragged

from .strategies import Case, cases, compiled, random_weights

EVERY = st.one_of(cases("encoder"), cases("decoder"), cases("both"))


@given(EVERY)
def test_descriptions_come_back_from_rust(case: Case) -> None:
    back = json.loads(_core.normalize_spec(case.spec.to_json()))
    assert back == json.loads(json.dumps(asdict(case.spec)))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a JSON value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            found += places(item, (*path, index))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


WRONG = st.sampled_from((-1, 0, 2**40, 2**63, 1e300, "gelu!", [], {}, None, True, [[]], -0.5, "", {"kind": "rms"}))


@given(EVERY, st.randoms(use_true_random=False), WRONG)
def test_a_changed_place_is_refused_or_comes_back(case: Case, random: Any, wrong: Any) -> None:
    tree = json.loads(case.spec.to_json())
    for path in random.sample(places(tree), 12):
        text = json.dumps(changed(tree, path, wrong))
        try:
            back = json.loads(_core.normalize_spec(text))
        except lapwing.SpecError as error:
            assert str(error)
        else:
            assert back == json.loads(_core.normalize_spec(json.dumps(back)))


@pytest.mark.parametrize(
    "kind", [k for k in vars(spec).values() if isinstance(k, type) and hasattr(k, "__dataclass_fields__")]
)
def test_unknown_fields_are_refused_in_every_block(kind: Any) -> None:
    block = replace_one(EXAMPLE, kind.__name__)
    if block is None:
        pytest.skip("a base of other blocks")
    with pytest.raises(lapwing.SpecError, match="unknown field `colour`"):
        _core.normalize_spec(json.dumps(block))


NORM = spec.Norm(kind="rms", eps=1e-5)
DISENTANGLED = spec.Disentangled(
    span=4, buckets=0, max_distance=4, content_to_position=True, position_to_content=True, share_key=True
)
FEED = spec.FeedForward(width=4, activation="relu")
ROTARY = spec.Rotary(
    inv_freq=(1.0, 0.5),
    long=spec.LongRotary(after=3, inv_freq=(1.0, 0.1), scale=1.0),
    dynamic=spec.DynamicRotary(base=10.0, factor=2.0, original_length=4),
)
ATTENTION = spec.Attention(heads=2, kv_heads=2, head_dim=4, scale=0.5, input_norm=NORM)
STACK = spec.Stack(
    vocab_size=9, hidden_size=8, max_length=20, layers=(spec.Layer(attention=ATTENTION, feed_forward=FEED),)
)
EXAMPLE = spec.Model(
    encoder=spec.Stack(
        vocab_size=9,
        hidden_size=8,
        max_length=20,
        relative_rows=8,
        token_dropout=spec.TokenDropout(mask=1, kept=0.9),
        layers=(
            spec.Layer(
                attention=replace(ATTENTION, disentangled=DISENTANGLED),
                feed_forward=FEED,
                convolution=spec.Convolution(kernel=3, groups=1, activation="tanh", norm=NORM),
            ),
            spec.Layer(
                attention=replace(
                    ATTENTION,
                    rotary=ROTARY,
                    query_scale=spec.QueryScale(beta=0.1, original_length=4),
                    alibi=spec.Alibi(slopes=(0.5, 0.25)),
                ),
                feed_forward=FEED,
            ),
            spec.Layer(
                attention=replace(
                    ATTENTION, relative_bias=spec.RelativeBias(buckets=8, max_distance=20, bidirectional=True)
                ),
                feed_forward=FEED,
            ),
        ),
    ),
    language_head=spec.LanguageHead(vocab_size=9),
    head=spec.Head(pool="mean", layers=(spec.Dense(outputs=3),)),
)


def replace_one(value: Any, name: str) -> Any:
    """The JSON of a description with an unknown field in its first block of a class; None if there is none."""
    if hasattr(value, "__dataclass_fields__"):
        if type(value).__name__ == name:
            return {**asdict(value), "colour": 1}
        for field in fields(value):
            new = replace_one(getattr(value, field.name), name)
            if new is not None:
                rest = {other.name: plain(getattr(value, other.name)) for other in fields(value)}
                return {**rest, field.name: new}
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            new = replace_one(item, name)
            if new is not None:
                return [*map(plain, value[:index]), new, *map(plain, value[index + 1 :])]
    return None


def plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    return [plain(item) for item in value] if isinstance(value, tuple) else value


REFUSED: list[tuple[str, Any, str]] = [
    ("heads", {"heads": 3}, "heads"),
    ("head_dim", {"head_dim": 0}, "head_dim"),
    ("scale", {"scale": 1e39}, "scale"),
    ("window", {"window": 0}, "window"),
    ("softcap", {"softcap": 0.0}, "softcap"),
    ("clip", {"clip": -1.0}, "clip"),
    ("rotary", {"rotary": spec.Rotary(inv_freq=(1.0, 0.5, 0.2))}, "rotary"),
    ("alibi", {"alibi": spec.Alibi(slopes=(1.0,))}, "alibi.slopes"),
    (
        "both biases",
        {
            "alibi": spec.Alibi(slopes=(1.0, 0.5)),
            "relative_bias": spec.RelativeBias(buckets=8, max_distance=20, bidirectional=True),
        },
        "alibi",
    ),
]


@pytest.mark.parametrize("change, named", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_impossible_attention_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    layer = spec.Layer(attention=replace(ATTENTION, **change), feed_forward=FEED)
    with pytest.raises(lapwing.SpecError, match=rf"encoder\.layers\.0\.attention\.{named}"):
        _core.normalize_spec(spec.Model(encoder=replace(STACK, layers=(layer,))).to_json())


@pytest.mark.parametrize(
    "change",
    [
        {"rotary": ROTARY},
        {"alibi": spec.Alibi(slopes=(0.5, 0.25))},
        {"relative_bias": spec.RelativeBias(buckets=8, max_distance=20, bidirectional=True)},
        {"query_scale": spec.QueryScale(beta=0.1, original_length=4)},
        {"query_norm": NORM},
        {"key_norm": NORM},
        {"clip": 1.0},
        {"window": 3},
        {"softcap": 3.0},
        {"causal": True},
        {"kv_heads": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_disentangled_attention_refuses_what_it_would_ignore(change: dict[str, Any]) -> None:
    attention = replace(ATTENTION, disentangled=DISENTANGLED, **change)
    layer = spec.Layer(attention=attention, feed_forward=FEED)
    with pytest.raises(lapwing.SpecError, match=r"attention\.disentangled"):
        _core.normalize_spec(spec.Model(encoder=replace(STACK, layers=(layer,), relative_rows=8)).to_json())


@pytest.mark.parametrize(
    "attention",
    [
        replace(ATTENTION, residual_after_norm=True),
        replace(ATTENTION, residual_norm=NORM),
        replace(ATTENTION, disentangled=DISENTANGLED),
    ],
    ids=["residual_after_norm", "residual_norm", "disentangled"],
)
def test_a_parallel_layer_refuses_what_has_no_place_in_it(attention: spec.Attention) -> None:
    layer = spec.Layer(attention=attention, feed_forward=FEED, parallel=True)
    with pytest.raises(lapwing.SpecError, match="parallel"):
        _core.normalize_spec(spec.Model(encoder=replace(STACK, layers=(layer,), relative_rows=8)).to_json())


@pytest.mark.parametrize(
    "change",
    [{"clip": 1.0}, {"window": 3}, {"causal": True}, {"rotary": spec.Rotary(inv_freq=(1.0,))}],
    ids=lambda change: next(iter(change)),
)
def test_cross_attention_refuses_what_it_would_ignore(change: dict[str, Any]) -> None:
    layer = spec.Layer(attention=replace(ATTENTION, causal=True), feed_forward=FEED)
    for cross in (ATTENTION, replace(ATTENTION, **change)):
        decoder = replace(STACK, layers=(replace(layer, cross_attention=cross),))
        model = spec.Model(encoder=STACK, decoder=decoder, language_head=spec.LanguageHead(vocab_size=9))
        if cross is ATTENTION:
            _core.normalize_spec(model.to_json())
        else:
            with pytest.raises(lapwing.SpecError, match=r"decoder\.layers\.0\.cross_attention"):
                _core.normalize_spec(model.to_json())


@pytest.mark.parametrize(
    "change",
    [{"embedding_projection_bias": True}, {"project_before_positions": True}, {"relative_norm": NORM}],
    ids=lambda change: next(iter(change)),
)
def test_a_stack_refuses_parts_of_what_it_lacks(change: dict[str, Any]) -> None:
    with pytest.raises(lapwing.SpecError, match=rf"encoder\.{next(iter(change))}"):
        _core.normalize_spec(spec.Model(encoder=replace(STACK, **change)).to_json())


def test_whole_models_refuse_calls_that_leave_out_the_source() -> None:
    """The heads of an encoder-decoder read the decoder, whose states need a source."""
    layer = spec.Layer(attention=replace(ATTENTION, causal=True), feed_forward=FEED, cross_attention=replace(ATTENTION))
    model = spec.Model(
        encoder=STACK,
        decoder=replace(STACK, hidden_size=16, layers=(layer,)),
        language_head=spec.LanguageHead(vocab_size=9),
        head=spec.Head(pool="mean", layers=()),
        pooler=spec.Head(pool="first", layers=()),
    )
    core = compiled(model, random_weights(model, 1))
    batch = ragged([[1, 2, 3], [4, 5]])
    for call in (core.logits, core.head, core.pooled):
        with pytest.raises(lapwing.OptionError, match="encoder-decoder"):
            call(*batch)
    assert core.decoder_head(*batch, *batch).shape == (2, 16)
