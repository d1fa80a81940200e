"""Labelled spans, such as names; joined as in transformers' pipelines."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np

from ...errors import OptionError
from ...progress import Callback
from ...results import Tag
from ...tokenizer import Encoding, Tokenizer
from ..arguments import choice, flag, is_text, one_or_many, texts, whole
from ..base import DEFAULT_BATCH_TOKENS
from ..feed import over_iterators
from ..heads import HeadModel, labels
from ..probabilities import softmax
from . import windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Aggregation = Literal["none", "simple", "first", "average", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


class Tagger(HeadModel):
    """Labels the tokens of texts."""

    @overload
    def tag(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: str,
        *,
        aggregation: Aggregation = "simple",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Tag]: ...
    @overload
    def tag(
        self,
        text: Sequence[str],
        *,
        aggregation: Aggregation = "simple",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[list[Tag]]: ...
    @overload
    def tag(
        self,
        text: Iterator[str],
        *,
        aggregation: Aggregation = "simple",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Generator[list[Tag], None, None]: ...
    @over_iterators(is_text)
    def tag(
        self,
        text: str | Sequence[str] | Iterator[str],
        *,
        aggregation: Aggregation = "simple",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Tag] | list[list[Tag]] | Generator[list[Tag], None, None]:
        """Labelled spans of a text, such as names, with their character offsets.

        Args:
            aggregation: "none" (each token), "simple" (joins adjacent tokens of one label), or "first",
                "average" or "max" (labels words by their tokens, then joins adjacent words).
            ignore_labels: labels to omit.
            stride: reads a long text in windows that overlap by this many tokens.
            truncate: truncates texts that are too long instead.
        """
        self._require_head("tag", per_token=True)
        choice("aggregation", aggregation, AGGREGATIONS)
        items, single = one_or_many(text, is_text, "text")
        ignored = frozenset(texts("ignore_labels", ignore_labels))
        if stride is not None:
            whole("stride", stride, 0)
        if flag("truncate", truncate) and stride is not None:
            raise OptionError("stride and truncate are set: expected one of them")
        names = labels(self.config, self._outputs)
        limit = self._bound() if stride is not None else self.max_length
        side = self.tokenizer.truncation_side
        parts = windows.read(
            self,
            [
                [self._encode(item, truncate=True)]
                if truncate
                else windows.split(self.tokenizer.encoding(item), limit, stride, side=side)
                for item in items
            ],
            batch_tokens=batch_tokens,
            progress=progress,
            what="tagging",
        )
        results = [
            tags(self.tokenizer, item, part, names, aggregation, ignored)
            for item, part in zip(items, parts, strict=True)
        ]
        return results[0] if single else results


@dataclass(frozen=True)
class _Token:
    start: int
    end: int
    scores: Any
    subword: bool


@dataclass(frozen=True)
class _Piece:
    label: str
    score: float
    start: int
    end: int


def tags(
    tokenizer: Tokenizer,
    text: str,
    parts: Sequence[tuple[Encoding, Floats]],
    names: Sequence[str],
    aggregation: str,
    ignore: frozenset[str],
) -> list[Tag]:
    """Tokens of a text, or of its windows, joined into spans of one label.

    Overlapping spans from different windows are resolved in favour of the longest, then the highest score.
    """
    found = []
    for encoding, logits in parts:
        pieces = _spans_of_labels(_tokens(tokenizer, text, encoding, softmax(logits)), names, aggregation)
        found += [piece for piece in pieces if piece.label not in ignore]
    if len(parts) > 1:
        found = _without_overlaps(found)
    return [Tag(label=p.label, score=p.score, text=text[p.start : p.end], start=p.start, end=p.end) for p in found]


def _tokens(tokenizer: Tokenizer, text: str, encoding: Encoding, scores: Any) -> list[_Token]:
    """The tokens of the text, with their probabilities and whether they continue a word."""
    found = []
    unk = tokenizer.unk_token_id
    for place, (start, end) in enumerate(encoding.offsets):
        if encoding.special[place]:
            continue
        index = encoding.ids[place]
        if index == unk:
            subword = False
        elif tokenizer.word_pieces:
            subword = len(tokenizer.id_to_token(index) or "") != end - start
        else:
            subword = start > 0 and " " not in text[start - 1 : start + 1]
        found.append(_Token(start, end, scores[place], subword))
    return found


def _spans_of_labels(items: Sequence[_Token], names: Sequence[str], aggregation: str) -> list[_Piece]:
    if aggregation in ("none", "simple"):
        pieces = [_piece(token.scores, names, token.start, token.end) for token in items]
    else:
        pieces = [_word(group, names, aggregation) for group in _words(items)]
    return pieces if aggregation == "none" else [_join(group) for group in _groups(pieces)]


def _without_overlaps(pieces: Sequence[_Piece]) -> list[_Piece]:
    found: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.start):
        if found and found[-1].start <= piece.start < found[-1].end:
            if (piece.end - piece.start, piece.score) > (found[-1].end - found[-1].start, found[-1].score):
                found[-1] = piece
        else:
            found.append(piece)
    return found


def _piece(scores: Any, names: Sequence[str], start: int, end: int) -> _Piece:
    index = int(scores.argmax())
    return _Piece(names[index], float(scores[index]), start, end)


def _words(items: Sequence[_Token]) -> list[list[_Token]]:
    words: list[list[_Token]] = []
    for token in items:
        if words and token.subword:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(group: Sequence[_Token], names: Sequence[str], aggregation: str) -> _Piece:
    if aggregation == "first":
        scores = group[0].scores
    elif aggregation == "max":
        scores = max(group, key=lambda token: float(token.scores.max())).scores
    else:
        scores = np.mean([token.scores for token in group], axis=0)
    return _piece(scores, names, group[0].start, group[-1].end)


def _split_label(label: str) -> tuple[str, str]:
    """Prefix and name: B-PER is ("B", "PER"); a label without a prefix counts as I."""
    return (label[0], label[2:]) if label[:2] in ("B-", "I-") else ("I", label)


def _groups(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    groups: list[list[_Piece]] = []
    for piece in pieces:
        prefix, name = _split_label(piece.label)
        if groups and prefix != "B" and _split_label(groups[-1][-1].label)[1] == name:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _join(group: Sequence[_Piece]) -> _Piece:
    label = group[0].label.split("-", 1)[-1]
    score = float(np.mean([piece.score for piece in group]))
    return _Piece(label, score, group[0].start, group[-1].end)
