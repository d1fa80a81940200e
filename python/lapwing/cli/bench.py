"""``lapwing bench``: the speed of a model on this machine, beside what the machine can do at most.

Every round measures the memory's read bandwidth, the rate of f32 multiply-adds and each kind of work in turn, so that
a busy moment hits all of them; medians are shown, with the spread.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core, cost
from ..errors import OptionError
from ..models.encoder import TextEncoder
from ..models.generator import TextGenerator
from ..models.seq2seq import Seq2Seq
from ..progress import Progress
from ..spec import CrossAttention, Stack
from .text import load, progress, write_json

SHORT, LONG = 16, 256
"""Tokens of the texts that encoders read."""
PROMPT, CONTEXT, TOKENS = 512, 16, 32
"""Tokens of a prompt, tokens before decoding and new tokens, unless options say otherwise."""


@dataclass(frozen=True)
class Work:
    """One kind of work: how often its unit happens in a run, and what a run takes from the machine."""

    name: str
    unit: str
    run: Callable[[], None]
    units: int
    multiply_adds: float = 0.0
    """Of weights, scores and sums of values, in a run."""
    bytes: float = 0.0
    """Of weights and cached keys and values that must be read, in a run."""
    prepare: Callable[[], None] = lambda: None
    """Called before each run, before the clock runs."""


@dataclass(frozen=True)
class Row:
    """A result: rates in units a second; parts of the machine's bounds, where they bind."""

    work: str
    unit: str
    median: float
    minimum: float
    maximum: float
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
                f"({row.minimum:.1f} to {row.maximum:.1f})  {', '.join(parts)}".rstrip()
            )


def measure(works: list[Work], threads: int, rounds: int, shown: Any = None) -> tuple[list[Row], float, float]:
    """Runs all kinds of work in turn; rows, read bandwidth in GB/s and f32 multiply-adds per second in billions."""
    machine = _core.Machine(threads=threads)
    reads, peaks = [], []
    seconds: list[list[float]] = [[] for _ in works]
    with Progress(shown, rounds * len(works), "measuring") as bar:
        for work in works:
            work.prepare()
            work.run()  # touches the memory and starts the threads
        for _ in range(rounds):
            for index, work in enumerate(works):
                reads.append(machine.read())
                peaks.append(machine.multiply_adds())
                work.prepare()
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
                minimum=work.units / max(times),
                maximum=work.units / min(times),
                of_read=work.bytes / middle / read / 1e9 if work.bytes else None,
                of_peak=work.multiply_adds / middle / peak / 1e9 if work.multiply_adds else None,
            )
        )
    return rows, read, peak


def _works(model: Any, arguments: argparse.Namespace) -> Iterator[Work]:
    steps = arguments.tokens or TOKENS
    if isinstance(model, TextGenerator):
        yield prefill(model, arguments.prompt or min(PROMPT, (model.max_length or PROMPT + 1) - 1))
        for batch in dict.fromkeys((1, arguments.batch)):
            yield decode(model, steps, batch, CONTEXT)
        if arguments.context not in (None, CONTEXT):
            yield decode(model, steps, 1, arguments.context)
    elif isinstance(model, Seq2Seq):
        _refuse(model, arguments, "prompt", "context")
        for sources in dict.fromkeys((1, arguments.batch)):
            for beams in (1, 4):
                yield translate(model, steps, sources, beams)
    else:
        _refuse(model, arguments, "prompt", "tokens", "context")
        for length, count in ((SHORT, 16 * arguments.batch), (LONG, 2 * arguments.batch)):
            length = min(length, model.max_length or length)
            yield encode(model, length, count)
            if isinstance(model, TextEncoder) and model._parts.recipe is not None:
                yield embed(model, length, count)


def _refuse(model: Any, arguments: argparse.Namespace, *names: str) -> None:
    """Refuses options that say nothing about this shape of model."""
    for name in names:
        if (value := getattr(arguments, name)) is not None:
            raise OptionError(f"--{name} is {value}, which the bench of this {model.kind} does not use: leave it out")


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

    work = cost.prefill(_decoder(model), length)
    return Work(f"prefill {length}", "tokens", run, length, multiply_adds=float(work))


