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

from .strategies import Case, cases

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
ROTARY = spec.Rotary(
    inv_freq=(1.0, 0.5),
    long=spec.LongRotary(after=3, inv_freq=(1.0, 0.1), scale=1.0),
    dynamic=spec.DynamicRotary(base=10.0, factor=2.0, original_length=4),
)
ATTENTION = spec.Attention(heads=2, kv_heads=2, head_dim=4, scale=0.5, input_norm=NORM)
EXAMPLE = spec.Model(
    encoder=spec.Stack(
        vocab_size=9,
        hidden_size=8,
        max_length=20,
        relative_rows=8,
        token_dropout=spec.TokenDropout(mask=1, kept=0.9),
        layers=(
            spec.Layer(
                attention=replace(
                    ATTENTION,
                    disentangled=spec.Disentangled(
                        span=4,
                        buckets=0,
                        max_distance=4,
                        content_to_position=True,
                        position_to_content=True,
                        share_key=True,
                    ),
                ),
                feed_forward=spec.FeedForward(width=4, activation="relu"),
                convolution=spec.Convolution(kernel=3, groups=1, activation="tanh", norm=NORM),
            ),
            spec.Layer(
                attention=replace(
                    ATTENTION,
                    rotary=ROTARY,
                    query_scale=spec.QueryScale(beta=0.1, original_length=4),
                    alibi=spec.Alibi(slopes=(0.5, 0.25)),
                ),
                feed_forward=spec.FeedForward(width=4, activation="relu"),
            ),
            spec.Layer(
                attention=replace(
                    ATTENTION, relative_bias=spec.RelativeBias(buckets=8, max_distance=20, bidirectional=True)
                ),
                feed_forward=spec.FeedForward(width=4, activation="relu"),
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
    layer = spec.Layer(
        attention=replace(ATTENTION, **change), feed_forward=spec.FeedForward(width=4, activation="relu")
    )
    stack = spec.Stack(vocab_size=9, hidden_size=8, max_length=20, layers=(layer,))
    with pytest.raises(lapwing.SpecError, match=rf"encoder\.layers\.0\.attention\.{named}"):
        _core.normalize_spec(spec.Model(encoder=stack).to_json())


def test_a_parallel_layer_has_no_norm_after_the_sum() -> None:
    attention = replace(ATTENTION, residual_after_norm=True)
    layer = spec.Layer(attention=attention, feed_forward=spec.FeedForward(width=4, activation="relu"), parallel=True)
    stack = spec.Stack(vocab_size=9, hidden_size=8, max_length=20, layers=(layer,))
    with pytest.raises(lapwing.SpecError, match="parallel"):
        _core.normalize_spec(spec.Model(encoder=stack).to_json())
