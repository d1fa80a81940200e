"""The result of tokenizing a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ContextLengthError


@dataclass(frozen=True)
class Encoding:
    """Ids of a text or pair, and their origin.

    ``offsets`` are character positions in the text (or in the second text of the pair, where ``sequences`` is
    1); ``sequences`` is None for special tokens, whose ``special`` is 1. ``words`` are the indices of the
    pre-tokenized words, counted separately in each text.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequences: list[int | None]
    special: list[int]
    words: list[int | None]

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, places: Sequence[int]) -> Encoding:
        """The tokens at these positions."""
        return Encoding(
            [self.ids[i] for i in places],
            [self.type_ids[i] for i in places],
            [self.offsets[i] for i in places],
            [self.sequences[i] for i in places],
            [self.special[i] for i in places],
            [self.words[i] for i in places],
        )

    def truncated(self, limit: int) -> Encoding:
        """At most ``limit`` tokens: removes tokens one by one from the end of the longer text, and keeps the
        special tokens.

        Raises:
            ContextLengthError: the special tokens alone exceed the limit.
        """
        if len(self) <= limit:
            return self
        places: list[list[int]] = [[i for i, s in enumerate(self.sequences) if s == part] for part in (0, 1)]
        for _ in range(len(self) - limit):
            first, second = places
            longer = second if second and len(second) >= len(first) else first
            if not longer:
                raise ContextLengthError(f"the special tokens alone exceed {limit} tokens")
            longer.pop()
        kept = {*places[0], *places[1]}
        return self.select([i for i, s in enumerate(self.sequences) if s is None or i in kept])
