"""What a tokenizer makes of a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoding:
    """Ids of one text or pair, and where they come from.

    ``offsets`` are characters of the text (or of the pair's second text, where ``sequences`` is 1);
    ``sequences`` is None at special tokens, and ``special`` is 1 there. ``words`` numbers the words that the
    tokenizer cuts first, in each text anew.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequences: list[int | None]
    special: list[int]
    words: list[int | None]

    def __len__(self) -> int:
        return len(self.ids)
