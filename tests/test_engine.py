"""Calls of all threads share the steps of a model: results are those of each call alone, to the bit."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import lapwing
from lapwing import _core, spec
from lapwing.models.base import ragged

from .checkpoints import large_decoder
from .strategies import compiled, random_weights

GOLDEN = Path(__file__).parent / "golden"
SECONDS = 120.0
VOCABULARY = 60


def generate(core: _core.Model, prompts: list[list[int]], options: dict[str, Any], dice: random.Random) -> Any:
    """Results, and events by sequence."""
    limits = options.pop("limits", None)
    generation = core.generate(*ragged(prompts), json.dumps(options), limits=limits)
    events: dict[int, list[Any]] = {}
    while not generation.finished():
        for sequence, *event in generation.advance(dice.choice((0, 1, 1, 1, 3))):
            events.setdefault(sequence, []).append(event)
    return generation.results(), events


def some_call(dice: random.Random) -> tuple[list[list[int]], dict[str, Any]]:
    """Random prompts, some of which begin alike, and random options."""
    prompts = []
    for _ in range(dice.randint(1, 5)):
        length = dice.choice((1, 2, 5, 33, 70))
        prompts.append(random.Random(dice.randint(0, 2)).choices(range(1, VOCABULARY), k=length))
        prompts[-1] += dice.choices(range(1, VOCABULARY), k=dice.randint(0, 3))
    options: dict[str, Any] = {"max_tokens": dice.randint(1, 24)}
    kind = dice.choice(("greedy", "drawn", "samples", "beams", "lookup"))
    if kind == "drawn":
        options |= {"temperature": 0.9, "top_k": dice.choice((0, 20))}
    elif kind == "samples":
        options |= {"temperature": 1.1, "samples": dice.randint(2, 4)}
    elif kind == "beams":
        options |= {"beams": dice.randint(2, 4), "num_hypotheses": 2}
    elif kind == "lookup":
        options |= {"prompt_lookup": 4}
    if dice.random() < 0.4:
        options |= {"logprobs": True, "top_logprobs": dice.randint(0, 3)}
    if dice.random() < 0.3:
        options |= {"repetition_penalty": 1.3}
    if dice.random() < 0.3:
        options |= {"suppress_tokens": dice.choices(range(VOCABULARY), k=3)}
    if dice.random() < 0.3:
        ends = dice.choices(range(VOCABULARY), k=4)
        options |= {"eos_ids": ends, "stop_ids": ends, "min_tokens": 1}
    if dice.random() < 0.5:
        options["limits"] = [dice.randint(1, 24) for _ in prompts]
    options["seed"] = dice.randint(0, 99)
    return prompts, options


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3-longrope"])
@pytest.mark.parametrize("seed", range(3))
def test_results_do_not_depend_on_the_calls_beside(name: str, seed: int) -> None:
    dice = random.Random(seed)
    calls = [some_call(dice) for _ in range(24)]
    with lapwing.load(GOLDEN / name, prefix_cache=False) as alone:
        want = [generate(alone.core, prompts, dict(options), dice) for prompts, options in calls]
    found: dict[int, Any] = {}
    with lapwing.load(GOLDEN / name, threads=2) as model:

        def work(own: int) -> None:
            mine = random.Random(seed * 100 + own)
            for index in range(own, len(calls), 8):
                threading.Event().wait(mine.uniform(0, 0.02))
                prompts, options = calls[index]
                found[index] = generate(model.core, prompts, dict(options), mine)

        threads = [threading.Thread(target=work, args=(own,), daemon=True) for own in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a call hangs"
    for index in range(len(calls)):
        assert found[index] == want[index], calls[index]


def test_prompts_of_different_lengths_share_steps(tmp_path: Path) -> None:
    """max_length of a checkpoint bounds prompt and new tokens together, so each prompt has a limit of its own."""
    with lapwing.load(GOLDEN / "llama") as model:
        prompts = [[*range(1, 2 + length)] for length in range(16)]
        request = model._resolve({"temperature": 0, "ignore_eos": True}, "test")
        job = model._job(prompts, request)
        object.__setattr__(job.request, "max_length", 24)
        generation = job.start()
        steps = 0
        while not generation.finished():
            generation.advance(1)
            steps += 1
        assert steps == 23
        assert [len(ids) for ((ids, *_),) in generation.results()] == [24 - len(prompt) for prompt in prompts]


def test_many_prompts_wait_for_room() -> None:
    with lapwing.load(GOLDEN / "llama") as model:
        prompts = [[1 + i % 50, 1 + i // 50] for i in range(700)]
        found = model.generate_ids(prompts, max_tokens=4, temperature=0, ignore_eos=True)
        assert found[:40:13] == [
            model.generate_ids(p, max_tokens=4, temperature=0, ignore_eos=True) for p in prompts[:40:13]
        ]
        assert found[-1] == model.generate_ids(prompts[-1], max_tokens=4, temperature=0, ignore_eos=True)


def test_streams_of_one_thread_take_turns() -> None:
    with lapwing.load(GOLDEN / "llama") as model:
        options: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
        first, second = model.stream("Hello", **options), model.stream("What is it", **options)
        found: list[list[str]] = [[], []]
        for _ in range(4):
            found[0].append(next(first).text)
        while chunk := next(second, None):
            found[1].append(chunk.text)
        found[0] += [chunk.text for chunk in first]
        assert "".join(found[0]) == model.generate("Hello", **options).text
        assert "".join(found[1]) == model.generate("What is it", **options).text


def test_processors_run_on_the_thread_of_their_call() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        options: dict[str, Any] = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
        want = model.generate("ROMEO:", **options).text
        found: list[Any] = []

        def work(processed: bool) -> None:
            own = threading.get_ident()

            def processor(ids: list[int], logits: Any) -> Any:
                found.append(threading.get_ident() == own)
                return logits

            more = {"processor": processor} if processed else {}
            found.append(model.generate("ROMEO:", **options, **more).text == want)

        threads = [threading.Thread(target=work, args=(i % 2 == 0,), daemon=True) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(found) == 3 * 30 + 6 and all(found)


def test_an_error_ends_its_own_call_alone() -> None:
    """Options that leave no token, beside calls that go on."""
    with lapwing.load(GOLDEN / "llama") as model:
        vocabulary = model.spec.decoder.stem.vocab_size
        options: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
        want = model.generate_ids([3, 4, 5], **options)
        found: list[Any] = []

        def work(index: int) -> None:
            try:
                more = {"suppress_tokens": list(range(vocabulary))} if index % 2 else {}
                found.append(model.generate_ids([3, 4, 5], **options, **more) == want)
            except lapwing.OptionError as error:
                found.append("forbid every token" in str(error) and index % 2 == 1)

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert found == [True] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_generation_stays_with_the_process_that_began_it() -> None:
    with lapwing.load("lapwing/tiny-shakespeare", threads=2) as model:
        stream = model.stream("ROMEO:", max_tokens=20, temperature=0, ignore_eos=True)
        begun = next(stream).text
        child = os.fork()
        if child == 0:
            refused = False
            try:
                list(stream)
            except lapwing.OptionError as error:
                refused = "before the process forked" in str(error)
            finally:
                os._exit(0 if refused else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        rest = "".join(chunk.text for chunk in stream)
        assert begun + rest == model.generate("ROMEO:", max_tokens=20, temperature=0, ignore_eos=True).text


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is elsewhere")
def test_calls_that_never_run_leave_no_memory() -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    with lapwing.load(GOLDEN / "llama", threads=1) as model:
        prompts = ragged([[1, 2, 3] * 40] * 200)
        for count in (20, 400):
            before = resident()
            for _ in range(count):
                model.core.generate(*prompts, "{}").close()
        # The prompts of all calls together take 40 MB.
        assert resident() - before < 15


MEMORY = """
import json, resource, sys, lapwing
model = lapwing.load(sys.argv[1], packed_cache=False, threads=2)
prompts, options = [[1 + i, 2, 3, 4] for i in range(1000)], json.loads(sys.argv[2])
model.generate_ids(prompts[:1], max_tokens=2, **options)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.generate_ids(prompts, max_tokens=2, **options)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 0.9}, {"temperature": 0, "repetition_penalty": 1.1}]
)
def test_the_first_step_of_many_prompts_takes_bounded_memory(options: dict[str, Any], tmp_path: Path) -> None:
    """The logits of all prompts at once would take 600 MB."""
    folder = large_decoder(tmp_path, vocabulary=150_000, hidden=64, layers=1)
    command = [sys.executable, "-c", MEMORY, str(folder), json.dumps(options)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) < 100


