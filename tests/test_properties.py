"""Bit-exact properties of every model: cached equals uncached, chunks equal one pass, batches equal singles, for any
number of threads. And searches against their twins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from lapwing import _core
from lapwing.errors import OptionError
from lapwing.models.base import ragged
from lapwing.spec import Attention, Block, Stack

from .reference import Twin
from .reference.beam import beam_search, log_softmax
from .reference.quantize import q4, q6, q8
from .reference.sample import probabilities
from .strategies import VOCABULARY, Case, cases, compiled
from .test_twin import compare

Array = np.ndarray[Any, Any]
Rounding = Callable[[Array], Array]
TYPES: list[dict[str, str]] = [
    {"weights": "f32"},
    {"weights": "f32", "kv": "f16"},
    {"weights": "bf16"},
    {"weights": "bf16", "activations": "bf16"},
    {"weights": "f16", "kv": "q8"},
    {"weights": "q8"},
    {"weights": "q8", "activations": "int8"},
    {"weights": "q4"},
]
every_type = pytest.mark.parametrize("types", TYPES, ids=lambda t: "-".join(t.values()))


def generate(model: _core.Model, prompts: list[list[int]], **options: Any) -> Any:
    """Results of the core's generation, without end tokens unless they are given."""
    generation = model.generate(*ragged(prompts), json.dumps(options))
    while not generation.finished():
        generation.advance(0)
    return generation.results()


def watched(model: _core.Model, prompts: list[list[int]], **options: Any) -> tuple[list[list[int]], dict[Any, Array]]:
    """The new tokens of each prompt, and the logits of each choice, by the ids before it."""
    seen: dict[tuple[int, ...], Array] = {}

    def watch(ids: list[int], logits: Array) -> Array:
        # Equal prompts must have equal logits.
        assert np.array_equal(seen.setdefault(tuple(ids), logits.copy()), logits)
        return logits

    generation = model.generate(*ragged(prompts), json.dumps(options), processor=watch)
    while not generation.finished():
        generation.advance(1)
    return [hypotheses[0][0] for hypotheses in generation.results()], seen


def steps_equal_the_whole(model: _core.Model, prompts: list[list[int]], steps: int) -> list[Array]:
    """Asserts that the logits of each step are bit-identical to those of the whole text; returns them."""
    found, seen = watched(model, prompts, max_tokens=steps)
    everything = []
    for prompt, new in zip(prompts, found, strict=True):
        assert len(new) == steps
        whole = model.logits(*ragged([[*prompt, *new[:-1]]]))[-steps:]
        for i, logits in enumerate(whole):
            assert np.array_equal(seen[(*prompt, *new[:i])], logits)
        assert new == whole.argmax(axis=1).tolist()
        everything.append(whole)
    return everything


def with_static_rotation(stack: Stack) -> Stack:
    """Without rotations that change with the length: keys that are cached keep the rotation they had."""

    def still(block: Block) -> Block:
        body = block.body
        if not isinstance(body, Attention) or body.rotary is None:
            return block
        return replace(block, body=replace(body, rotary=replace(body.rotary, long=None, dynamic=None)))

    layers = (replace(layer, blocks=tuple(map(still, layer.blocks))) for layer in stack.layers)
    return replace(stack, layers=tuple(layers))


def static(case: Case) -> Case:
    assert case.spec.decoder is not None
    return replace(case, spec=replace(case.spec, decoder=with_static_rotation(case.spec.decoder)))


def everything(model: _core.Model, case: Case) -> list[Array]:
    ids, starts = ragged(case.ids)
    if case.spec.encoder is not None and case.spec.decoder is not None:
        return [model.decoder_logits(ids, starts, *ragged(case.targets))]
    segments = None if case.segments is None else ragged(case.segments)[0]
    found = [model.encode(ids, starts, segments)]
    for part, call in (
        (case.spec.language_head, model.logits),
        (case.spec.head, model.head),
        (case.spec.pooler, model.pooled),
    ):
        if part is not None:
            found.append(call(ids, starts, segments))
    if segments is None:
        found += [model.embed(ids, starts, route) for route in range(len(case.spec.embeddings))]
    return found


@every_type
@given(st.one_of(cases("encoder"), cases("decoder"), cases("both")))
def test_threads_change_nothing(types: dict[str, str], case: Case) -> None:
    expected = everything(compiled(case.spec, case.weights, threads=1, **types), case)
    for threads in (2, 3, 8):
        got = everything(compiled(case.spec, case.weights, threads=threads, **types), case)
        assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))


