"""Explanations: the axioms of the methods, the models that they explain, and the pictures."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lapwing
from lapwing import _core
from lapwing.explain import Explanation, occlusion, rollout, shapley
from lapwing.explain.methods import evaluations, is_exact
from lapwing.models import rollouts
from lapwing.models.base import ragged
from lapwing.models.explaining import log_softmax

from .loaded import GOLDEN, model
from .strategies import Case, cases, compiled

Array = np.ndarray[Any, Any]
TEXT = "the quick brown fox"
MODELS = {
    "bert-seqcls": TEXT,
    "distilbert-seqcls": (TEXT, "a dog"),
    "deberta-v2-seqcls": TEXT,
    "modernbert-seqcls": TEXT,
    "xlm-roberta-rerank": (TEXT, "a dog"),
    "roberta-seqcls": TEXT,
    "bert-mlm": "the quick [MASK] fox",
    "llama": TEXT,
    "gpt2": TEXT,
    "gemma2": TEXT,
    "bloom": TEXT,
    "mixtral": TEXT,
    "marian": TEXT,
    "t5-v1_1": TEXT,
    "bart": TEXT,
}


def game(seed: int, players: int, targets: int) -> Any:
    """A random function of coalitions, which ignores the first player."""
    table = np.random.default_rng(seed).standard_normal((1 << players, targets))

    def evaluate(coalitions: Array) -> Array:
        return table[[sum(1 << i for i, kept in enumerate(row) if kept and i) for row in coalitions.tolist()]]

    return evaluate


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 3))
def test_exact_shapley_values_are_means_over_all_orders(seed: int, players: int, targets: int) -> None:
    evaluate = game(seed, players, targets)
    total = np.zeros((targets, players))
    for order in itertools.permutations(range(players)):
        kept = np.zeros(players, bool)
        for player in order:
            before = evaluate(kept[None])[0]
            kept[player] = True
            total[:, player] += evaluate(kept[None])[0] - before
    found = shapley(evaluate, players, 1 << 10, 0)
    assert found.errors is None
    assert np.allclose(found.contributions, total / math.factorial(players), rtol=0, atol=1e-12)


@given(st.integers(0, 2**32), st.integers(2, 10), st.integers(1, 3), st.sampled_from((2, 4, 16)))
def test_shapley_values_sum_to_the_difference_and_ignore_what_is_ignored(
    seed: int, players: int, targets: int, samples: int
) -> None:
    evaluate = game(seed, players, targets)
    found = shapley(evaluate, players, samples, seed)
    assert found.baseline is not None
    assert np.allclose(found.contributions.sum(axis=1), found.value - found.baseline, rtol=0, atol=1e-11)
    assert not np.any(found.contributions[:, 0])
    assert not np.any(occlusion(evaluate, players).contributions[:, 0])


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_contributions_to_a_sum_are_its_terms(seed: int, players: int) -> None:
    terms = np.random.default_rng(seed).integers(-100, 100, (players, 2)).astype(np.float64)
    for found in (occlusion(lambda c: c @ terms, players), shapley(lambda c: c @ terms, players, 4, seed)):
        assert np.allclose(found.contributions, terms.T, rtol=0, atol=1e-11)


@given(st.integers(1, 12), st.sampled_from((2, 4, 16)))
def test_the_number_of_evaluations_is_known(players: int, samples: int) -> None:
    for method in ("occlusion", "shapley"):
        count = 0

        def evaluate(coalitions: Array) -> Array:
            nonlocal count
            count += len(coalitions)
            return np.zeros((len(coalitions), 1))

        if method == "occlusion":
            occlusion(evaluate, players)
        else:
            shapley(evaluate, players, samples, 0)
        assert count == evaluations(method, players, samples)
    assert is_exact(3, 4)


def test_sampled_shapley_values_are_near_the_exact_ones() -> None:
    evaluate = game(3, 8, 1)
    exact, sampled = shapley(evaluate, 8, 1 << 10, 0), shapley(evaluate, 8, 30, 0)
    assert exact.errors is None
    assert sampled.errors is not None
    # Six standard errors.
    assert np.all(np.abs(sampled.contributions - exact.contributions)[0] <= 6 * sampled.errors + 1e-12)


def test_rollout_multiplies_layers() -> None:
    """The example of two layers by hand."""
    first = np.array([[[1, 0], [0.5, 0.5]]], np.float32)
    second = np.array([[[1, 0], [1, 0]]], np.float32)
    assert rollout([first, second], 2).tolist() == [[1, 0], [0.625, 0.375]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["occlusion", "shapley", "rollout"])
def test_models_are_explained(name: str, method: str) -> None:
    found: Explanation = model(name).explain(MODELS[name], method=method, samples=2)
    assert len(found.tokens) == len(found.scores) == len(found.offsets) == len(found.parts)
    for token, offset, part in zip(found.tokens, found.offsets, found.parts, strict=True):
        if part is not None and offset[1] > offset[0]:
            assert found.texts[part][slice(*offset)] == token
    assert len(found.matrix) == len(found.target_tokens)
    if method == "rollout":
        assert found.value is None
        rows = found.matrix or (found.scores,)
        assert all(-1e-12 <= share <= 1 + 1e-12 for row in rows for share in row)
        # The first target token sees the prompt alone; a label all of its text.
        own = "encoder-decoder" if model(name).kind == "encoder-decoder" else "one stack"
        assert own == "encoder-decoder" or sum(rows[0]) == pytest.approx(1, abs=1e-12)
        return
    assert found.value is not None
    assert all(score == 0 for score, part in zip(found.scores, found.parts, strict=True) if part is None)
    if found.matrix:
        assert np.allclose(np.sum(found.matrix, axis=0), found.scores, rtol=0, atol=1e-10)
    if method == "shapley":
        assert found.baseline is not None
        assert sum(found.scores) == pytest.approx(found.value - found.baseline, abs=1e-9)
    else:
        assert any(found.scores)


@pytest.mark.parametrize("name", ["bert-seqcls", "bert-mlm", "llama", "marian"])
def test_explanations_depend_neither_on_batches_nor_on_threads(name: str) -> None:
    text = MODELS[name]
    want = [model(name).explain(text, method=method, samples=4) for method in ("occlusion", "shapley", "rollout")]
    assert model(name).explain([text, text])[1] == want[0]
    with lapwing.load(GOLDEN / name, threads=1) as other:
        for found in want:
            assert other.explain(text, method=found.method, samples=4, batch_tokens=1) == found


@pytest.mark.parametrize("name", ["bert-seqcls", "llama"])
def test_replacing_an_unknown_token_by_itself_changes_nothing(name: str) -> None:
    own = model(name)
    unknown = own.tokenizer.unk_token_id
    text = "the \u2603 brown fox"
    found = own.explain(text, removal="unk")
    places = [place for place, index in enumerate(own.tokenizer.encode(text)) if index == unknown]
    assert all(found.scores[place] == 0 for place in places)


def test_the_value_of_a_label_is_its_log_probability() -> None:
    own = model("bert-seqcls")
    labels = own.classify(TEXT).labels
    assert own.explain(TEXT).target == labels[0].label
    for label in labels:
        assert own.explain(TEXT, label.label).value == pytest.approx(math.log(label.score), rel=1e-5)


def test_the_value_of_a_filling_is_its_log_probability() -> None:
    text = MODELS["bert-mlm"]
    best = model("bert-mlm").fill_mask(text, top_k=1)[0]
    found = model("bert-mlm").explain(text)
    assert found.value == pytest.approx(math.log(best.score), rel=1e-5)
    assert found.target == best.token


def test_the_value_of_a_continuation_is_its_score() -> None:
    own = model("llama")
    prompt = own.tokenizer.encode(TEXT)
    target = own.tokenizer.encode(" dog", add_special_tokens=False)
    rows = own.logits([*prompt, *target])[len(prompt) - 1 : -1]
    want = log_softmax(rows)[np.arange(len(target)), target].sum()
    assert own.explain(TEXT, " dog").value == want


def test_the_value_of_a_translation_is_its_score() -> None:
    own = model("marian")
    assert own.explain(TEXT, "ein Hund").value == pytest.approx(own.score(TEXT, "ein Hund").total, abs=1e-12)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bert-mlm", "bloom"])
def test_the_last_layer_of_the_logit_lens_is_the_model(name: str) -> None:
    own = model(name)
    vocabulary = own.info().vocab_size
    found = own.logit_lens(TEXT, top=vocabulary)
    ids = own.tokenizer.encode(TEXT)
    logits = own.core.logits(*ragged([ids]))
    assert np.array_equal(own.core.state_logits(own.hidden_states(ids)[-1], True), logits)
    assert len(found.layers) == len(own.hidden_states(ids))
    for tokens, row in zip(found.layers[-1], log_softmax(logits), strict=True):
        assert [token.logprob for token in tokens] == sorted(row, reverse=True)
        assert all(token.logprob == row[token.id] for token in tokens)


@given(cases("decoder"))
def test_the_lens_at_a_layer_is_the_model_that_ends_there(case: Case) -> None:
    stack = case.spec.decoder
    assert stack is not None
    flat, starts = ragged(case.ids[:1])
    states = compiled(case.spec, case.weights).hidden_states(flat, starts)
    for count in range(1, len(stack.layers)):
        spec = replace(case.spec, embeddings=(), decoder=replace(stack, layers=stack.layers[:count]))
        names = {name for name, _ in _core.spec_tensors(spec.to_json())}
        shorter = compiled(spec, {name: value for name, value in case.weights.items() if name in names})
        want = shorter.logits(flat, starts)
        assert np.array_equal(compiled(case.spec, case.weights).state_logits(states[count], False), want)


def test_the_lens_of_a_translation() -> None:
    own = model("marian")
    found = own.logit_lens(TEXT, "ein Hund", top=2)
    assert len(found.layers[0]) == len(found.tokens)
    assert all(len(top) == 2 for layer in found.layers for top in layer)
    assert str(found).count("\n") == len(found.tokens)


class Checker(HTMLParser):
    """The tags and the text of a page; attributes are style, title, lang or charset."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert {name for name, _ in attrs} <= {"style", "title", "lang", "charset"}

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = "<script>a</script> & \"'<img onerror=x>"


