"""Runs generations of the compiled model: batches of prompts and streams of text."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ContextLengthError
from ..progress import Callback, Progress
from ..results import Chunk
from .base import ragged
from .feed import Feed
from .transcript import Finished, Transcript, token_logprob

if TYPE_CHECKING:
    from .. import _core
    from ..tokenizer import Tokenizer
    from .options import Request


STEPS = 16
"""Tokens between two reports of progress."""
AHEAD = 128
"""Items of an iterator that are in the engine or wait for an earlier one: as many as a batch has sequences."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class GenerationJob:
    """Prompts to continue. For an encoder-decoder ``prompts`` are the decoder's and ``sources`` the encoder's."""

    core: _core.Model
    tokenizer: Callable[[], Tokenizer]
    prompts: Sequence[Sequence[int]]
    request: Request
    limit: int | None
    """Longest sequence of the decoder."""
    sources: Sequence[Sequence[int]] | None = None
    prefixes: Sequence[Sequence[int]] | None = None
    """The last ids of each prompt, if its text begins with them."""

    def prefix(self, index: int) -> Sequence[int]:
        """The ids of a prompt with which its text begins."""
        return () if self.prefixes is None else self.prefixes[index]

    def transcript(self, index: int, *, text: bool) -> Transcript:
        """A transcript of a prompt's continuation."""
        return Transcript(self.tokenizer(), self.request, index, text=text, prefix=self.prefix(index))

    def max_tokens(self, prompt: Sequence[int]) -> int:
        """The bound of new tokens for one prompt.

        Raises:
            ContextLengthError: the prompt and the new tokens do not fit into the model.
        """
        request = self.request
        room = None if self.limit is None else self.limit - len(prompt)
        if room is not None and room < 1:
            raise ContextLengthError(
                f"the prompt has {len(prompt)} tokens: expected at most {self.limit} with the new ones, the length of "
                "this model"
            )
        if request.max_length is not None:
            # transformers counts the prompt (of a decoder: its start token) into max_length.
            wanted = request.max_length - len(prompt)
            if wanted < 1:
                raise ContextLengthError(
                    f"the prompt has {len(prompt)} tokens, and the checkpoint's max_length is {request.max_length}: "
                    "set max_tokens to go beyond it"
                )
        else:
            wanted = request.max_tokens or 0
        if room is not None and wanted > room:
            if request.explicit_length:
                raise ContextLengthError(
                    f"the prompt has {len(prompt)} tokens and max_tokens is {wanted}: expected at most {self.limit} "
                    "together, the length of this model"
                )
            wanted = room
        return wanted

    def start(self, row: int | None = None) -> _core.Generation:
        """Adds all prompts to the engine; nothing is computed yet. ``row`` is that of `_core.Model.generate`.

        Raises:
            ContextLengthError: a prompt and its new tokens do not fit into the model.
        """
        request = self.request
        limits = [self.max_tokens(prompt) for prompt in self.prompts]
        longest = max(limits, default=1)
        options = {**request.core, "max_tokens": longest, "min_tokens": min(int(request.core["min_tokens"]), longest)}
        ids, starts = ragged(self.prompts)
        sources: tuple[Any, Any] = (None, None) if self.sources is None else ragged(self.sources)
        return self.core.generate(
            ids, starts, json.dumps(options), *sources, request.processor, request.draft, limits=limits, row=row
        )