@every_type
@given(st.one_of(cases("encoder"), cases("decoder")))
def test_a_batch_gives_what_singles_give(types: dict[str, str], case: Case) -> None:
    model = compiled(case.spec, case.weights, **types)
    together = everything(model, case)
    alone = []
    for i, ids in enumerate(case.ids):
        segments = None if case.segments is None else [case.segments[i]]
        alone.append(everything(model, replace(case, ids=[ids], segments=segments)))
    for got, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert np.array_equal(got, np.concatenate(parts))


def long(case: Case) -> Case:
    """Supports texts of up to 2,048 tokens."""
    assert case.spec.decoder is not None
    stack = case.spec.decoder
    stack = replace(stack, max_length=2048, stem=replace(stack.stem, positions=0))
    weights = {name: value for name, value in case.weights.items() if "position" not in name}
    return replace(case, spec=replace(case.spec, decoder=stack), weights=weights)


@every_type
@given(cases("decoder").map(static))
def test_cached_steps_equal_the_whole_sequence(types: dict[str, str], case: Case) -> None:
    steps_equal_the_whole(compiled(case.spec, case.weights, **types), case.ids[:1], 5)


@every_type
@given(cases("decoder").map(static).map(long), st.integers(500, 560), st.integers(0, 600))
def test_a_prompt_in_chunks_gives_what_one_shot_gives(
    types: dict[str, str], case: Case, length: int, other: int
) -> None:
    generator = np.random.default_rng(length)
    # Prompts are read 512 tokens at a time, so the chunks have different borders in each prompt.
    prompts = [generator.integers(0, VOCABULARY, n).tolist() for n in (other, length, 7) if n]
    steps_equal_the_whole(compiled(case.spec, case.weights, **types), prompts, 2)


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
@given(cases("decoder").map(static).map(long), st.integers(257, 1100))
def test_a_long_text_that_threads_share_gives_what_one_thread_gives(kv: str, case: Case, length: int) -> None:
    """A step after more than 256 tokens is split along these tokens, among the threads."""
    prompt = np.random.default_rng(length).integers(0, VOCABULARY, length).tolist()
    (one,), (many,) = (
        steps_equal_the_whole(compiled(case.spec, case.weights, threads=threads, kv=kv), [prompt], 3)
        for threads in (1, 8)
    )
    assert np.array_equal(one, many)


@every_type
@given(cases("decoder").map(static))
def test_prompts_decoded_together_give_what_each_gives_alone(types: dict[str, str], case: Case) -> None:
    model = compiled(case.spec, case.weights, **types)
    for options in ({}, {"temperature": 0.9, "samples": 2, "seed": 5}):
        together = generate(model, case.ids, max_tokens=6, **options)
        if not options:  # a sample depends on the index of the sequence
            assert together == [generate(model, [ids], max_tokens=6)[0] for ids in case.ids]
        assert together == generate(model, case.ids, max_tokens=6, **options)


IDS = st.lists(st.integers(0, VOCABULARY - 1), max_size=4)
RULED_OUT = st.fixed_dictionaries(
    {},
    optional={
        "suppress_tokens": IDS,
        "begin_suppress_tokens": IDS,
        "bad_words_ids": st.lists(IDS.filter(len), max_size=2),
        "no_repeat_ngram_size": st.integers(1, 3),
        "min_tokens": st.integers(0, 4),
        "forced_eos_token_ids": IDS.map(lambda ids: ids[:1]),
        "prompt_lookup": st.integers(1, 3),
    },
)
"""Options that forbid tokens, and one that adds rows to a step."""


@every_type
@given(cases("decoder").map(static), RULED_OUT, st.integers(1, 4), st.sampled_from((0, 3, VOCABULARY)), IDS)
def test_the_largest_logits_lead_to_what_all_of_them_lead_to(
    types: dict[str, str], case: Case, options: dict[str, Any], beams: int, top_logprobs: int, ends: list[int]
) -> None:
    """A processor receives all logits; without one only the top-k are kept."""
    if beams > 1:
        options.pop("prompt_lookup", None)
    model = compiled(case.spec, case.weights, **types)
    options |= {"max_tokens": 5, "beams": beams, "eos_ids": ends, "stop_ids": ends}
    options |= {"logprobs": top_logprobs > 0, "top_logprobs": top_logprobs}

    def found(processor: Any) -> Any:
        try:
            generation = model.generate(*ragged(case.ids), json.dumps(options), processor=processor)
            events = []
            while not generation.finished():
                events += generation.advance(1)
            return events, generation.results()
        except OptionError as error:
            return str(error)

    assert found(None) == found(lambda _, logits: logits)


