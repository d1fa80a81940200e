"""Answers as spans of a context; as in transformers' pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from ...errors import ContextLengthError, OptionError
from ...progress import Callback
from ...results import Answer
from ...tokenizer import Encoding, Tokenizer
from ..arguments import flag, is_text, one_or_many, whole
from ..base import DEFAULT_BATCH_TOKENS
from ..heads import HeadModel
from ..probabilities import softmax
from . import windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class Answerer(HeadModel):
    """Finds the spans of contexts that answer questions."""

    @overload
    def answer(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        question: str,
        context: str,
        *,
        top_k: int = 1,
        allow_no_answer: bool = False,
        max_answer_tokens: int = 15,
        window: int = 384,
        stride: int = 128,
        align_to_words: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Answer: ...
    @overload
    def answer(
        self,
        question: Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        allow_no_answer: bool = False,
        max_answer_tokens: int = 15,
        window: int = 384,
        stride: int = 128,
        align_to_words: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Answer]: ...
    def answer(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        allow_no_answer: bool = False,
        max_answer_tokens: int = 15,
        window: int = 384,
        stride: int = 128,
        align_to_words: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Answer | list[Answer]:
        """The span of a context that answers a question.

        Args:
            question: one question, or a list; one question or one context is combined with every item of the
                other.
            top_k: number of answers: the best one and ``top_k - 1`` ``alternatives``.
            allow_no_answer: allows "no answer" as an empty text.
            window: maximum tokens per pass; a longer context is read in windows that overlap by ``stride``
                tokens.
            align_to_words: extends a span to whole words.
        """
        self._require_head("answer", per_token=True)
        if self._outputs != 2:
            raise OptionError(f"answer needs a head with 2 outputs, this checkpoint's has {self._outputs}")
        questions, single_question = one_or_many(question, is_text, "question")
        contexts, single_context = one_or_many(context, is_text, "context")
        single = single_question and single_context
        if single_context and not single_question:
            contexts = contexts * len(questions)
        if single_question and not single_context:
            questions = questions * len(contexts)
        if len(questions) != len(contexts):
            raise OptionError(
                f"there are {len(questions)} questions and {len(contexts)} contexts: expected equal numbers"
            )
        for name, value, least in (
            ("top_k", top_k, 1),
            ("max_answer_tokens", max_answer_tokens, 1),
            ("stride", stride, 0),
        ):
            whole(name, value, least)
        flag("allow_no_answer", allow_no_answer)
        flag("align_to_words", align_to_words)
        reader = Reader(self.tokenizer, self.max_length, window, stride)
        parts = windows.read(
            self,
            [reader.windows(ask, text) for ask, text in zip(questions, contexts, strict=True)],
            batch_tokens=batch_tokens,
            progress=progress,
            what="answering",
        )
        results = [
            reader.answer(
                text,
                part,
                top_k=top_k,
                allow_no_answer=allow_no_answer,
                max_answer_tokens=max_answer_tokens,
                align_to_words=align_to_words,
            )
            for text, part in zip(contexts, parts, strict=True)
        ]
        return results[0] if single else results


@dataclass(frozen=True)
class _Span:
    text: str
    score: float
    start: int
    end: int


class Reader:
    """Finds answer spans in contexts that are split into windows."""

    def __init__(self, tokenizer: Tokenizer, limit: int | None, window: int, stride: int) -> None:
        whole("window", window)
        self._tokenizer = tokenizer
        self._window = window if limit is None else min(window, limit)
        self._stride = stride

    def windows(self, question: str, context: str) -> list[Encoding]:
        """The windows of a question and its context."""
        if not context.strip():
            raise OptionError("context is empty: expected some text")
        encoding = self._tokenizer.encode_pair(question, context)
        length = sum(1 for s in encoding.sequences if s != 1)
        if length >= self._window:
            raise ContextLengthError(
                f"the question has {length} tokens including special tokens: "
                f"expected fewer than the window of {self._window}"
            )
        stride = min(self._stride, (self._window - length) // 2) if len(encoding) > self._window else self._stride
        return windows.split(encoding, self._window, stride, part=1, side=self._tokenizer.truncation_side)

    def answer(
        self,
        context: str,
        parts: Sequence[tuple[Encoding, Floats]],
        *,
        top_k: int,
        allow_no_answer: bool,
        max_answer_tokens: int,
        align_to_words: bool,
    ) -> Answer:
        """The best span over all windows."""
        spans: dict[str, _Span] = {}
        none_score = 1.0
        for encoding, logits in parts:
            # Several spans may align to the same words.
            wanted = 2 * top_k + 10 if align_to_words else top_k
            found, null = self._spans(encoding, logits, wanted, max_answer_tokens)
            none_score = min(none_score, null)
            for first, last, score in found:
                start, end = encoding.offsets[first][0], encoding.offsets[last][1]
                if align_to_words:
                    start, end = _whole_words(encoding, first, last)
                text = context[start:end]
                known = spans.get(text.lower())
                if known is not None:  # the same words elsewhere, or in another window
                    spans[text.lower()] = _Span(known.text, known.score + score, known.start, known.end)
                else:
                    spans[text.lower()] = _Span(text, score, start, end)
        ranked = sorted(spans.values(), key=lambda span: -span.score)
        if allow_no_answer:
            ranked.append(_Span("", none_score, 0, 0))
            ranked.sort(key=lambda span: -span.score)
        if not ranked:
            raise OptionError("the context has no tokens: expected some text")
        answers = [
            Answer(text=s.text, score=s.score, start=s.start, end=s.end, no_answer_score=none_score)
            for s in ranked[:top_k]
        ]
        best = answers[0]
        return Answer(
            text=best.text,
            score=best.score,
            start=best.start,
            end=best.end,
            no_answer_score=none_score,
            alternatives=tuple(answers[1:]),
        )

    def _spans(
        self, encoding: Encoding, logits: Floats, count: int, longest: int
    ) -> tuple[list[tuple[int, int, float]], float]:
        cls = self._tokenizer.cls_token_id
        inside = np.array([s == 1 for s in encoding.sequences])
        allowed = inside | np.array([index == cls and cls is not None for index in encoding.ids])
        masked = np.where(allowed[:, None], logits.astype(np.float64), -10000.0)
        start, end = softmax(masked[:, 0]), softmax(masked[:, 1])
        null = float(start[0] * end[0])
        start[~inside] = 0.0
        end[~inside] = 0.0
        found: list[tuple[int, int, float]] = []
        for offset in range(min(longest, len(start))):
            scores = start[: len(start) - offset] * end[offset:]
            found += [(first, first + offset, float(score)) for first, score in enumerate(scores) if score > 0]
        found.sort(key=lambda span: (-span[2], span[0], span[1]))
        return found[:count], null


def _whole_words(encoding: Encoding, first: int, last: int) -> tuple[int, int]:
    def bounds(place: int) -> tuple[int, int]:
        word = encoding.words[place]
        if word is None:
            return encoding.offsets[place]
        same = [
            encoding.offsets[i]
            for i in range(len(encoding))
            if encoding.words[i] == word and encoding.sequences[i] == encoding.sequences[place]
        ]
        return min(s for s, _ in same), max(e for _, e in same)

    return bounds(first)[0], bounds(last)[1]
