"""Iterators: results as they come, the same as those of a list; nothing is read far ahead; closing ends the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.models import engine, feed

GOLDEN = Path(__file__).parent / "golden"
TEXTS = [f"The quick brown fox {i} jumps over the lazy dog." for i in range(40)]


class Counted:
    """An iterator that counts what was taken."""

    def __init__(self, items: list[Any], *, ready: Callable[[], bool] | None = None) -> None:
        self._items = iter(items)
        self.taken = 0
        if ready is not None:
            self.ready = ready

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.taken += 1
        return item


@pytest.mark.parametrize(
    ("name", "method", "texts"),
    [
        ("bert-sentence", "embed", TEXTS),
        ("bert-seqcls", "classify", TEXTS),
        ("bert-tokcls", "tag", TEXTS),
        ("bert-mlm", "fill_mask", [f"{text} [MASK]" for text in TEXTS]),
        ("qwen3", "score", TEXTS),
    ],
)
def test_windows_give_the_results_of_a_list(name: str, method: str, texts: list[str]) -> None:
    with lapwing.load(GOLDEN / name) as model:
        run = getattr(model, method)
        source = Counted(texts)
        found = run(source)
        assert source.taken == 0
        first = next(found)
        assert source.taken == feed.FIRST_WINDOW
        for own, want in zip([first, *found], run(texts), strict=True):
            assert np.array_equal(own, want) if method == "embed" else own == want
        assert list(run(iter([]))) == []


OPTIONS: list[dict[str, Any]] = [
    {"max_tokens": 9, "temperature": 0},
    {"max_tokens": 9, "temperature": 1.0, "seed": 3},
    {"max_tokens": 9, "temperature": 1.0, "seed": 3, "n": 2},
    {"max_tokens": 6, "beams": 3, "num_hypotheses": 2},
    {"max_tokens": 20, "temperature": 0, "stop": ["the", "a"], "logprobs": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_generations_of_an_iterator_are_those_of_a_list(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "AHEAD", 5)  # so that prompts join while others run
    prompts = [text[: 6 + 3 * (i % 9)] for i, text in enumerate(TEXTS[:17])]
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        source = Counted(prompts)
        found = model.generate(source, **options)
        first = next(found)
        assert source.taken <= 2 * 5
        assert [first, *found] == model.generate(prompts, **options)


@pytest.mark.parametrize("split", [False, True])
def test_translations_of_an_iterator_are_those_of_a_list(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "AHEAD", 3)
    texts = ["A dog runs. A man sleeps.", "Two women are singing.", "A cat.", "A child plays in the snow."]
    with lapwing.load("lapwing/tiny-en-de") as model:
        want = model.translate(texts, split_sentences=split)
        assert list(model.translate(iter(texts), split_sentences=split)) == want
        assert list(model.generate(iter(texts))) == model.generate(texts)
        with pytest.raises(lapwing.OptionError, match="target_prefix is a list"):
            model.translate(iter(texts), target_prefix=["Ein"] * 4)
        assert next(model.translate(iter(texts), target_prefix="Ein")).text.startswith("Ein")


def test_sequences_join_while_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts ahead: a short one after the other ends while the long one goes on."""
    monkeypatch.setattr(engine, "AHEAD", 3)
    monkeypatch.setattr(engine, "STEPS", 1)
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        started: list[float] = []

        def prompts() -> Iterator[str]:
            for text in ("ROMEO:", "JULIET:", "KING:", "DUKE:"):
                started.append(time.perf_counter())
                yield text

        found = model.generate(prompts(), max_tokens=30, temperature=0, ignore_eos=True)
        next(found)
        assert len(started) == 3
        running = found.gi_frame.f_locals["open_items"]
        assert len(running) == 2  # they ran beside the first and are about to end
        assert len(list(found)) == 3


def test_closing_ends_the_work_and_leaves_the_model_usable() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        found = model.generate(iter(["ROMEO:"] * 1000), max_tokens=5)
        next(found)
        found.close()
        assert model.generate("ROMEO:", max_tokens=5, temperature=0).ids
        found = model.generate(iter(["ROMEO:"] * 1000), max_tokens=5)
        next(found)
    with pytest.raises(lapwing.ModelClosedError):
        list(found)


@pytest.mark.parametrize("method", ["classify", "generate"])
def test_results_before_an_error_are_not_lost(method: str) -> None:
    name = GOLDEN / "bert-seqcls" if method == "classify" else "lapwing/tiny-shakespeare"
    options = {"max_tokens": 3} if method == "generate" else {}

    def broken() -> Iterator[str]:
        yield from TEXTS[:2]
        raise OSError("the disk is gone")

    with lapwing.load(name) as model:
        run = getattr(model, method)
        for source, error in (
            (broken(), OSError),
            (iter([*TEXTS[:2], 7]), lapwing.OptionError),
            (iter([*TEXTS[:2], "word " * 5000]), lapwing.ContextLengthError),
        ):
            found = run(source, **options)
            assert len([next(found), next(found)]) == 2
            with pytest.raises(error):
                next(found)


def test_options_are_validated_by_the_call() -> None:
    with lapwing.load(GOLDEN / "bert-seqcls") as model:
        with pytest.raises(lapwing.OptionError, match="scores"):
            model.classify(iter(TEXTS), scores="loud")
        with pytest.raises(lapwing.OptionError, match="progress"):
            model.classify(iter(TEXTS), progress="loud")


def test_what_is_there_is_computed_before_a_slow_producer_is_awaited() -> None:
    with lapwing.load(GOLDEN / "bert-seqcls") as model:
        source = Counted(TEXTS, ready=lambda: source.taken % 3 != 0)
        found = model.classify(source)
        for count in range(1, 7):
            next(found)
            assert source.taken == 3 * ((count + 2) // 3)
    with lapwing.load("lapwing/tiny-shakespeare") as generator:
        source = Counted(TEXTS, ready=lambda: source.taken % 3 != 0)
        generated = generator.generate(source, max_tokens=3)
        next(generated)
        assert source.taken == 3

    def slow() -> Iterator[str]:
        for text in TEXTS:
            taken.append(text)
            time.sleep(2 * feed.SLOW_SECONDS)
            yield text

    taken: list[str] = []
    with lapwing.load(GOLDEN / "bert-seqcls") as model:
        found = model.classify(slow())
        next(found)
        assert len(taken) == 1


def test_progress_of_an_iterator_counts_its_results() -> None:
    seen: list[tuple[int, int]] = []
    with lapwing.load(GOLDEN / "bert-seqcls") as model:
        list(model.classify(iter(TEXTS[:3]), progress=lambda *counts: seen.append(counts)))
        assert seen == [(1, 3), (2, 3), (3, 3)]
        seen.clear()
        list(model.classify((text for text in TEXTS[:3]), progress=lambda *counts: seen.append(counts)))
        assert seen == [(1, 0), (2, 0), (3, 0)]
