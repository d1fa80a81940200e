"""Speculative decoding changes only the number of steps."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lapwing
from lapwing import _core
from lapwing.models.base import ragged

from .loaded import GOLDEN
from .strategies import VOCABULARY, Case, cases, compiled
from .test_properties import every_type, static

TEXT = "First Citizen:\nWe are accounted poor citizens.\n\nFirst Citizen:\nWe are"


def generate(model: _core.Model, prompts: list[list[int]], draft: _core.Model | None = None, **options: Any) -> Any:
    """The results and the number of steps."""
    generation = model.generate(*ragged(prompts), json.dumps(options), draft=draft)
    steps, events = 0, []
    while not generation.finished():
        events += generation.advance(1)
        steps += 1
    results = generation.results()
    for i, ((ids, *_),) in enumerate(results):
        assert [token for number, token, _, _ in events if number == i] == ids
    return results, steps


def outcome(*arguments: Any, **options: Any) -> Any:
    """The same results, or the same error: options may forbid every token."""
    try:
        return generate(*arguments, **options)
    except lapwing.OptionError as error:
        return str(error), 0


IDS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3)
OPTIONS = st.fixed_dictionaries(
    {"temperature": st.sampled_from((0.0, 0.0, 0.8)), "seed": st.integers(0, 9)},
    optional={
        "repetition_penalty": st.sampled_from((0.8, 1.1, 1.5)),
        "presence_penalty": st.just(0.7),
        "frequency_penalty": st.just(0.4),
        "bad_words_ids": st.lists(IDS, max_size=3),
        "suppress_tokens": IDS,
        "begin_suppress_tokens": IDS,
        "no_repeat_ngram_size": st.integers(2, 3),
        "min_length": st.integers(0, 60),
        "min_tokens": st.integers(0, 8),
        "forced_eos_token_ids": IDS,
        "sequence_bias": st.lists(st.tuples(IDS, st.sampled_from((-3.0, 2.0))), max_size=2),
        "top_k": st.integers(1, 20),
        "top_p": st.sampled_from((0.5, 0.9)),
        "logprobs": st.just(value=True),
    },
)
"""Sampling in which a token depends on its draw and on the tokens before it."""


@every_type
@given(cases("decoder").map(static), st.integers(1, 8), OPTIONS, IDS)
def test_lookup_gives_the_same(
    types: dict[str, str], case: Case, guesses: int, options: dict[str, Any], ends: list[int]
) -> None:
    model = compiled(case.spec, case.weights, **types)
    # Repetitive texts, so that there is something to guess.
    prompts = [(ids * 3)[:40] for ids in case.ids]
    options |= {"max_tokens": 12, "eos_ids": ends, "stop_ids": ends}
    want, steps = outcome(model, prompts, **options)
    got, fewer = outcome(model, prompts, prompt_lookup=guesses, **options)
    assert got == want and fewer <= steps


@every_type
@given(cases("decoder").map(static), st.integers(1, 6), OPTIONS, IDS, st.sampled_from((0, 2)))
def test_a_draft_gives_the_same(
    types: dict[str, str], case: Case, guesses: int, options: dict[str, Any], ends: list[int], lookup: int
) -> None:
    model = compiled(case.spec, case.weights, **types)
    noise = np.random.default_rng(1)
    near = {name: value + 0.01 * noise.standard_normal(value.shape).astype("f") for name, value in case.weights.items()}
    draft = compiled(case.spec, near, **types)
    options |= {"max_tokens": 12, "eos_ids": ends, "stop_ids": ends}
    want, steps = outcome(model, case.ids, **options)
    got, fewer = outcome(model, case.ids, draft, draft_tokens=guesses, prompt_lookup=lookup, **options)
    assert got == want and fewer <= steps


PROCESSED: dict[str, Any] = {"repetition_penalty": 1.05, "bad_words_ids": [[198], [11, 4]], "min_length": 60}


DRAWN: dict[str, Any] = {"temperature": 0.6, "top_k": 20}


@pytest.mark.parametrize("options", [[{}], [{**DRAWN, "seed": seed} for seed in range(4)]], ids=("greedy", "drawn"))
@pytest.mark.parametrize("weights", ["f32", "bf16", "f16", "q8", "q4"])
def test_guesses_come_true_with_every_type_and_with_processors(weights: str, options: list[dict[str, Any]]) -> None:
    """The same again, with fewer steps: the comparison above is not vacuous."""
    name = "lapwing/tiny-shakespeare"
    with lapwing.load(name, weights=weights) as model, lapwing.load(name, weights="q4") as draft:
        ids = model.tokenizer.encode(TEXT)
        saved = {"draft": 0, "lookup": 0}
        for one in options:
            one = {"max_tokens": 60, **PROCESSED, **one}
            want, steps = generate(model.core, [ids], **one)
            assert steps == 60
            for kind, guesser in (
                ("draft", {"draft": draft.core, "draft_tokens": 4}),
                ("lookup", {"prompt_lookup": 4}),
            ):
                got, fewer = generate(model.core, [ids], **guesser, **one)
                assert got == want and fewer <= steps
                saved[kind] += steps - fewer
        assert min(saved.values()) > 0


@given(cases("decoder"))
def test_rotations_by_length_are_not_guessed_across(case: Case) -> None:
    assert case.spec.decoder is not None
    model = compiled(replace(case.spec, decoder=case.spec.decoder), case.weights)
    want, _ = generate(model, case.ids, max_tokens=8)
    assert generate(model, case.ids, prompt_lookup=4, max_tokens=8)[0] == want


def traced(model: _core.Model, prompt: list[int], draft: _core.Model | None = None, **options: Any) -> Any:
    """Tokens with their log-probabilities, and the length of the text at each step."""
    generation = model.generate(*ragged([prompt]), json.dumps({"logprobs": True, **options}), draft=draft)
    events, lengths = [], []
    while not generation.finished():
        lengths.append(len(prompt) + len(events))
        events += generation.advance(1)
    return [event[1:3] for event in events], lengths


@pytest.mark.parametrize("name", ["llama-longrope", "phi3-longrope", "llama-dynamic"])
@pytest.mark.parametrize("start", [3, 4, 5, 6, 7])
def test_guesses_keep_to_a_side_of_where_rotations_change(name: str, start: int) -> None:
    """With a perfect draft: as many tokens a step as without such rotations, but none across the border, and where each
    length has rotations of its own none at all."""
    most, prompt, end = 4, [*range(3, 3 + start)], start + 60
    with lapwing.load(GOLDEN / name) as model, lapwing.load(GOLDEN / name) as draft:
        rotary = model.spec.decoder.layers[0].block("attention").body.rotary
        border = rotary.long.after if rotary.long else rotary.dynamic.original_length
        expected = [start]
        length = start + 1
        while length < end:
            expected.append(length)
            alike = border - length if length <= border else 0 if rotary.dynamic else most
            length += 1 + min(most, alike, end - length - 1)
        want, lengths = traced(model.core, prompt, max_tokens=60)
        assert lengths == [*range(start, end)]
        got, lengths = traced(model.core, prompt, draft.core, max_tokens=60, draft_tokens=most)
        below = sum(length <= border for length in expected)
        # After the border the draft reads two tokens at once, the first one differently from the model: guesses may be
        # wrong.
        assert got == want and lengths[:below] == expected[:below] and len(lengths) <= len(expected) + 1
        assert traced(model.core, prompt, max_tokens=60, prompt_lookup=most)[0] == want


@pytest.mark.parametrize("guesses", [2, 4, 7])
def test_a_perfect_draft_saves_most_steps(guesses: int) -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model, lapwing.load("lapwing/tiny-shakespeare") as draft:
        ids = model.tokenizer.encode(TEXT)
        want, steps = generate(model.core, [ids], max_tokens=40)
        got, fewer = generate(model.core, [ids], draft.core, max_tokens=40, draft_tokens=guesses)
        assert got == want
        assert steps == 40 and fewer == 1 + -(-39 // (guesses + 1))


def test_a_text_that_repeats_itself_saves_steps() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        ids = model.tokenizer.encode(TEXT)
        steps = [generate(model.core, [ids], max_tokens=60, prompt_lookup=guesses)[1] for guesses in (0, 1, 8)]
        assert steps[0] == 60 > steps[1] > steps[2]


def test_the_core_is_told() -> None:
    """Results do not show whether anything was guessed, so this checks the arguments of the core."""
    with lapwing.load("lapwing/tiny-shakespeare") as model, lapwing.load("lapwing/tiny-shakespeare") as draft:
        assert model._resolve({"prompt_lookup": 5}, "generate").core["prompt_lookup"] == 5
        request = model._resolve({"draft_model": draft, "draft_tokens": 3}, "generate")
        assert request.draft is draft.core and request.core["draft_tokens"] == 3


def test_options_reach_the_text_level() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model, lapwing.load("lapwing/tiny-shakespeare") as draft:
        want = model.generate(TEXT, max_tokens=30, temperature=0).text
        assert model.generate(TEXT, max_tokens=30, temperature=0, prompt_lookup=5).text == want
        assert model.generate(TEXT, max_tokens=30, temperature=0, draft_model=draft, draft_tokens=3).text == want
        chunks = model.stream(TEXT, max_tokens=30, temperature=0, prompt_lookup=5, stop="citizen")
        alone = model.stream(TEXT, max_tokens=30, temperature=0, stop="citizen")
        assert "".join(c.text for c in chunks) == "".join(c.text for c in alone)


def test_translations_are_looked_up_in_their_source() -> None:
    with lapwing.load("lapwing/tiny-en-de") as model:
        texts = ["A man in a red shirt is riding a bicycle down the street.", "A dog."]
        want = [t.text for t in model.translate(texts, beams=1)]
        assert [t.text for t in model.translate(texts, beams=1, prompt_lookup=4)] == want


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_lookup": -1}, "prompt_lookup"),
        ({"prompt_lookup": 100}, "prompt_lookup"),
        ({"draft_tokens": 3}, "draft_model"),
        ({"draft_model": "small"}, "TextGenerator"),
        ({"prompt_lookup": 3, "beams": 2}, "beams"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model, pytest.raises(lapwing.OptionError, match=words):
        model.generate("A", max_tokens=2, **options)


def test_drafts_must_fit() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model, lapwing.load("lapwing/tiny-en-de") as other:
        with pytest.raises(lapwing.OptionError, match="TextGenerator"):
            model.generate("A", draft_model=other)
        with pytest.raises(lapwing.OptionError, match="itself"):
            model.generate("A", draft_model=model)


CROSSED = """
import threading, lapwing
a, b = lapwing.load("lapwing/tiny-shakespeare"), lapwing.load("lapwing/tiny-shakespeare", weights="q4")
options = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
want = {model: model.generate_ids([5, 6, 7], **options) for model in (a, b)}
def run(model, draft):
    for _ in range(20):
        assert model.generate_ids([5, 6, 7], draft_model=draft, **options) == want[model]
    print("done")
threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in ((a, b), (b, a))]
for thread in threads: thread.start()
for thread in threads: thread.join(60)
"""


def test_models_that_guess_for_each_other_do_not_wait_for_each_other() -> None:
    found = subprocess.run([sys.executable, "-c", CROSSED], capture_output=True, text=True, timeout=240)
    assert found.stdout.split() == ["done", "done"], found.stderr
