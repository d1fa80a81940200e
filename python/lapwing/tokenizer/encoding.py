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

    def truncated(self, limit: int, side: str = "right") -> Encoding:
        """At most ``limit`` tokens: what is too long loses tokens at its ``side``, the longer text of a pair first, as
        in transformers; the special tokens around the texts stay.

        Raises:
            ContextLengthError: the special tokens alone exceed the limit.
        """
        if len(self) <= limit:
            return self
        first, second = ([i for i, s in enumerate(self.sequences) if s == part] for part in (0, 1))
        room = limit - (len(self) - len(first) - len(second))
        if room < 0:
            raise ContextLengthError(f"the special tokens alone exceed {limit} tokens")
        shorter, longer = sorted((len(first), len(second)))
        # The longer text is cut to what the shorter one leaves, but not below half of the room.
        longer = max(shorter, room - shorter)
        if shorter + longer > room:
            shorter, longer = room // 2, room - room // 2
        sizes = (longer, shorter) if len(first) > len(second) else (shorter, longer)
        if 1 not in self.sequences:
            sizes = (room, 0)
        kept = set()
        for places, size in zip((first, second), sizes, strict=True):
            kept.update(places[:size] if side == "right" else places[len(places) - size :])
        return self.select([i for i, s in enumerate(self.sequences) if s is None or i in kept])