@given(
    cases("decoder").map(static),
    st.integers(2, 4),
    st.sampled_from((1.0, 0.0, 2.0, -1.0)),
    st.sampled_from((False, True, "never")),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=3, unique=True),
)
def test_beams_are_those_of_the_twin(case: Case, beams: int, penalty: float, early: Any, ends: list[int]) -> None:
    model = compiled(case.spec, case.weights)
    prompt, options = case.ids[0], {"beams": beams, "length_penalty": penalty, "early_stopping": early}

    def logits(ids: list[int]) -> Array:
        return model.logits(*ragged([ids]))[-1]

    margins: list[float] = []
    want = beam_search(logits, prompt, ends=ends, max_tokens=5, margins=margins, **options)
    stops = {"stop_ids": ends, "eos_ids": ends, "num_hypotheses": beams}
    got = generate(model, [prompt], max_tokens=5, **options, **stops)[0]
    scores = [score for _, score in want]
    np.testing.assert_allclose([score for _, score, *_ in got], scores, rtol=1e-4, atol=1e-4)
    for ids, score, *_ in got:
        steps = [log_softmax(logits([*prompt, *ids[:i]]))[token] for i, token in enumerate(ids)]
        assert abs(sum(steps) / len(ids) ** penalty - score) <= 1e-4 * max(1, abs(score))
    # Candidates with nearly equal scores may be swapped anywhere in the search.
    event(f"margin {'wide' if min(margins) > 1e-4 else 'narrow'}")
    if min(margins) > 1e-4:
        assert [ids for ids, *_ in got] == [ids for ids, _ in want]


@pytest.mark.parametrize(
    "options", [{"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 9, "top_p": 0.8, "min_p": 0.1}, {}], ids=str
)
@given(cases("decoder"))
def test_draws_follow_the_twin(options: dict[str, Any], case: Case) -> None:
    model, draws = compiled(case.spec, case.weights), 1024
    prompt = case.ids[0][:4]
    margins: list[float] = []
    want = probabilities(model.logits(*ragged([prompt]))[-1], temperature=0.7, margins=margins, **options)
    # Twelve of fifteen equal logits have 0.8 of the mass but for rounding: of at most 53 sums and an
    # exponential each of 2^-24, below 1e-5.
    wide = min(margins, default=1.0) > 1e-5
    event(f"margin {'wide' if wide else 'narrow'}")
    if not wide:
        return
    found = generate(model, [prompt], max_tokens=1, temperature=0.7, samples=draws, seed=3, **options)[0]
    counts = Counter(ids[0] for ids, *_ in found)
    assert all(want[token] > 0 for token in counts)
    for token, p in enumerate(want):
        # Six standard deviations of a binomial, and one draw.
        assert abs(counts[token] - draws * p) <= 6 * np.sqrt(draws * p * (1 - p)) + 1


@pytest.mark.parametrize(
    ("weights", "of_layers", "of_tokens", "change"), [("q8", q8, q8, 3e-5), ("q4", q4, q6, 4e-3)], ids=["q8", "q4"]
)
@given(case=st.one_of(cases("encoder"), cases("decoder")))
def test_quantized_weights_are_those_of_the_twin(
    case: Case, weights: str, of_layers: Rounding, of_tokens: Rounding, change: float
) -> None:
    """Weights are rounded as the twin rounds them. Activations of 16 bits add what a change of 3e-5 does, those of 8
    are off by at most 1 / 254 of the largest beside them."""
    tables = (".position.weight", ".segment.weight", "relative_bias.weight", ".relative.weight", "convolution.weight")
    tables += (".router.weight",)  # rounding would choose other experts
    rounded = dict(case.weights)
    for name, value in case.weights.items():
        if value.ndim == 2 and not name.endswith(tables) and "norm" not in name:
            rounded[name] = (of_tokens if name.endswith("embedding.token.weight") else of_layers)(value)
    model = compiled(case.spec, case.weights, weights=weights, kv="f32")
    table = model.hidden_states(*ragged([case.ids[0]]))[0]
    stack = case.spec.encoder or case.spec.decoder
    assert stack is not None
    twin = Twin(case.spec, rounded)
    if stack.stem.embedding_size is None:
        exact = twin.embed(stack.stem, twin.reader, case.ids[0], None)
        np.testing.assert_allclose(table, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    if stack.relative is None:
        compare(
            replace(case, weights=rounded, segments=None),
            lambda twin: {"states": twin.states(case.ids[0])},
            {"states": model.encode(*ragged(case.ids[:1]))},
            change=change,
        )
