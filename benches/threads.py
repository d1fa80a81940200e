"""Threads that generate at once on one model, beside one call with all their prompts.

    python benches/threads.py [--shape llama-1b] [--weights q4] [--calls 16] [--rounds 5] [--folder FOLDER]
        [--baseline CHECKOUT]

Each round measures a batched call, then as many threads as prompts with one prompt each; medians of tokens per second.
``--baseline`` measures another revision in turn: a clone of it with Lapwing installed in its .venv.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import inputs
from peers.engines import THREADS, clock, random_ids

HERE = Path(__file__).parent
TOKENS = 64
"""New tokens of each prompt, and about the tokens of a prompt."""


def prompts(count: int, turn: int) -> list[list[int]]:
    """Other prompts in each turn: the prefix cache would serve earlier ones."""
    return [random_ids(TOKENS - 8 + i % 16, 1000 * turn + i) for i in range(count)]


def serve(path: Path, weights: str, count: int) -> None:
    """Measures a turn for each line of standard input."""
    import lapwing

    model = lapwing.load(path, weights=weights, threads=THREADS)
    options: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}

    def threads(ids: list[list[int]]) -> None:
        def call(one: list[int]) -> Callable[[], Any]:
            return lambda: model.generate_ids(one, **options)

        running = [threading.Thread(target=call(one)) for one in ids]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    print("ready", flush=True)
    for turn, _ in enumerate(sys.stdin):
        batch, separate = prompts(count, 2 * turn), prompts(count, 2 * turn + 1)
        seconds = [clock(lambda: model.generate_ids(batch, **options)), clock(lambda: threads(separate))]  # noqa: B023
        print(json.dumps([count * TOKENS / one for one in seconds]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-1b")
    parser.add_argument("--weights", default="q4")
    parser.add_argument("--calls", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=HERE / "inputs", help="where inputs are made and kept")
    parser.add_argument("--baseline", type=Path, help="a checkout of another revision, measured in turn")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    path = inputs.checkpoint(arguments.shape, arguments.folder)
    if arguments.serve:
        return serve(path, arguments.weights, arguments.calls)
    pythons = {"lapwing": sys.executable}
    if arguments.baseline:
        pythons["baseline"] = str(arguments.baseline.resolve() / ".venv/bin/python")
    own = [str(Path(__file__).resolve()), "--serve", "--shape", arguments.shape, "--weights", arguments.weights]
    own += ["--calls", str(arguments.calls), "--folder", str(arguments.folder)]
    processes = {}
    for name, python in pythons.items():
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.Popen(
            [python, *own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        process.stdout.readline()
        processes[name] = process
    rates: dict[str, list[list[float]]] = {name: [] for name in processes}
    for turn in range(arguments.rounds + 1):
        for name, process in processes.items():
            assert process.stdin is not None and process.stdout is not None
            print(turn, file=process.stdin, flush=True)
            found = json.loads(process.stdout.readline())
            if turn:  # the first warms up
                rates[name].append(found)
    for name, found in rates.items():
        batch, threads = (statistics.median(column) for column in zip(*found, strict=True))
        label = f"{name}: {arguments.calls} prompts in one call {batch:.1f}/s"
        print(f"{label}; in {arguments.calls} threads {threads:.1f}/s ({threads / batch:.0%})")
        processes[name].kill()


if __name__ == "__main__":
    main()
