"""Log-probabilities of given texts."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from ...errors import OptionError
from ...progress import Callback
from ...results import Score
from ..arguments import flag, is_text, one_or_many
from ..base import DEFAULT_BATCH_TOKENS, BaseModel, ragged, split_rows
from ..feed import over_iterators
from ..probabilities import logprobs_of
from ..text_to_text import TextToText

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Scorer(BaseModel):
    """Scores texts."""

    @overload
    def score(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Score: ...
    @overload
    def score(
        self,
        text: Sequence[str],
        *,
        add_special_tokens: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Score]: ...
    @overload
    def score(
        self,
        text: Iterator[str],
        *,
        add_special_tokens: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Generator[Score, None, None]: ...
    @over_iterators(is_text)
    def score(
        self,
        text: str | Sequence[str] | Iterator[str],
        *,
        add_special_tokens: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Score | list[Score] | Generator[Score, None, None]:
        """The log-probability of each token of a text given all tokens before it.

        Raises:
            ContextLengthError: a text is longer than the model.
        """
        texts, single = one_or_many(text, is_text, "text")
        flag("add_special_tokens", add_special_tokens)
        stack = self.spec.decoder
        items = [
            self._check_ids(
                self.tokenizer.encode(item, add_special_tokens=add_special_tokens),
                stack.stem.vocab_size if stack else 0,
                self.max_length,
                "text",
            )
            for item in texts
        ]
        results = self._map(
            items,
            len,
            self._score,
            batch_tokens=self._logit_tokens(batch_tokens),
            progress=progress,
            what="scoring",
        )
        return results[0] if single else results

    def _score(self, batch: list[list[int]]) -> list[Score]:
        flat, starts = ragged(batch)
        logits = self.core.logits(flat, starts)
        results = []
        for index, ids in enumerate(batch):
            rows = logits[starts[index] : starts[index + 1] - 1]
            results.append(scored(ids, rows, ids[1:]))
        return results


class TargetScorer(TextToText):
    """Scores targets given their sources."""

    @overload
    def score(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        sources: str,
        targets: str,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Score: ...
    @overload
    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Score]: ...
    def score(
        self,
        sources: str | Sequence[str],
        targets: str | Sequence[str],
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Score | list[Score]:
        """The log-probability of each token of a target given its source and the tokens before it.

        The tokens are those that the model itself would generate: the forced first token (such as the
        language), the text and the end token. Without languages the sources are encoded as by `generate`.

        Args:
            sources: one text, or a list.
            targets: one text, or a list with one for each source.
            source_lang: the language of the sources, as for `translate`.
            target_lang: the language of the targets.

        Raises:
            ContextLengthError: a text is longer than the model.
        """
        texts, single = one_or_many(sources, is_text, "sources")
        wanted, one = one_or_many(targets, is_text, "targets")
        if len(texts) != len(wanted) or single != one:
            raise OptionError(f"there are {len(texts)} sources and {len(wanted)} targets: expected one for each")
        direction, start, first = self._teacher(source_lang, target_lang)
        pairs = [
            (self._source(source, direction), self._target_ids(target, first))
            for source, target in zip(texts, wanted, strict=True)
        ]

        def run(batch: list[tuple[list[int], list[int]]]) -> list[Score]:
            fed = [[*start, *ids[:-1]] for _, ids in batch]
            flat, starts = ragged(fed)
            rows = self.core.decoder_logits(*ragged([source for source, _ in batch]), flat, starts)
            parts = split_rows(rows, starts)
            return [scored(ids, part, ids) for (_, ids), part in zip(batch, parts, strict=True)]

        results = self._map(
            pairs,
            lambda pair: len(pair[0]) + len(pair[1]),
            run,
            batch_tokens=self._logit_tokens(batch_tokens),
            progress=progress,
            what="scoring",
        )
        return results[0] if single else results


def scored(ids: Sequence[int], rows: NDArray[np.float32], targets: Sequence[int]) -> Score:
    """The score of ``ids`` from the logits [tokens, vocab] at the positions before each of its ``targets``."""
    values: list[float] = []
    if len(rows):
        values = [float(v) for v in logprobs_of(rows, targets)]
    return Score(ids=tuple(ids), logprobs=tuple(values), total=math.fsum(values), perplexity=_perplexity(values))


def _perplexity(values: Sequence[float]) -> float:
    # exp(709.8) overflows float64; without scored tokens the perplexity is 1.
    return math.exp(min(-math.fsum(values) / len(values), 700.0)) if values else 1.0