@pytest.mark.parametrize("name", ["bert-seqcls", "llama", "marian"])
def test_pictures_escape_texts(name: str) -> None:
    found = model(name).explain(HOSTILE)
    lens = model("llama").logit_lens(HOSTILE)
    for result in (found, lens, replace(found, target=HOSTILE, tokens=tuple(HOSTILE for _ in found.tokens))):
        checker = Checker()
        checker.feed(result.to_html())
        assert checker.tags <= {
            *("html", "head", "meta", "title", "body", "div", "p", "span", "table", "tr", "th", "td")
        }
        assert "<!DOCTYPE" not in result._repr_html_()
        if isinstance(result, Explanation):
            assert HOSTILE in checker.text


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("bert-seqcls", lambda m: m.explain(""), "no tokens of its own"),
        ("llama", lambda m: m.explain(""), "no tokens of its own"),
        ("gpt2", lambda m: m.explain(""), "text is empty"),
        ("gpt2", lambda m: m.logit_lens(""), "text is empty"),
        ("marian", lambda m: m.explain(""), "no tokens of its own"),
        ("llama", lambda m: m.explain("a", ""), "target is empty"),
        ("bert-seqcls", lambda m: m.explain("the " * 10_000), "expected at most"),
        ("llama", lambda m: m.explain("the " * 10_000), "expected at most"),
        ("marian", lambda m: m.explain("the " * 10_000), "expected at most"),
        ("llama", lambda m: m.logit_lens("the " * 10_000), "expected at most"),
        ("bert-seqcls", lambda m: m.explain("a", "no label"), "expected one of the labels"),
        ("bert-seqcls", lambda m: m.explain("a", method="gradient"), "expected occlusion, shapley or rollout"),
        ("bert-seqcls", lambda m: m.explain("a", removal="drop"), "expected auto, mask, unk or delete"),
        ("bert-seqcls", lambda m: m.explain("a", samples=3), "expected an even number"),
        ("llama", lambda m: m.explain("a", removal="mask"), "has no such token"),
        ("bert-mlm", lambda m: m.explain("a"), "0 mask tokens"),
        ("bert-tokcls", lambda m: m.explain("a"), "for each token"),
        ("bert-sentence", lambda m: m.explain("a"), "has no head"),
        ("bert-seqcls", lambda m: m.logit_lens("a"), "no language head"),
        ("llama", lambda m: m.logit_lens("a", top=0), "top is 0"),
        ("lfm2", lambda m: m.explain("the cat", method="rollout"), "ShortConvolution"),
    ],
)
def test_errors_say_what_is_wrong(name: str, call: Any, words: str) -> None:
    with pytest.raises((lapwing.OptionError, lapwing.ContextLengthError)) as caught:
        call(model(name))
    assert words in str(caught.value)


