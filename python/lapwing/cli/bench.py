"""``lapwing bench``: the speed of a model on this machine, beside what the machine can do at most.

Every round measures the memory's read bandwidth, the rate of f32 multiply-adds and each kind of work in turn, so that
a busy moment hits all of them; medians are shown, with the spread.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from ..errors import OptionError
from ..models.generator import TextGenerator
from ..models.seq2seq import Seq2Seq
from ..progress import Progress
from ..spec import Attention, FeedForward, Layer, Stack
from .text import load, progress, write_json

SHORT, LONG = 16, 256
"""Tokens of the texts that encoders read."""
CONTEXT = 16
"""Tokens before decoding, unless ``--context`` says more."""


@dataclass(frozen=True)
class Work:
    """One kind of work: how often its unit happens in a run, and what a run takes from the machine."""

    name: str
    unit: str
    run: Callable[[], None]
    units: int
    multiply_adds: float = 0.0
    """Of matrix products, in a run."""
    bytes: float = 0.0
    """Of weights and cached keys and values that must be read, in a run."""


@dataclass(frozen=True)
class Row:
    """A result: rates in units a second; parts of the machine's bounds, where they bind."""

    work: str
    unit: str
    median: float
    least: float
    most: float
    of_read: float | None
    of_peak: float | None


def bench(arguments: argparse.Namespace) -> None:
    """Measures a model and prints a table, or JSON lines."""
    with load(arguments) as model:
        works = list(_works(model, arguments))
        rows, read, peak = measure(works, model.info().threads, arguments.rounds, progress(arguments))
        facts = model.info()
        if arguments.json:
            for row in rows:
                write_json(row, model=facts.id, weight_types=facts.weight_types, isa=facts.isa, threads=facts.threads)
            return
        types = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in facts.weight_types.items())
        print(f"{facts.id}: {facts.parameters / 1e6:.1f} M parameters ({types}), kv {facts.kv}")
        print(f"{facts.isa}, {facts.threads} threads, reads {read:.1f} GB/s, {peak:.1f} G multiply-adds/s in f32")
        width = max(len(row.work) for row in rows)
        for row in rows:
            parts = [
                f"{100 * part:.0f} % of {what}" for part, what in ((row.of_read, "read"), (row.of_peak, "peak")) if part
            ]
            print(
                f"{row.work:{width}}  {row.median:9.1f} {row.unit}/s  "
                f"({row.least:.1f} to {row.most:.1f})  {', '.join(parts)}".rstrip()
            )


def measure(works: list[Work], threads: int, rounds: int, shown: Any = None) -> tuple[list[Row], float, float]:
    """Runs all kinds of work in turn; rows, read bandwidth in GB/s and f32 multiply-adds per second in billions."""
    machine = _core.Machine(threads=threads)
    reads, peaks = [], []
    seconds: list[list[float]] = [[] for _ in works]
    with Progress(shown, rounds * len(works), "measuring") as bar:
        for work in works:
            work.run()  # touches the memory and starts the threads
        for _ in range(rounds):
            for index, work in enumerate(works):
                reads.append(machine.read())
                peaks.append(machine.multiply_adds())
                start = time.perf_counter()
                work.run()
                seconds[index].append(time.perf_counter() - start)
                bar.advance()
    read, peak = statistics.median(reads), statistics.median(peaks)
    rows = []
    for work, times in zip(works, seconds, strict=True):
        middle = statistics.median(times)
        rows.append(
            Row(
                work=work.name,
                unit=work.unit,
                median=work.units / middle,
                least=work.units / max(times),
                most=work.units / min(times),
                of_read=work.bytes / middle / read / 1e9 if work.bytes else None,
                of_peak=work.multiply_adds / middle / peak / 1e9 if work.multiply_adds else None,
            )
        )
    return rows, read, peak


def _works(model: Any, arguments: argparse.Namespace) -> Iterator[Work]:
    if isinstance(model, TextGenerator):
        yield prefill(model, arguments.prompt)
        for batch in dict.fromkeys((1, arguments.batch)):
            yield decode(model, arguments.tokens, batch, CONTEXT)
        if arguments.context > CONTEXT:
            yield decode(model, arguments.tokens, 1, arguments.context)
    elif isinstance(model, Seq2Seq):
        for sources in dict.fromkeys((1, arguments.batch)):
            for beams in (1, 4):
                yield translate(model, arguments.tokens, sources, beams)
    else:
        yield encode(model, SHORT, 16 * arguments.batch)
        yield encode(model, min(LONG, model.max_length or LONG), 2 * arguments.batch)


def tokens(model: Any, count: int, seed: int = 0) -> list[int]:
    """Random ids of the model's vocabulary."""
    size = model.info().vocab_size
    return [int(token) for token in np.random.default_rng(seed).integers(min(16, size - 1), size, count)]


