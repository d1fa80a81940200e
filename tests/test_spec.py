"""The description crosses to Rust and comes back the same; what does not make sense is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lapwing
from lapwing import _core, spec
from lapwing.models.base import ragged

from .strategies import Case, cases, compiled, random_weights

EVERY = st.one_of(cases("encoder"), cases("decoder"), cases("both"))


def solid(value: Any) -> Any:
    """JSON without its null values, which mean the same as none."""
    if isinstance(value, dict):
        return {key: solid(item) for key, item in value.items() if item is not None}
    return [solid(item) for item in value] if isinstance(value, list) else value


@given(EVERY)
def test_descriptions_come_back_from_rust(case: Case) -> None:
    back = json.loads(_core.normalize_spec(case.spec.to_json()))
    assert solid(back) == json.loads(case.spec.to_json())


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


NORM = spec.Norm(kind="rms", eps=1e-5)
FEED = spec.FeedForward(width=4, activation="relu")
ROTARY = spec.Rotary(
    inv_freq=(1.0, 0.5),
    long=spec.LongRotary(after=3, inv_freq=(1.0, 0.1), scale=1.0),
    dynamic=spec.DynamicRotary(base=10.0, factor=2.0, original_length=4),
)
RELATIVE = spec.RelativeBias(buckets=8, max_distance=20, bidirectional=True)
ATTENTION = spec.Attention(heads=2, kv_heads=2, head_dim=4, scale=0.5)
CROSS = spec.CrossAttention(heads=2, kv_heads=2, head_dim=4, scale=0.5)
DISENTANGLED = spec.DisentangledAttention(
    heads=2,
    head_dim=4,
    scale=0.5,
    span=4,
    buckets=0,
    max_distance=4,
    content_to_position=True,
    position_to_content=True,
    share_key=True,
)
CONVOLUTION = spec.Convolution(kernel=3, groups=1, activation="tanh")
EXPERTS = spec.Experts(router=spec.Router(count=3, per_token=2), expert=FEED)


def layer(*parts: spec.Block | spec.Body) -> spec.Layer:
    """A layer of blocks, or of bodies in blocks with a norm."""
    return spec.Layer(
        blocks=tuple(p if isinstance(p, spec.Block) else spec.Block(body=p, input_norm=NORM) for p in parts)
    )


def stack(*layers: spec.Layer, **fields: Any) -> spec.Stack:
    values: dict[str, Any] = {"hidden_size": 8, "stem": spec.TokenStem(vocab_size=9), "max_length": 20}
    return spec.Stack(**{**values, **fields}, layers=layers)


STACK = stack(layer(ATTENTION, FEED))
EXAMPLE = spec.Model(
    encoder=stack(
        layer(DISENTANGLED, FEED, spec.Block(body=CONVOLUTION, from_layer_input=True)),
        layer(replace(ATTENTION, rotary=ROTARY, query_scale=spec.QueryScale(beta=0.1, original_length=4)), EXPERTS),
        layer(replace(ATTENTION, alibi=spec.Alibi(slopes=(0.5, 0.25))), FEED),
        layer(replace(ATTENTION, relative_bias=RELATIVE), FEED),
        stem=spec.TokenStem(vocab_size=9, dropout=spec.TokenDropout(mask=1, kept=0.9)),
        relative=spec.RelativeTable(rows=8),
    ),
    decoder=stack(layer(replace(ATTENTION, causal=True), CROSS, FEED), layer(spec.ShortConvolution(kernel=3), FEED)),
    language_head=spec.LanguageHead(vocab_size=9),
    head=spec.Head(pool=("mean",), layers=(spec.Dense(outputs=3),)),
    embeddings=(spec.Head(pool=("max",), layers=(spec.Normalization(norm=NORM), spec.UnitLength())),),
)


def with_unknown(value: Any, name: str, variant: bool = False) -> Any:
    """The JSON of a description with an unknown field in its first part of a class; None if there is none."""
    found = spec.tagged(value) if variant else spec.plain(value)
    if is_dataclass(value):
        if type(value).__name__ == name:
            return {**found, "colour": 1}
        for field in fields(value):
            new = with_unknown(getattr(value, field.name), name, field.name in spec.VARIANTS)
            if new is not None:
                return {**found, field.name: new}
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            new = with_unknown(item, name, variant)
            if new is not None:
                return [*found[:index], new, *found[index + 1 :]]
    return None


def test_the_example_is_a_description() -> None:
    assert solid(json.loads(_core.normalize_spec(EXAMPLE.to_json()))) == json.loads(EXAMPLE.to_json())


@pytest.mark.parametrize("kind", [k for k in vars(spec).values() if isinstance(k, type) and is_dataclass(k)])
def test_unknown_fields_are_refused_in_every_part(kind: Any) -> None:
    text = json.dumps(with_unknown(EXAMPLE, kind.__name__))
    assert "colour" in text
    with pytest.raises(lapwing.SpecError, match="unknown field `colour`"):
        _core.normalize_spec(text)


def test_unknown_bodies_are_refused() -> None:
    tree = json.loads(EXAMPLE.to_json())
    tree["decoder"]["layers"][0]["blocks"][0]["body"]["kind"] = "attraction"
    with pytest.raises(lapwing.SpecError, match="attraction"):
        _core.normalize_spec(json.dumps(tree))


def refused(pattern: str, encoder: spec.Stack | None = None, **parts: Any) -> None:
    with pytest.raises(lapwing.SpecError, match=pattern):
        _core.normalize_spec(spec.Model(encoder=encoder, **parts).to_json())


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
            "relative_bias": RELATIVE,
        },
        "alibi",
    ),
]


@pytest.mark.parametrize("change, named", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_impossible_attention_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    refused(rf"encoder\.layers\.0\.attention\.{named}", stack(layer(replace(ATTENTION, **change), FEED)))


IMPOSSIBLE: list[tuple[spec.Body, str]] = [
    (spec.FeedForward(width=0, activation="relu"), "feed_forward.width"),
    (replace(CONVOLUTION, kernel=0), "convolution.kernel"),
    (replace(CONVOLUTION, groups=3), "convolution.groups"),
    (spec.ShortConvolution(kernel=0), "short_convolution.kernel"),
    (replace(EXPERTS, router=spec.Router(count=0, per_token=1)), "experts.router.count"),
    (replace(EXPERTS, router=spec.Router(count=3, per_token=0)), "experts.router.per_token"),
    (replace(EXPERTS, router=spec.Router(count=3, per_token=4)), "experts.router.per_token"),
    (replace(EXPERTS, expert=replace(FEED, width=0)), "experts.expert.width"),
]


@pytest.mark.parametrize(("body", "named"), IMPOSSIBLE, ids=[named for _, named in IMPOSSIBLE])
def test_impossible_bodies_are_refused_by_name(body: spec.Body, named: str) -> None:
    refused(rf"encoder\.layers\.0\.{re.escape(named)}", stack(layer(ATTENTION, body)))


@pytest.mark.parametrize("relative", [None, spec.RelativeTable(rows=7), spec.RelativeTable(rows=10)], ids=str)
def test_disentangled_attention_needs_a_table_of_its_span(relative: spec.RelativeTable | None) -> None:
    refused("relative", stack(layer(DISENTANGLED, FEED), relative=relative))


def test_a_table_of_relative_positions_needs_attention_that_reads_it() -> None:
    refused(r"encoder\.relative", stack(layer(ATTENTION, FEED), relative=spec.RelativeTable(rows=8)))


@pytest.mark.parametrize(
    "blocks",
    [
        (spec.Block(body=ATTENTION, from_layer_input=True), FEED),
        (ATTENTION, spec.Block(body=FEED, input_norm=NORM, from_layer_input=True, residual_after_norm=True)),
    ],
    ids=["first", "residual_after_norm"],
)
def test_blocks_that_read_the_layer_input_are_refused_where_that_means_nothing(blocks: Any) -> None:
    refused("from_layer_input", stack(layer(*blocks)))


def test_experts_of_all_layers_are_bounded_together() -> None:
    """Otherwise a short description names billions of tensors."""
    many = replace(EXPERTS, router=spec.Router(count=1 << 16, per_token=2))
    refused(
        r"layers is 131074 blocks and experts: expected at most 131072",
        stack(layer(many), layer(ATTENTION, many, FEED)),
    )


@pytest.mark.parametrize("names", [(None, None), ("feed_forward", None), ("one", "one")], ids=str)
def test_names_of_blocks_are_unique(names: tuple[str | None, str | None]) -> None:
    blocks = [spec.Block(body=FEED, name=name) for name in names]
    refused(names[0] or "feed_forward", stack(layer(ATTENTION, *blocks)))


def test_blocks_of_one_kind_have_tensors_of_their_own() -> None:
    both = layer(ATTENTION, FEED, spec.Block(body=FEED, name="second"))
    names = {name for name, _ in _core.spec_tensors(spec.Model(encoder=stack(both)).to_json())}
    assert {"encoder.layers.0.feed_forward.up.weight", "encoder.layers.0.second.up.weight"} <= names


def test_cross_attention_needs_an_encoder() -> None:
    causal = replace(ATTENTION, causal=True)
    head = spec.LanguageHead(vocab_size=9)
    refused("cross_attention", stack(layer(ATTENTION, CROSS, FEED)))
    refused("cross_attention", decoder=stack(layer(causal, CROSS, FEED)), language_head=head)


@pytest.mark.parametrize("change", ["projection_bias", "project_before_positions"])
def test_a_stem_refuses_parts_of_what_it_lacks(change: str) -> None:
    stem: Any = replace(STACK.stem, **{change: True})
    refused(rf"encoder\.stem\.{change}", replace(STACK, stem=stem))


def test_whole_models_refuse_calls_that_leave_out_the_source() -> None:
    """The heads of an encoder-decoder read the decoder, whose states need a source."""
    model = spec.Model(
        encoder=STACK,
        decoder=stack(layer(replace(ATTENTION, causal=True), CROSS, FEED), hidden_size=16),
        language_head=spec.LanguageHead(vocab_size=9),
        head=spec.Head(pool=("mean",)),
        pooler=spec.Head(pool=("first",)),
    )
    core = compiled(model, random_weights(model, 1))
    batch = ragged([[1, 2, 3], [4, 5]])
    for call in (core.logits, core.head, core.pooled):
        with pytest.raises(lapwing.OptionError, match="encoder-decoder"):
            call(*batch)
    assert core.decoder_head(*batch, *batch).shape == (2, 16)