def test_heads_of_encoder_decoders(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "bart-seqcls", tmp_path / "model")
    stored = json.loads((GOLDEN / "zero_shot.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(stored["tokenizer"]), encoding="utf-8")
    with lapwing.load(folder) as own:
        text = stored["texts"][0]
        found = own.explain(text, method="shapley", samples=2)
        assert found.target == own.classify(text).label
        assert any(found.scores)
        assert sum(found.scores) == pytest.approx(found.value - found.baseline, abs=1e-9)
        with pytest.raises(lapwing.OptionError, match="reads both stacks"):
            own.explain(text, method="rollout")


def test_rollout_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "ATTENTION_BYTES", 100)
    with pytest.raises(lapwing.ContextLengthError, match=r"heads of a layer: expected at most 0 MiB, 2 tokens"):
        model("bert-seqcls").explain(TEXT, method="rollout")


def test_progress_counts_evaluations() -> None:
    seen: list[tuple[int, int]] = []
    model("bert-seqcls").explain("the cat", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]


def run(*words: str, code: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "lapwing", "explain", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert result.returncode == code, result.stderr
    return result.stdout if not code else result.stderr


def test_the_command(tmp_path: Path) -> None:
    folder = str(GOLDEN / "bert-seqcls")
    assert run(folder, TEXT) == f"{model('bert-seqcls').explain(TEXT)}\n"
    picture = tmp_path / "picture.html"
    assert '"method": "shapley"' in run(folder, TEXT, "--method", "shapley", "--json", "--html", str(picture))
    checker = Checker()
    checker.feed(picture.read_text(encoding="utf-8"))
    assert TEXT in checker.text
    assert "layer" in run(str(GOLDEN / "llama"), TEXT, "--logit-lens", "--top", "1", "--json")
    assert "exclude each other" in run(str(GOLDEN / "llama"), TEXT, "--logit-lens", "--method", "rollout", code=1)
