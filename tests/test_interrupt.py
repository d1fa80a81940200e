"""Work can be stopped quickly and the model stays usable: Ctrl-C, closed iterators, forks, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import lapwing

from .checkpoints import large_decoder

GOLDEN = Path(__file__).parent / "golden"
SECONDS = 30.0
"""Limit that detects a hang; a quiet machine takes a few milliseconds."""

PROGRAM = """
import os, signal, sys, threading, time
import lapwing
folder, what = sys.argv[1:]
ids = list(range(3, 900))
model = None if what == "load" else lapwing.load(folder, prefix_cache=False)
calls = {
    "load": lambda: lapwing.load(folder, weights="q8").close(),
    "prefill": lambda: model.generate_ids([ids] * 4, max_tokens=1),
    "decode": lambda: model.generate_ids([3, 4, 5], max_tokens=400, temperature=0, ignore_eos=True),
    "logits": lambda: model.logits(ids),
}
call = calls[what]
call()  # starts the threads
start = time.process_time()
call()
whole = time.process_time() - start
sent = []
start = time.process_time()
def interrupt():
    while time.process_time() - start < 0.1 * whole:
        time.sleep(0.001)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    call()
    print("over", flush=True)
except KeyboardInterrupt:
    print((time.process_time() - start) / whole, time.perf_counter() - sent[0], whole, flush=True)
if model is not None:
    print(model.generate_ids([3, 4, 5], max_tokens=3, temperature=0, ignore_eos=True), flush=True)
"""


WAITING = """
import _thread, sys, threading, time
import lapwing
model = lapwing.load(sys.argv[1])
long = []
def work():
    long.append(model.generate_ids([3, 4, 5], max_tokens=1500, temperature=0, ignore_eos=True))
thread = threading.Thread(target=work)
thread.start()
time.sleep(0.3)
threading.Timer(0.3, _thread.interrupt_main).start()
try:
    while True:
        model.logits([3, 4, 5])
except KeyboardInterrupt:
    print("interrupted", thread.is_alive())
thread.join()
print(len(long[0]))
"""


def program(*words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs PROGRAM to its end, or kills it after a timeout."""
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large_decoder(tmp_path_factory.mktemp("large"))


@pytest.mark.parametrize("what", ["load", "prefill", "decode", "logits"])
def test_ctrl_c_stops_the_work_and_leaves_the_model_usable(what: str, large: Path) -> None:
    """A call that is interrupted at a tenth of its work does less than half of it, however busy the machine is."""
    found = program(str(large), what)
    assert found.returncode == 0, found.stderr
    first, *rest = found.stdout.splitlines()
    share, seconds, whole = map(float, first.split())
    print(f"{what}: stopped after {1000 * seconds:.0f} ms and {share:.0%} of {whole:.2f} s of work")
    assert share < 0.5
    assert seconds < SECONDS
    if what != "load":
        assert rest[0].startswith("[")


def test_a_closed_stream_stops_the_work(large: Path) -> None:
    with lapwing.load(GOLDEN / "llama") as model:
        want = model.generate("Hello", max_tokens=8, temperature=0, ignore_eos=True).text
        for chunks in range(3):
            stream = model.stream("Hello", max_tokens=40, temperature=0, ignore_eos=True)
            for _ in range(chunks):
                next(stream)
            stream.close()
            assert next(stream, None) is None
        assert model.generate("Hello", max_tokens=8, temperature=0, ignore_eos=True).text == want


def test_ctrl_c_ends_the_wait_for_another_thread(talker: Path) -> None:
    """The other thread continues its work of a few seconds."""
    found = subprocess.run([sys.executable, "-c", WAITING, str(talker)], capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["interrupted", "True", "1500"]


def test_threads_share_a_model() -> None:
    with lapwing.load("lapwing/tiny-shakespeare") as model:
        prompts = [model.tokenizer.encode(text) for text in ("ROMEO:", "O, ", "KING HENRY:", "Enter ")]
        want = [model.generate_ids(ids, max_tokens=10, temperature=0) for ids in prompts]
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(model.generate_ids, prompts[i % 4], max_tokens=10, temperature=0) for i in range(24)]
            assert [call.result() for call in calls] == [want[i % 4] for i in range(24)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_computes_the_same() -> None:
    with lapwing.load("lapwing/tiny-shakespeare", threads=2) as model:
        ids = model.tokenizer.encode("ROMEO:")
        want = model.generate_ids(ids, max_tokens=10, temperature=0)
        child = os.fork()
        if child == 0:
            same = False
            try:
                same = model.generate_ids(ids, max_tokens=10, temperature=0) == want
            finally:
                os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert model.generate_ids(ids, max_tokens=10, temperature=0) == want


INSIDE = """
import signal, sys, lapwing
signal.alarm(60)  # instead of a deadlock
with lapwing.load("lapwing/tiny-shakespeare") as model, lapwing.load("lapwing/tiny-shakespeare") as other:
    want = model.generate_ids([5, 6], max_tokens=4, temperature=0)
    def through(call):
        return lambda ids, logits: (call(), logits)[1]
    assert model.generate_ids([5, 6], max_tokens=4, temperature=0, processor=through(lambda: other.logits([1]))) == want
    for call in (lambda: model.logits([1]), lambda: model.generate_ids([5, 6], max_tokens=1)):
        try:
            model.generate_ids([5, 6], max_tokens=4, processor=through(call))
        except lapwing.OptionError as error:
            print(error)
    signal.signal(signal.SIGUSR1, lambda *_: model.logits([1]))
    try:
        model.generate_ids([5, 6], max_tokens=400, ignore_eos=True, processor=through(lambda: signal.raise_signal(signal.SIGUSR1)))
    except lapwing.OptionError as error:
        print(error)
    assert model.generate_ids([5, 6], max_tokens=4, temperature=0) == want
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_call_inside_of_a_call_is_refused() -> None:
    found = subprocess.run([sys.executable, "-c", INSIDE], capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 3 and all("inside of another one on the same model" in line for line in lines)


def test_an_error_in_a_processor_comes_through_and_the_model_lives_on() -> None:
    def processor(ids: list[int], logits: Any) -> Any:
        raise RuntimeError("no more")

    with lapwing.load("lapwing/tiny-shakespeare") as model:
        with pytest.raises(RuntimeError, match="no more"):
            model.generate("ROMEO:", max_tokens=5, processor=processor)
        assert model.generate("ROMEO:", max_tokens=5, temperature=0).text
