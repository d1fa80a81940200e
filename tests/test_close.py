"""A model may be closed at any time by any thread: running calls end soon with one error and free the memory."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lapwing

GOLDEN = Path(__file__).parent / "golden"
SECONDS = 30.0
"""Limit that detects a hang; a quiet machine takes a few milliseconds."""

ENDLESS: dict[str, Any] = {"max_tokens": 3500, "temperature": 0, "ignore_eos": True}
MESSAGES = [{"role": "user", "content": "Hello"}]


class Caller:
    """A thread with one call, and its outcome."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error

    def running(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> BaseException | None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the call hangs"
        return self.error


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.generate("Hello", **ENDLESS),
        lambda m: m.generate(["Hello", "there"], stop=["no such text"], **ENDLESS),
        lambda m: m.generate_ids([3, 4, 5], beams=2, **{**ENDLESS, "temperature": None}),
        lambda m: m.generate_ids([3, 4, 5], prompt_lookup=4, **ENDLESS),
        lambda m: list(m.stream("Hello", **ENDLESS)),
        lambda m: m.chat(MESSAGES, **ENDLESS),
        lambda m: list(m.stream_chat(MESSAGES, **ENDLESS)),
        lambda m: lapwing.Chat(m).send("Hello", **ENDLESS),
        lambda m: [m.logits(list(range(3, 303))) for _ in range(100_000)],
        lambda m: m.score(["Hello, hello. " * 100] * 1000),
    ],
    ids=["generate", "stop", "beams", "lookup", "stream", "chat", "stream_chat", "Chat", "logits", "score"],
)
def test_calls_of_other_threads_end_soon(call: Callable[[Any], Any], talker: Path) -> None:
    model = lapwing.load(talker)
    callers = [Caller(lambda: call(model)) for _ in range(2)]  # one computes, the other waits for its turn
    time.sleep(0.3)
    assert all(caller.running() for caller in callers), callers[0].error
    start = time.perf_counter()
    model.close()
    closed = time.perf_counter() - start
    errors = [caller.end() for caller in callers]
    print(f"closed after {1000 * closed:.1f} ms, all ended after {1000 * (time.perf_counter() - start):.0f} ms")
    assert [type(error) for error in errors] == [lapwing.ModelClosedError] * 2, errors
    assert "closed" in str(errors[0]) and "load it again" in str(errors[0])
    model.close()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("lapwing/tiny-en-de", lambda m, text: m.translate(text)),
        ("bert-sentence", lambda m, text: m.embed(text)),
        ("bert-seqcls", lambda m, text: m.classify(text)),
    ],
)
def test_work_on_many_texts_ends_between_their_batches(name: str, call: Callable[[Any, Any], Any]) -> None:
    model = lapwing.load(name if "/" in name else GOLDEN / name)
    texts = ["the dog runs over the field and the man follows it"] * 20_000
    caller = Caller(lambda: call(model, texts))
    time.sleep(0.3)
    assert caller.running(), caller.error
    model.close()
    assert isinstance(caller.end(), lapwing.ModelClosedError)


def test_a_stream_outlives_no_model() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        streams = [model.stream("ROMEO:", max_tokens=400, ignore_eos=True) for _ in range(3)]
        for chunks, stream in enumerate(streams):
            for _ in range(chunks):
                next(stream)
        chat = model.stream("ROMEO:", max_tokens=2, ignore_eos=True)
        list(chat)
    for stream in streams:
        with pytest.raises(lapwing.ModelClosedError, match="load it again"):
            next(stream)
        assert next(stream, None) is None
    assert next(chat, None) is None


def test_an_error_in_a_with_block_comes_through() -> None:
    with pytest.raises(ZeroDivisionError), lapwing.load("lapwing/tiny-shakespeare") as model:
        stream = model.stream("ROMEO:", max_tokens=40)
        next(stream)
        _ = 1 / 0
    with pytest.raises(lapwing.ModelClosedError):
        next(stream)


