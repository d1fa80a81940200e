"""Candidates for masked tokens."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from ...errors import OptionError, short_repr
from ...progress import Callback
from ...results import Fill
from ...tokenizer import Encoding, Tokenizer
from ..arguments import is_text, one_or_many, texts, whole
from ..base import DEFAULT_BATCH_TOKENS
from ..feed import over_iterators
from ..heads import HeadModel
from ..probabilities import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Fills = list[Fill] | list[list[Fill]]
"""Candidates of one text, best first: for its only mask, or for each of several."""


class MaskFiller(HeadModel):
    """Fills masked tokens."""

    @overload
    def fill_mask(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: str,
        *,
        top_k: int = 5,
        targets: Sequence[str] | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Fills: ...
    @overload
    def fill_mask(
        self,
        text: Sequence[str],
        *,
        top_k: int = 5,
        targets: Sequence[str] | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Fills]: ...
    @overload
    def fill_mask(
        self,
        text: Iterator[str],
        *,
        top_k: int = 5,
        targets: Sequence[str] | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Generator[Fills, None, None]: ...
    @over_iterators(is_text)
    def fill_mask(
        self,
        text: str | Sequence[str] | Iterator[str],
        *,
        top_k: int = 5,
        targets: Sequence[str] | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Fills | list[Fills] | Generator[Fills, None, None]:
        """Candidates for each mask token in a text, best first: a list for one mask, a list of lists for
        several.

        ``targets`` restricts the candidates to these tokens.
        """
        if self.spec.language_head is None:
            raise OptionError(f"{self._parts.identity} has no language head: fill_mask needs a masked language model")
        mask = self.tokenizer.mask_token
        mask_id = self.tokenizer.mask_token_id
        if mask is None or mask_id is None:
            raise OptionError(f"{self._parts.identity} has no mask token in its tokenizer files: fill_mask needs one")
        whole("top_k", top_k)
        words = None if targets is None else texts("targets", targets)
        items, single = one_or_many(text, is_text, "text")
        for index, item in enumerate(items):
            if mask not in item:
                raise OptionError(f"text {index} has no mask: expected {mask} in it")
        encodings = [self._encode(item) for item in items]
        limited = None if words is None else [target_id(self.tokenizer, word) for word in words]

        def run(batch: list[Encoding]) -> list[Fills]:
            flat, starts, segments = self._arrays(batch)
            logits = self.core.logits(flat, starts, segments)
            return [
                fills(
                    self.tokenizer,
                    batch[index].ids,
                    logits[starts[index] : starts[index + 1]],
                    mask_id,
                    top_k,
                    limited,
                )
                for index in range(len(batch))
            ]

        results = self._map(
            encodings,
            len,
            run,
            batch_tokens=self._logit_tokens(batch_tokens),
            progress=progress,
            what="filling",
        )
        return results[0] if single else results


def target_id(tokenizer: Tokenizer, target: str) -> int:
    """The id of a candidate: a token in the vocabulary's spelling, or a word that is a single token."""
    index = tokenizer.token_to_id(target)
    if index is not None:
        return index
    ids = tokenizer.encode(target, add_special_tokens=False)
    if len(ids) != 1:
        raise OptionError(f"the target {short_repr(target)} is {len(ids)} tokens: expected one")
    return ids[0]


def fills(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    logits: Floats,
    mask_id: int,
    top_k: int,
    targets: Sequence[int] | None,
) -> Fills:
    """Candidates for each mask of one text."""
    places = [index for index, value in enumerate(ids) if value == mask_id]
    found: list[list[Fill]] = []
    for place in places:
        scores = softmax(logits[place])
        candidates = range(len(scores)) if targets is None else list(dict.fromkeys(targets))
        ranked = sorted(candidates, key=lambda index: (-scores[index], index))[:top_k]
        row = []
        for index in ranked:
            filled = [*ids[:place], index, *ids[place + 1 :]]
            row.append(
                Fill(
                    token=tokenizer.decode([index]),
                    id=index,
                    score=float(scores[index]),
                    text=tokenizer.decode(filled, skip_special_tokens=len(places) == 1),
                )
            )
        found.append(row)
    return found[0] if len(found) == 1 else found
