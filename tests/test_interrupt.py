"""Work stops soon when it is asked to, and the model lives on: Ctrl-C, closed iterators, forks, threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import lapwing

GOLDEN = Path(__file__).parent / "golden"
SECONDS = 5.0
"""A hang is longer than this; what is measured on a quiet machine is some milliseconds."""

PROGRAM = """
import _thread, sys, threading, time
import lapwing
folder, what, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
ids = list(range(3, 900))
model = None if what == "load" else lapwing.load(folder)
def work():
    if what == "load":
        while True:
            lapwing.load(folder).close()
    elif what == "prefill":
        while True:
            model.generate_ids([ids] * 4, max_tokens=1)
    elif what == "decode":
        model.generate_ids([3, 4, 5], max_tokens=1000, temperature=0, ignore_eos=True)
        raise SystemExit("the work was over too soon")
    elif what == "logits":
        while True:
            model.logits(ids)
print("ready", flush=True)
try:
    work()
except KeyboardInterrupt:
    print("stopped", flush=True)
if model is not None:
    print(model.generate_ids([3, 4, 5], max_tokens=3, temperature=0, ignore_eos=True), flush=True)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder whose load, prompt and decoding take a while: 20 million parameters."""
    folder, generator = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    hidden, inner, layers, vocabulary = 512, 1536, 6, 4096
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    tensors = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        place = f"model.layers.{i}"
        tensors |= {f"{place}.self_attn.{n}_proj.weight": (hidden, hidden) for n in "qkvo"}
        tensors |= {f"{place}.mlp.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
        tensors |= {f"{place}.mlp.down_proj.weight": (hidden, inner)}
        tensors |= {f"{place}.{n}.weight": (hidden,) for n in ("input_layernorm", "post_attention_layernorm")}
    weights = {name: (0.05 * generator.standard_normal(shape)).astype(np.float32) for name, shape in tensors.items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("what", ["load", "prefill", "decode", "logits"])
def test_ctrl_c_stops_the_work_and_leaves_the_model_usable(what: str, large: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(large), what, "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.15)
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        out, error = process.communicate(timeout=60)
    assert line == "stopped\n", error
    assert process.returncode == 0, error
    assert seconds < SECONDS
    print(f"{what} stopped after {1000 * seconds:.0f} ms")
    if what != "load":
        assert out.startswith("[")


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


def test_closing_a_model_ends_what_another_thread_computes(large: Path) -> None:
    model = lapwing.load(large)
    started, ended = threading.Event(), []

    def work() -> None:
        started.set()
        try:
            while True:
                model.logits(list(range(3, 300)))
        except lapwing.Error as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(SECONDS)
    time.sleep(0.1)
    model.close()
    thread.join(SECONDS)
    assert not thread.is_alive() and "closed" in str(ended[0])


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


def test_an_error_in_a_processor_comes_through_and_the_model_lives_on() -> None:
    def processor(ids: list[int], logits: Any) -> Any:
        raise RuntimeError("no more")

    with lapwing.load("lapwing/tiny-shakespeare") as model:
        with pytest.raises(RuntimeError, match="no more"):
            model.generate("ROMEO:", max_tokens=5, processor=processor)
        assert model.generate("ROMEO:", max_tokens=5, temperature=0).text
