"""Runs generations of the compiled model: batches of prompts, stop strings, streams of text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ContextLengthError
from ..results import Chunk, Hypothesis, TokenLogprob
from .base import ragged

if TYPE_CHECKING:
    from .. import _core
    from ..tokenizer import Tokenizer
    from .options import Request


STEPS = 16
"""Tokens between two reports of progress."""


@dataclass
class Finished:
    """One hypothesis of one prompt."""

    ids: list[int]
    score: float
    reason: str
    text: str | None = None
    """Set where a stop string cut it."""
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def hypothesis(self, request: Request, text: str | None = None) -> Hypothesis:
        """As a result, with its text if there is one."""
        logprobs = tuple(self.logprobs) if request.logprobs is not None else None
        return Hypothesis(
            ids=tuple(self.ids), score=self.score, text=text, finish_reason=self.reason, logprobs=logprobs
        )


@dataclass(frozen=True)
class Job:
    """Prompts to continue. For an encoder-decoder ``prompts`` are the decoder's and ``sources`` the encoder's."""

    core: _core.Model
    tokenizer: Callable[[], Tokenizer]
    prompts: Sequence[Sequence[int]]
    request: Request
    limit: int | None
    """Longest sequence of the decoder."""
    sources: Sequence[Sequence[int]] | None = None

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

    def groups(self) -> list[tuple[list[int], dict[str, Any]]]:
        """Prompts that share all options, as indices, with the options."""
        found: dict[int, list[int]] = {}
        for index, prompt in enumerate(self.prompts):
            found.setdefault(self.max_tokens(prompt), []).append(index)
        least = int(self.request.core["min_tokens"])
        return [
            (indices, {**self.request.core, "max_tokens": most, "min_tokens": min(least, most)})
            for most, indices in found.items()
        ]

    def start(self, indices: Sequence[int], options: dict[str, Any]) -> _core.Generation:
        """Begins the generation of some prompts; nothing is computed yet."""
        ids, starts = ragged([self.prompts[index] for index in indices])
        sources: tuple[Any, Any] = (None, None)
        if self.sources is not None:
            sources = ragged([self.sources[index] for index in indices])
        request = self.request
        return self.core.generate(ids, starts, json.dumps(options), *sources, request.processor, request.draft)


def run(job: Job, done: Callable[[int], None] | None = None) -> list[list[Finished]]:
    """Generates to the end: for each prompt its hypotheses, best first. ``done`` is told how many prompts have ended."""
    results: list[list[Finished]] = [[] for _ in job.prompts]
    for indices, options in job.groups():
        generation = job.start(indices, options)
        watchers = None
        if job.request.stop or job.request.logprobs is not None:
            watchers = [_Watcher(job) for _ in range(len(indices) * job.request.samples)]
        steps = 1 if job.request.stop else 0 if done is None else STEPS
        left = len(indices)
        try:
            while not generation.finished():
                for sequence, token, logprob, top in generation.advance(steps):
                    if watchers is not None and watchers[sequence].take(token, logprob, top):
                        generation.stop(sequence, "stop")
                if done is not None:
                    before, left = left, generation.unfinished()
                    done(before - left)
            for place, hypotheses in enumerate(generation.results()):
                for rank, (ids, score, reason, scored) in enumerate(hypotheses):
                    watcher = None
                    if watchers is not None and job.request.beams == 1:
                        watcher = watchers[place * job.request.samples + rank]
                    finished = _finished(ids, score, reason, watcher, job)
                    if job.request.logprobs is not None and watcher is None:
                        finished.logprobs = [
                            token_logprob(job.tokenizer(), token, own, top)
                            for token, (own, top) in zip(ids, scored, strict=True)
                        ]
                    results[indices[place]].append(finished)
        finally:
            generation.close()
    return results


def _finished(ids: list[int], score: float, reason: str, watcher: _Watcher | None, job: Job) -> Finished:
    if watcher is None:
        if job.request.stop:  # hypotheses of a beam search are cut afterwards
            text = job.tokenizer().decode(ids, skip_special_tokens=True)
            cut = first_stop(text, job.request.stop)
            return Finished(
                ids,
                score,
                "stop" if cut is not None else reason,
                None if cut is None else text[:cut],
            )
        return Finished(ids, score, reason)
    return Finished(watcher.ids, score, watcher.reason or reason, watcher.cut_text(), watcher.logprobs)


class _Watcher:
    """Follows one sequence: its tokens, its text if stop strings are set, and where one of them begins."""

    def __init__(self, job: Job) -> None:
        self.ids: list[int] = []
        self.reason: str | None = None
        self.logprobs: list[TokenLogprob] = []
        self._request = job.request
        self._tokenizer = job.tokenizer
        self._decoder = job.tokenizer().stream() if job.request.stop else None
        self._text = ""
        self._cut: int | None = None

    def take(self, token: int, logprob: float, top: list[tuple[int, float]]) -> bool:
        """Adds a token; True if it completes a stop string."""
        if self._cut is not None:
            return False
        self.ids.append(token)
        if self._request.logprobs is not None:
            self.logprobs.append(token_logprob(self._tokenizer(), token, logprob, top))
        if self._decoder is None:
            return False
        self._text += self._decoder.push([token])
        self._cut = first_stop(self._text, self._request.stop)
        if self._cut is not None:
            self.reason = "stop"
        return self._cut is not None

    def cut_text(self) -> str | None:
        """The text before the stop string, if there was one."""
        if self._decoder is not None and self._cut is None:
            # Text held back until the end may still complete one.
            self._text += self._decoder.finish()
            self._cut = first_stop(self._text, self._request.stop)
            if self._cut is not None:
                self.reason = "stop"
        return None if self._cut is None else self._text[: self._cut]


def token_logprob(tokenizer: Tokenizer, token: int, logprob: float, top: list[tuple[int, float]]) -> TokenLogprob:
    """A token's log-probability with its text and its rivals' texts."""
    rivals = tuple((index, tokenizer.decode([index]), value) for index, value in top)
    return TokenLogprob(id=token, text=tokenizer.decode([token]), logprob=logprob, top=rivals)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(found, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of ``text`` may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest


class _Teller:
    """Turns one sequence's tokens into chunks."""

    def __init__(self, job: Job, index: int) -> None:
        self._decoder = job.tokenizer().stream()
        self._tokenizer = job.tokenizer()
        self._request = job.request
        self._index = index
        self._pending = ""
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self.stopped = False

    def take(self, token: int, logprob: float, top: list[tuple[int, float]]) -> Chunk | None:
        """The chunk that a token brings; ``stopped`` is set if it completes a stop string."""
        if self._request.logprobs is not None:
            self._logprobs.append(token_logprob(self._tokenizer, token, logprob, top))
        self._ids.append(token)
        self._pending += self._decoder.push([token])
        return self._tell(None)

    def finish(self, reason: str) -> Chunk:
        """The last chunk, with whatever was held back."""
        if not self.stopped:
            self._pending += self._decoder.finish()
        return self._tell(reason) or Chunk(text="", ids=(), finish_reason=reason, index=self._index)

    def _tell(self, reason: str | None) -> Chunk | None:
        stops = self._request.stop
        if not self.stopped and (cut := first_stop(self._pending, stops)) is not None:
            self._pending = self._pending[:cut]
            self.stopped = True
        if reason is not None and self.stopped:
            reason = "stop"
        hold = 0 if reason is not None or self.stopped else held_back(self._pending, stops)
        text = self._pending[: len(self._pending) - hold]
        if not text and reason is None:
            return None
        self._pending = self._pending[len(text) :]
        chunk = Chunk(
            text=text,
            ids=tuple(self._ids),
            finish_reason=reason,
            logprobs=tuple(self._logprobs) if self._request.logprobs is not None else None,
            index=self._index,
        )
        self._ids = []
        self._logprobs = []
        return chunk


def stream(job: Job) -> Iterator[Chunk]:
    """Chunks of text as they come. Closing the iterator frees the cache and stops the work."""
    for indices, options in job.groups():
        generation = job.start(indices, options)
        tellers = [_Teller(job, index) for index in indices]
        told = [False] * len(indices)
        try:
            while not generation.finished():
                for sequence, token, logprob, top in generation.advance(1):
                    teller = tellers[sequence]
                    if teller.stopped:
                        continue
                    chunk = teller.take(token, logprob, top)
                    if chunk is not None:
                        yield chunk
                    if teller.stopped:
                        generation.stop(sequence, "stop")
                        told[sequence] = True
                        yield teller.finish("stop")
            for place, hypotheses in enumerate(generation.results()):
                if not told[place]:
                    yield tellers[place].finish(hypotheses[0][2])
        finally:
            generation.close()