def test_callbacks_of_a_call_may_close_its_model() -> None:
    model = lapwing.load("lapwing/tiny-shakespeare")
    seen: list[int] = []

    def processor(ids: list[int], logits: Any) -> Any:
        seen.append(len(ids))
        if len(seen) == 3:
            model.close()
        return logits

    with pytest.raises(lapwing.ModelClosedError):
        model.generate("ROMEO:", max_tokens=50, ignore_eos=True, processor=processor)
    assert len(seen) == 3

    model = lapwing.load("lapwing/tiny-shakespeare")
    with pytest.raises(lapwing.ModelClosedError):
        model.generate(["ROMEO:", "O"], max_tokens=50, ignore_eos=True, progress=lambda done, whole: model.close())


def test_a_closed_draft_ends_what_it_guesses_for() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        draft = lapwing.load("lapwing/tiny-shakespeare")
        want = model.generate_ids([5, 6, 7], max_tokens=20, temperature=0)
        stream = model.stream("ROMEO:", max_tokens=100, ignore_eos=True, draft_model=draft)
        next(stream)
        draft.close()
        with pytest.raises(lapwing.ModelClosedError):
            list(stream)
        assert model.generate_ids([5, 6, 7], max_tokens=20, temperature=0) == want


@pytest.mark.parametrize("seed", range(8))
def test_closing_at_any_moment(seed: int) -> None:
    """Some threads call, others close: every call returns its result or the error, and nothing hangs."""
    dice = random.Random(seed)
    model = lapwing.load("lapwing/tiny-shakespeare", threads=dice.choice([1, 2, 4]))
    want = model.generate("ROMEO:", max_tokens=20, temperature=0).text

    def follow(stream: Iterator[Any]) -> str:
        return "".join(chunk.text for chunk in stream)

    def forever(call: Callable[[], str]) -> None:
        while True:
            assert call() == want

    options: dict[str, Any] = {"max_tokens": 20, "temperature": 0}
    calls = [
        lambda: model.generate("ROMEO:", **options).text,
        lambda: follow(model.stream("ROMEO:", **options)),
        lambda: (model.logits([3, 4, 5]), model.info(), want)[-1],
        lambda: model.generate("ROMEO:", processor=lambda ids, logits: logits, **options).text,
    ]
    callers = [Caller(lambda call=call: forever(call)) for call in calls]  # type: ignore[misc]
    time.sleep(dice.uniform(0, 0.1))
    closers = [Caller(model.close) for _ in range(2)]
    assert [closer.end() for closer in closers] == [None, None]
    errors = [caller.end() for caller in callers]
    assert [type(error) for error in errors] == [lapwing.ModelClosedError] * len(calls), errors


MEMORY = """
import sys, lapwing
def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
model = lapwing.load(sys.argv[1], weights="f32", packed_cache=False)
stream = model.stream("Hello", max_tokens=100, ignore_eos=True)
next(stream)
before = resident()
model.close()
print(before - resident())
try:
    next(stream)
except lapwing.ModelClosedError:
    print("closed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_closing_frees_the_memory_though_a_stream_is_held(talker: Path) -> None:
    """The talker has 20 million floats, 77 MB; the allocator may keep some freed memory."""
    found = subprocess.run([sys.executable, "-c", MEMORY, str(talker)], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    freed, state = found.stdout.split()
    assert float(freed) > 50 and state == "closed"


SIGNALLED = """
import signal, sys, lapwing
model = lapwing.load(sys.argv[1])
signal.signal(signal.SIGALRM, lambda number, frame: model.close())
signal.setitimer(signal.ITIMER_REAL, 0.5)
try:
    model.generate("Hello", max_tokens=3500, temperature=0, ignore_eos=True)
except lapwing.ModelClosedError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGALRM")
def test_a_signal_handler_may_close(talker: Path) -> None:
    command = [sys.executable, "-c", SIGNALLED, str(talker)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "closed" in found.stdout