class Alarm(Exception):
    pass


@contextmanager
def alarms() -> Iterator[Callable[[float, Callable[[], Any]], int]]:
    """Runs a call that is interrupted after some seconds; 1 where it was."""

    def alarm(*_: object) -> None:
        raise Alarm

    def interrupted(seconds: float, work: Callable[[], Any]) -> int:
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                work()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Alarm:
            return 1
        return 0

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_an_interrupt_among_the_logits_changes_no_token() -> None:
    """Most of a step is spent with the logits, which are scaled and capped one after the other."""
    vocabulary, dice = 1 << 19, random.Random(2)
    stack = spec.Stack(
        hidden_size=1,
        stem=spec.TokenStem(vocab_size=vocabulary),
        layers=(spec.Layer(blocks=(spec.Block(body=spec.FeedForward(width=1, activation="relu")),)),),
        max_length=100,
    )
    description = spec.Model(
        decoder=stack, language_head=spec.LanguageHead(vocab_size=vocabulary, scale=20.0, softcap=3.0)
    )
    model = compiled(description, random_weights(description, 1))
    call: tuple[Any, ...] = (*ragged([[1, 2]]), json.dumps({"max_tokens": 60, "temperature": 3.0, "seed": 1}))
    alone = model.generate(*call)
    alone.advance(0)
    generation, interrupts = model.generate(*call), 0
    with alarms() as interrupted:
        while not generation.finished():
            interrupts += interrupted(dice.uniform(0.02, 0.05), lambda: generation.advance(0))
    assert generation.results() == alone.results()
    assert interrupts > 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_an_interrupted_step_is_repeated_for_the_calls_beside(tmp_path: Path) -> None:
    """The beams of a search need several passes of a step, and the step is interrupted in any of them."""

    def elsewhere(work: Callable[[], Any]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    dice, sizes = random.Random(1), {"vocabulary": 200, "layers": 2}
    for name in ("model", "draft"):
        (tmp_path / name).mkdir()
    folder = large_decoder(tmp_path / "model", **sizes)
    small = large_decoder(tmp_path / "draft", **{**sizes, "hidden": 32})
    search = json.dumps({"max_tokens": 8, "beams": 100})
    with lapwing.load(folder, threads=1) as alone:
        generation = alone.core.generate(*ragged([[5, 6, 7]]), search)
        generation.advance(0)
        want = generation.results()
    with (
        alarms() as interrupted,
        lapwing.load(folder, threads=1) as model,
        lapwing.load(small, threads=1) as draft,
    ):
        options = {"max_tokens": 1000, "temperature": 0}
        # The rows of each step: 7 * 65 with guesses, 100 beams, and the one that may be interrupted.
        guesses = json.dumps({**options, "draft_tokens": 64})
        guessed = model.core.generate(*ragged([[3]] * 7), guesses, draft=draft.core)
        searched = model.core.generate(*ragged([[5, 6, 7]]), search)
        driving = model.core.generate(*ragged([[9]]), json.dumps(options))
        for generation in (guessed, searched):
            elsewhere(functools.partial(generation.advance, 1))
        interrupts = sum(interrupted(dice.uniform(0.001, 0.3), lambda: driving.advance(1)) for _ in range(24))
        elsewhere(functools.partial(searched.advance, 0))
        assert searched.results() == want
        assert interrupts > 0
