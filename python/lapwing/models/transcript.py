"""The text of one generated sequence as it grows: its tokens, its chunks, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import OptionError, short_repr
from ..results import Chunk, Hypothesis, TokenLogprob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..tokenizer import Tokenizer
    from .options import Request


@dataclass
class Finished:
    """One hypothesis of one prompt."""

    ids: list[int]
    score: float
    reason: str
    text: str | None = None
    """Set where a stop string cut it."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    alignment: NDArray[np.float32] | None = None

    def hypothesis(self, request: Request, text: str | None = None) -> Hypothesis:
        """The result, with its text, if any."""
        logprobs = tuple(self.logprobs) if request.logprobs is not None else None
        return Hypothesis(
            ids=tuple(self.ids),
            score=self.score,
            text=text,
            finish_reason=self.reason,
            logprobs=logprobs,
            alignment=self.alignment,
        )


class Transcript:
    """Follows one sequence: its tokens, with ``text`` its text, and where a stop string or a function ends it.

    ``prefix`` are the last ids of the prompt, if the text begins with them. Stop strings are searched in the text with
    the special tokens, which a stop string may spell; the text that users see is without them.
    """

    def __init__(
        self, tokenizer: Tokenizer, request: Request, index: int = 0, *, text: bool, prefix: Sequence[int] = ()
    ) -> None:
        self.stopped = False
        self._cut = False
        self._request = request
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream() if text else None
        self._index = index
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._text = ""
        self._searched = 0
        self._sent_ids = 0
        self._sent = 0
        self._hidden: list[tuple[int, int]] = []
        """Spans of the text that are special tokens."""
        self._shown_ids: list[int] = []  # for the caller's function, which may change it
        if self._decoder is not None and prefix:
            self._text = self._decoder.push(prefix)
            self._searched = len(self._text)
        self._own = len(self._text)

    def take(self, token: int, logprob: float, top: list[tuple[int, float]]) -> bool:
        """Adds a token; True if it completes a stop string or ``stopping`` ends here, after which no other is added."""
        if self.stopped:
            return False
        self._ids.append(token)
        if self._request.logprobs is not None:
            self._logprobs.append(token_logprob(self._tokenizer, token, logprob, top))
        if self._decoder is not None:
            self._add(self._decoder.push([token]))
            if self._request.stop and token in self._tokenizer.special_ids and not self._cut:
                spelled = self._tokenizer.id_to_token(token) or ""
                self._hidden.append((len(self._text), len(self._text) + len(spelled)))
                self._add(spelled)
        if self._request.stopping is not None and not self.stopped:
            self._shown_ids.append(token)
            ends = self._request.stopping(self._shown_ids, self._shown(self._own, len(self._text)))
            # A function without return is a mistake; arrays of one element are not.
            if ends is None or isinstance(ends, str):
                raise OptionError(f"stopping returned {short_repr(ends)}: expected True or False")
            self.stopped = bool(ends)
        return self.stopped

    def finished(self, score: float, reason: str) -> Finished:
        """The whole sequence, with its text if a stop string cut it."""
        self._end()
        text = self._shown(0, len(self._text)) if self._cut else None
        return Finished(self._ids, score, "stop" if self.stopped else reason, text, self._logprobs)

    def chunk(self) -> Chunk | None:
        """The new text that cannot be the beginning of a stop string, if any."""
        end = len(self._text)
        if not self._cut:
            end -= held_back(self._text[self._sent :], self._request.stop)
        text = self._shown(self._sent, end)
        return self._send(text, end, None) if text else None

    def last_chunk(self, reason: str) -> Chunk:
        """The remaining text at the end."""
        self._end()
        end = len(self._text)
        return self._send(self._shown(self._sent, end), end, "stop" if self.stopped else reason)

    def _shown(self, start: int, end: int) -> str:
        """A part of the text without special tokens."""
        parts = []
        for first, last in self._hidden:
            parts.append(self._text[start : min(max(first, start), end)])
            start = max(start, last)
        return "".join(parts) + self._text[start:end]

    def _add(self, text: str) -> None:
        """Adds text and cuts it where a stop string begins."""
        self._text += text
        longest = max(map(len, self._request.stop), default=1)
        cut = first_stop(self._text, self._request.stop, max(0, self._searched - longest + 1))
        self._searched = len(self._text)
        if cut is not None:
            self.stopped = self._cut = True
            self._text = self._text[:cut]

    def _end(self) -> None:
        """Text that the decoder held back until the end may still complete a stop string."""
        if self._decoder is not None and not self._cut:
            self._add(self._decoder.finish())

    def _send(self, text: str, end: int, reason: str | None) -> Chunk:
        sent, self._sent_ids = self._sent_ids, len(self._ids)
        self._sent = max(end, self._sent)
        logprobs = tuple(self._logprobs[sent:]) if self._request.logprobs is not None else None
        return Chunk(text=text, ids=tuple(self._ids[sent:]), finish_reason=reason, logprobs=logprobs, index=self._index)


def token_logprob(tokenizer: Tokenizer, token: int, logprob: float, top: list[tuple[int, float]]) -> TokenLogprob:
    """A token's log-probability with its text, and the alternatives with theirs."""
    rivals = tuple((index, readable(tokenizer.token_bytes(index)), value) for index, value in top)
    own = tokenizer.token_bytes(token)
    return TokenLogprob(id=token, text=readable(own), bytes=own, logprob=logprob, top=rivals)


def readable(data: bytes) -> str:
    """The text of a token's bytes; those of an incomplete character as ``\\xe6``."""
    return data.decode("utf-8", "backslashreplace")


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