def prefill(model: TextGenerator, length: int) -> Work:
    """Reading one prompt to its first new token."""
    seeds = itertools.count()

    def run() -> None:
        # Another prompt each time: what a prompt shares with an earlier one is not computed again.
        prompt = tokens(model, length, next(seeds))
        model.generate_ids(prompt, max_tokens=1, temperature=0, ignore_eos=True)

    stack = _decoder(model)
    work = _matrices(stack.layers, stack) * length
    last = stack.layers[-1]
    if last.attention.causal:
        # Of all tokens but the last one the last layer computes keys and values alone.
        keys = 2 * stack.hidden_size * last.attention.kv_heads * last.attention.head_dim
        work -= (length - 1) * (_matrices([last], stack) - keys)
    return Work(f"prefill {length}", "tokens", run, length, multiply_adds=float(work))


def decode(model: TextGenerator, steps: int, batch: int, context: int) -> Work:
    """New tokens of running texts, greedily; the prompts are read before the clock runs."""
    room = (model.max_length or 1 << 20) - context
    generation: Any = None
    left = 0

    def run() -> None:
        nonlocal generation, left
        if generation is None:
            generation = start_decoding(model, [tokens(model, context, seed) for seed in range(batch)], room)
            generation.advance(1)
            left = room - 1
            return
        generation.advance(steps)
        left -= steps
        if left < steps:
            generation = None
            run()

    if room < 2 * steps:
        raise OptionError(f"{context} tokens of context and {steps} new ones do not fit into {model.max_length}")
    stack = _decoder(model)
    cached = sum(2 * layer.attention.kv_heads * layer.attention.head_dim for layer in stack.layers)
    size = {"f32": 4.0, "f16": 2.0, "q8": 1.0}[model.info().kv]
    read = step_bytes(model) + batch * context * cached * size
    name = f"decode {batch} x {steps} after {context}"
    return Work(name, "tokens", run, steps * batch, bytes=float(read) * steps)


def start_decoding(model: TextGenerator, prompts: list[list[int]], most: int) -> _core.Generation:
    """A greedy generation of at most ``most`` tokens that has computed nothing yet."""
    request = model._resolve({"temperature": 0, "ignore_eos": True, "max_tokens": most}, "bench")
    job = model._job(prompts, request)
    ((indices, options),) = job.groups()
    return job.start(indices, options)


def translate(model: Seq2Seq, steps: int, count: int, beams: int) -> Work:
    """So many new tokens for each of some sources of 8 to 40 tokens."""
    lengths = np.random.default_rng(0).integers(8, 40, count)
    sources = [tokens(model, int(length), seed) for seed, length in enumerate(lengths)]
    options: dict[str, Any] = {"beams": beams, "min_tokens": steps, "max_tokens": steps, "temperature": 0}

    def run() -> None:
        model.generate_ids(sources, **options)

    return Work(f"{beams} beams, {count} sources", "target tokens", run, steps * count)


def encode(model: Any, length: int, count: int) -> Work:
    """Hidden states of texts of one length."""
    texts = [tokens(model, length, seed) for seed in range(count)]
    stack = model.spec.encoder or model.spec.decoder
    work = _matrices(stack.layers, stack) * length * count

    def run() -> None:
        model.hidden_states(texts)

    return Work(f"encode {count} x {length}", "texts", run, count, multiply_adds=float(work))


def _decoder(model: Any) -> Stack:
    stack: Stack = model.spec.decoder
    return stack


def step_bytes(model: Any) -> int:
    """Bytes of weights that one step of decoding reads: all matrices, but of an embedding of its own only a row."""
    stack, info = _decoder(model), model.info()
    table = stack.vocab_size * (stack.embedding_size or stack.hidden_size)
    tied = info.parameters < _matrices(stack.layers, stack) + 2 * table
    if tied:
        return int(info.bytes)
    # Both tables have the same type and shape: what is left when the layers are gone, by two.
    sizes = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "q8": 1.0625, "q6": 0.8125, "q4": 0.59}
    heaviest = max(info.weight_types, key=lambda name: info.weight_types[name])
    kind = "q6" if "q4" in info.weight_types else heaviest
    return int(info.bytes - table * sizes[kind])


def _matrices(layers: Sequence[Layer], stack: Stack) -> int:
    """Weights of the matrices of some layers of a stack, which are multiply-adds for each token."""
    return sum(_attention(layer.attention, stack.hidden_size) + _inner(layer.feed_forward, stack) for layer in layers)


def _attention(block: Attention, hidden: int) -> int:
    query, key = block.heads * block.head_dim, block.kv_heads * block.head_dim
    return hidden * (query + 2 * key) + query * hidden


def _inner(block: FeedForward, stack: Stack) -> int:
    return (3 if block.gated else 2) * stack.hidden_size * block.width
