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
        """The result, with its text, if any."""
        logprobs = tuple(self.logprobs) if request.logprobs is not None else None
        return Hypothesis(
            ids=tuple(self.ids), score=self.score, text=text, finish_reason=self.reason, logprobs=logprobs
        )


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

    def start(self) -> _core.Generation:
        """Adds all prompts to the engine; nothing is computed yet.

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
            ids, starts, json.dumps(options), *sources, request.processor, request.draft, limits=limits
        )


def run(job: GenerationJob, done: Callable[[int], None] | None = None) -> list[list[Finished]]:
    """The hypotheses of each prompt, best first. Calls ``done`` with the number of finished prompts."""
    request = job.request
    generation = job.start()
    transcripts: list[Transcript] = []
    if (request.stop or request.logprobs is not None) and request.beams == 1:
        transcripts = [Transcript(job, text=bool(request.stop)) for _ in range(len(job.prompts) * request.samples)]
    steps = 1 if request.stop else 0 if done is None else STEPS
    left = len(job.prompts)
    try:
        while not generation.finished():
            for sequence, token, logprob, top in generation.advance(steps):
                if transcripts and transcripts[sequence].take(token, logprob, top):
                    generation.stop(sequence, "stop")
            if done is not None:
                before, left = left, generation.unfinished()
                done(before - left)
        results = generation.results()
        if not transcripts:
            return [[_finished(job, *one) for one in hypotheses] for hypotheses in results]
        follow = iter(transcripts)
        return [[next(follow).finished(score, reason) for _, score, reason, _ in found] for found in results]
    finally:
        generation.close()


def _finished(
    job: GenerationJob, ids: list[int], score: float, reason: str, scored: list[tuple[float, list[tuple[int, float]]]]
) -> Finished:
    """A hypothesis without a transcript; those of a beam search are cut afterwards."""
    finished = Finished(ids, score, reason)
    if job.request.stop:
        text = job.tokenizer().decode(ids, skip_special_tokens=True)
        cut = first_stop(text, job.request.stop)
        if cut is not None:
            finished.reason, finished.text = "stop", text[:cut]
    if job.request.logprobs is not None:
        finished.logprobs = [
            token_logprob(job.tokenizer(), token, own, top) for token, (own, top) in zip(ids, scored, strict=True)
        ]
    return finished


class Transcript:
    """Follows one sequence: its tokens, with ``text`` its text, and where a stop string ends it."""

    def __init__(self, job: GenerationJob, index: int = 0, *, text: bool) -> None:
        self.stopped = False
        self._request = job.request
        self._tokenizer = job.tokenizer
        self._decoder = job.tokenizer().stream() if text else None
        self._index = index
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._text = ""
        self._searched = 0
        self._sent_ids = 0
        self._sent_text = 0

    def take(self, token: int, logprob: float, top: list[tuple[int, float]]) -> bool:
        """Adds a token; True if it completes a stop string, after which no other is added."""
        if self.stopped:
            return False
        self._ids.append(token)
        if self._request.logprobs is not None:
            self._logprobs.append(token_logprob(self._tokenizer(), token, logprob, top))
        if self._decoder is not None:
            self._add(self._decoder.push([token]))
        return self.stopped

    def finished(self, score: float, reason: str) -> Finished:
        """The whole sequence, with its text if a stop string cut it."""
        self._end()
        if self.stopped:
            return Finished(self._ids, score, "stop", self._text, self._logprobs)
        return Finished(self._ids, score, reason, None, self._logprobs)

    def chunk(self) -> Chunk | None:
        """The new text that cannot be the beginning of a stop string, if any."""
        text = self._text[self._sent_text :]
        if not self.stopped:
            text = text[: len(text) - held_back(text, self._request.stop)]
        return self._send(text, None) if text else None

    def last_chunk(self, reason: str) -> Chunk:
        """The remaining text at the end."""
        self._end()
        return self._send(self._text[self._sent_text :], "stop" if self.stopped else reason)

    def _add(self, text: str) -> None:
        """Adds text and cuts it where a stop string begins."""
        self._text += text
        longest = max(map(len, self._request.stop), default=1)
        cut = first_stop(self._text, self._request.stop, max(0, self._searched - longest + 1))
        self._searched = len(self._text)
        if cut is not None:
            self.stopped = True
            self._text = self._text[:cut]

    def _end(self) -> None:
        """Text that the decoder held back until the end may still complete a stop string."""
        if self._decoder is not None and not self.stopped:
            self._add(self._decoder.finish())

    def _send(self, text: str, reason: str | None) -> Chunk:
        sent, self._sent_ids = self._sent_ids, len(self._ids)
        self._sent_text += len(text)
        logprobs = tuple(self._logprobs[sent:]) if self._request.logprobs is not None else None
        return Chunk(text=text, ids=tuple(self._ids[sent:]), finish_reason=reason, logprobs=logprobs, index=self._index)


def token_logprob(tokenizer: Tokenizer, token: int, logprob: float, top: list[tuple[int, float]]) -> TokenLogprob:
    """A token's log-probability with its text, and the alternatives with theirs."""
    rivals = tuple((index, tokenizer.decode([index]), value) for index, value in top)
    return TokenLogprob(id=token, text=tokenizer.decode([token]), logprob=logprob, top=rivals)


def first_stop(text: str, stops: Sequence[str], start: int = 0) -> int | None:
    """Where the first stop string from ``start`` on begins."""
    found = [at for stop in stops if (at := text.find(stop, start)) >= 0]
    return min(found, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """Number of characters at the end of ``text`` that may begin a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest


def stream(job: GenerationJob) -> Iterator[Chunk]:
    """Chunks of text as they are generated. Closing the iterator frees the cache and stops the work."""
    generation = job.start()
    transcripts = [Transcript(job, index, text=True) for index in range(len(job.prompts))]
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
