"""Decoding and reading prompts while other programs use the cores.

    python benches/company.py CHECKPOINT [--weights q8] [--threads N] [--rounds 5] [--record NAME]

Measures a model alone, beside one and beside two processes that compute without end, round by round in turn, and prints
medians and their part of the speed alone. Threads that wait for each other by spinning fall to a twentieth there.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import records
from figures import company, figures

import lapwing
from lapwing.cli.bench import start_decoding, tokens

TOKENS, PROMPT = 24, 256


@contextmanager
def busy(count: int) -> Iterator[None]:
    """A number of processes that compute continuously."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.3)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--weights", default="q8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    records.add_option(parser)
    arguments = parser.parse_args()
    recorder, name = records.Recorder(arguments.record), f"{Path(arguments.checkpoint).name} {arguments.weights}"
    model = lapwing.load(arguments.checkpoint, weights=arguments.weights, threads=arguments.threads, prefix_cache=False)
    generation = start_decoding(model, [tokens(model, 16)], 2 * TOKENS * 3 * (arguments.rounds + 1))
    generation.advance(1)
    prompt = tokens(model, PROMPT)
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for count in (0, 1, 2):
            with busy(count):
                start = time.perf_counter()
                generation.advance(TOKENS)
                middle = time.perf_counter()
                model.generate_ids(prompt, max_tokens=1, temperature=0, ignore_eos=True)
                rates.setdefault(("decode", count), []).append(TOKENS / (middle - start))
                rates.setdefault(("prefill", count), []).append(PROMPT / (time.perf_counter() - middle))
    wanted, kept = {figure.name for figure in figures()}, {}
    for (work, count), found in sorted(rates.items()):
        # Round by round: each beside the speed alone of the same minute.
        parts = [100 * rate / alone for rate, alone in zip(found, rates[work, 0], strict=True)]
        print(
            f"{work} beside {count}: {statistics.median(found):.1f} tokens/s, {statistics.median(parts):.0f} % of alone"
        )
        figure = company(work, name, count).name
        if figure in wanted:
            kept[figure] = parts
    recorder.add("figures", kept)


if __name__ == "__main__":
    main()