def decode(model: TextGenerator, steps: int, batch: int, context: int) -> Work:
    """New tokens of running texts, greedily; the prompts are read before the clock runs."""
    room = (model.max_length or 1 << 20) - context
    if room <= steps:
        raise OptionError(
            f"{context} tokens of context, a first new one and {steps} that are timed do not fit into {model.max_length}, "
            "the length of this model"
        )
    generation: Any = None
    left = 0

    def prepare() -> None:
        nonlocal generation, left
        if left < steps:
            generation = start_decoding(model, [tokens(model, context, seed) for seed in range(batch)], room)
            generation.advance(1)
            left = room - 1

    def run() -> None:
        nonlocal left
        generation.advance(steps)
        left -= steps

    stack, info = _decoder(model), model.info()
    read = cost.step_bytes(stack, info, batch)
    read += batch * cost.state_bytes(cost.of_layers(stack), info.kv, context)
    name = f"decode {batch} x {steps} after {context}"
    return Work(name, "tokens", run, steps * batch, bytes=float(read) * steps, prepare=prepare)


def start_decoding(model: TextGenerator, prompts: list[list[int]], max_tokens: int) -> _core.Generation:
    """A greedy generation of at most ``max_tokens`` tokens that has computed nothing yet."""
    request = model._resolve({"temperature": 0, "ignore_eos": True, "max_tokens": max_tokens}, "bench")
    return model._job(prompts, request).start()


def translate(model: Seq2Seq, steps: int, count: int, beams: int) -> Work:
    """A fixed number of new tokens for each of some sources of 8 to 40 tokens."""
    lengths = [int(length) for length in np.random.default_rng(0).integers(8, 40, count)]
    sources = [tokens(model, length, seed) for seed, length in enumerate(lengths)]
    options: dict[str, Any] = {"beams": beams, "min_tokens": steps, "max_tokens": steps, "temperature": 0}

    def run() -> None:
        model.generate_ids(sources, **options)

    # The sources once: the encoder, and the keys and values of each cross-attention.
    encoder, stack = model.spec.encoder, _decoder(model)
    assert encoder is not None
    blocks = [block for layer in stack.layers for block in layer.blocks]
    crossed = cost.of_blocks((b for b in blocks if isinstance(b.body, CrossAttention)), stack.hidden_size)
    rest = [block for block in blocks if not isinstance(block.body, CrossAttention)]
    own = cost.of_blocks(rest, stack.hidden_size, rows=count * beams)
    work = sum(cost.products(encoder, length) + crossed.keys * length for length in lengths)
    # Then each new token: one text of a source in the first step, all its beams in the others.
    head = stack.stem.vocab_size * stack.hidden_size
    texts = 1 + (steps - 1) * beams
    work += count * texts * (own.products + crossed.products + head)
    work += beams * count * cost.stack_scores(stack, steps)
    work += texts * sum(lengths) * crossed.pairs
    info = model.info()
    weight, table = cost.weight_bytes(info)
    read = (cost.of_layers(encoder, sum(lengths)).read + crossed.keys) * weight
    read += steps * ((own.read + crossed.products) * weight + head * table)
    read += steps * cost.state_bytes(crossed, info.kv, sum(lengths))
    read += count * beams * sum(cost.state_bytes(own, info.kv, length + 1) for length in range(steps))
    name = f"{beams} beams, {count} sources"
    return Work(name, "target tokens", run, steps * count, multiply_adds=float(work), bytes=float(read))


def encode(model: Any, length: int, count: int) -> Work:
    """Hidden states of texts of one length in tokens."""
    texts = [tokens(model, length, seed) for seed in range(count)]
    work = cost.products(model.spec.encoder or model.spec.decoder, length) * count

    def run() -> None:
        model.encode(texts)

    return Work(f"encode {count} x {length}", "texts", run, count, multiply_adds=float(work))


def embed(model: TextEncoder, length: int, count: int) -> Work:
    """Vectors of texts of about one length in tokens: with tokenizing and pooling."""
    texts = [model.tokenizer.decode(tokens(model, length, seed), skip_special_tokens=True) for seed in range(count)]
    # Words of random pieces are cut into others, and special tokens come with them.
    lengths = [min(len(ids), length) for ids in model.tokenizer.encode_batch(texts)]
    stack = model.spec.encoder or model.spec.decoder
    assert stack is not None

    def run() -> None:
        model.embed(texts, truncate=True, max_tokens=length)

    work = sum(cost.products(stack, length) for length in lengths)
    return Work(f"embed {count} x {length}", "texts", run, count, multiply_adds=float(work))


def _decoder(model: Any) -> Stack:
    stack: Stack = model.spec.decoder
    return stack