class Running:
    """A job in the engine: its new tokens as they come, and its results when it has finished."""

    def __init__(self, job: GenerationJob, row: int | None = None) -> None:
        self.job = job
        self.generation = job.start(row)
        self.began = time.perf_counter()
        request = job.request
        watched = bool(request.stop) or request.stopping is not None
        self._transcripts: list[Transcript] = []
        if (watched or request.logprobs is not None) and request.beams == 1:
            sequences = range(len(job.prompts) * request.samples)
            self._transcripts = [job.transcript(index // request.samples, text=watched) for index in sequences]
        self.steps = 1 if watched else None
        """The steps after which the new tokens must be looked at; None if that does not matter."""

    def advance(self, steps: int) -> None:
        """Runs up to ``steps`` steps (0: to the end)."""
        for sequence, token, logprob, top in self.generation.advance(steps):
            if self._transcripts and self._transcripts[sequence].take(token, logprob, top):
                self.generation.stop(sequence, "stop")

    def results(self) -> list[list[Finished]]:
        """The hypotheses of each prompt, best first."""
        results = self.generation.results()
        if not self._transcripts:
            return [
                [_finished(self.job, self.job.prefix(index), *one) for one in hypotheses]
                for index, hypotheses in enumerate(results)
            ]
        follow = iter(self._transcripts)
        return [[next(follow).finished(score, reason) for _, score, reason, _ in found] for found in results]


def run(job: GenerationJob, done: Callable[[int], None] | None = None) -> list[list[Finished]]:
    """The hypotheses of each prompt, best first. Calls ``done`` with the number of finished prompts."""
    running = Running(job)
    generation = running.generation
    steps = running.steps or (0 if done is None else STEPS)
    left = len(job.prompts)
    try:
        while not generation.finished():
            running.advance(steps)
            if done is not None:
                before, left = left, generation.unfinished()
                done(before - left)
        return running.results()
    finally:
        generation.close()


def flow(
    feed: Feed[Item],
    job: Callable[[Item], GenerationJob],
    finish: Callable[[Item, Running], Result],
    progress: bool | Callback | None,
    what: str,
) -> Generator[Result, None, None]:
    """The result of each item of a feed, in order, as it comes. Items join the engine's batch when others leave it, up
    to ``AHEAD`` at a time. Closing the generator stops the work."""
    open_items: deque[tuple[Item, Running]] = deque()
    row = 0
    failure: Exception | None = None
    with Progress(progress, feed.total, what) as bar:
        try:
            while True:
                try:
                    if failure is None:
                        for item in feed.take(AHEAD - len(open_items), busy=bool(open_items)):
                            one = job(item)
                            open_items.append((item, Running(one, row)))
                            row += len(one.prompts)
                except Exception as error:
                    failure = error  # raised after the results of the items before
                if not open_items:
                    if failure is not None:
                        raise failure
                    return
                # Each takes part in the steps that the others compute, and takes its events in turn.
                for _, running in open_items:
                    if not running.generation.finished():
                        running.advance(running.steps or STEPS)
                while open_items and open_items[0][1].generation.finished():
                    item, running = open_items.popleft()
                    try:
                        result = finish(item, running)
                    finally:
                        running.generation.close()
                    bar.advance()
                    yield result
        finally:
            for _, running in open_items:
                running.generation.close()


def _finished(
    job: GenerationJob,
    prefix: Sequence[int],
    ids: list[int],
    score: float,
    reason: str,
    scored: list[tuple[float, list[tuple[int, float]]]],
) -> Finished:
    """A hypothesis without a transcript; those of a beam search are cut afterwards."""
    finished = Finished(ids, score, reason)
    if job.request.stop:
        request = replace(job.request, logprobs=None, stopping=None)
        transcript = Transcript(job.tokenizer(), request, text=True, prefix=prefix)
        for token in ids:
            transcript.take(token, 0.0, [])
        found = transcript.finished(score, reason)
        finished.reason, finished.text = found.reason, found.text
    if job.request.logprobs is not None:
        finished.logprobs = [
            token_logprob(job.tokenizer(), token, own, top) for token, (own, top) in zip(ids, scored, strict=True)
        ]
    return finished


def stream(job: GenerationJob) -> Generator[Chunk, None, None]:
    """Chunks of text as they are generated. Closing the iterator frees the cache and stops the work."""
    generation = job.start()
    transcripts = [job.transcript(index, text=True) for index in range(len(job.prompts))]
    reported = [False] * len(transcripts)
    try:
        while not generation.finished():
            for sequence, token, logprob, top in generation.advance(1):
                transcript = transcripts[sequence]
                if transcript.stopped:
                    continue
                stopped = transcript.take(token, logprob, top)
                if (chunk := transcript.chunk()) is not None:
                    yield chunk
                if stopped:
                    generation.stop(sequence, "stop")
                    reported[sequence] = True
                    yield transcript.last_chunk("stop")
        for transcript, done, hypotheses in zip(transcripts, reported, generation.results(), strict=True):
            if not done:
                yield transcript.last_chunk(hypotheses[0][2])
    finally:
        generation.close()
