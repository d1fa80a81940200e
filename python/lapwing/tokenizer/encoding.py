"""The result of tokenizing a text."""

from __future__ import annotations

from dataclasses import dataclass


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
