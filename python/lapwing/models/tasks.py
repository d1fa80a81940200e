"""Postprocessing of the heads' logits: labels, tags, answers, masks, ranks; as in transformers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint import read_object
from ..errors import ContextLengthError, OptionError, short_repr
from ..results import Answer, Classification, Fill, Label, Tag
from ..tokenizer import Encoding, Tokenizer
from .arguments import choice, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .pooling import EmbeddingPipeline

    Floats = NDArray[np.float32]

AGGREGATIONS = ("none", "simple", "first", "average", "max")


def softmax(x: Any) -> Any:
    """Probabilities over the last dimension, in float64."""
    wide = np.asarray(x, np.float64)
    wide = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return wide / wide.sum(axis=-1, keepdims=True)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) in float64, without overflow."""
    wide = np.asarray(x, np.float64)
    return np.where(
        wide >= 0,
        1 / (1 + np.exp(-np.abs(wide))),
        np.exp(-np.abs(wide)) / (1 + np.exp(-np.abs(wide))),
    )


def labels(config: Mapping[str, Any], count: int) -> list[str]:
    """Names of a head's outputs: config.json's id2label, else LABEL_0 and so on."""
    named = config.get("id2label")
    found = [f"LABEL_{index}" for index in range(count)]
    if isinstance(named, Mapping):
        for key, text in named.items():
            if str(key).isdigit() and int(key) < count:
                found[int(key)] = str(text)
    return found


# -- classification ------------------------------------------------------------------------------------


def score_function(config: Mapping[str, Any], name: str, count: int) -> str:
    """The function that converts logits to scores."""
    if choice("scores", name, ("auto", "softmax", "sigmoid", "none")) != "auto":
        return name
    kind = config.get("problem_type")
    if kind == "regression":
        return "none"
    if kind == "multi_label_classification" or count == 1:
        return "sigmoid"
    return "softmax"


def apply(row: Floats, how: str) -> Any:
    """Scores of one row of logits."""
    return softmax(row) if how == "softmax" else sigmoid(row) if how == "sigmoid" else np.asarray(row, np.float64)


def classification(row: Floats, names: Sequence[str], how: str, top_k: int | None = None) -> Classification:
    """The labels of one text, best first."""
    scores = apply(row, how)
    order = sorted(range(len(names)), key=lambda index: (-scores[index], index))[:top_k]
    ranked = tuple(Label(label=names[index], score=float(scores[index])) for index in order)
    return Classification(label=ranked[0].label, score=ranked[0].score, labels=ranked)


def rank_function(folder: Path, config: Mapping[str, Any], name: str) -> str:
    """The activation function of a cross-encoder: that of the call, that of its files, or the sigmoid."""
    if choice("scores", name, ("auto", "sigmoid", "none")) != "auto":
        return name
    inner = config.get("sentence_transformers")
    named = inner.get("activation_fn") if isinstance(inner, Mapping) else None
    named = named or read_object(folder / "config_sentence_transformers.json").get("activation_fn")
    named = named or config.get("sbert_ce_default_activation_function")
    name = str(named or "Sigmoid").rsplit(".", 1)[-1].removesuffix("()").lower()
    if name not in ("sigmoid", "identity"):
        raise OptionError(
            f"the checkpoint has the activation {short_repr(named)}, which is not supported: "
            "set scores to sigmoid or none"
        )
    return "none" if name == "identity" else "sigmoid"


def bi_scores(
    pipeline: EmbeddingPipeline,
    query: str,
    documents: list[str],
    query_prompt: str | None,
    document_prompt: str | None,
    **options: Any,
) -> list[float]:
    """Similarities of the embeddings of a query and of documents."""
    from .pooling import similarity

    known = pipeline.recipe.prompts

    def prompt(given: str | None, *names: str) -> dict[str, Any]:
        if given is not None:
            return {"prompt": given, "prompt_name": None}
        return {
            "prompt": None,
            "prompt_name": next((name for name in names if name in known), None),
        }

    rest: dict[str, Any] = {"normalize": None, "max_tokens": None, "truncate_dim": None, **options}
    left = pipeline.embed(query, **prompt(query_prompt, "query"), **{**rest, "progress": None})
    right = pipeline.embed(documents, **prompt(document_prompt, "document", "passage", "corpus"), **rest)
    return [float(score) for score in similarity(left, right, pipeline.recipe.similarity)]


# -- windows -------------------------------------------------------------------------------------------


def truncated(encoding: Encoding, limit: int) -> Encoding:
    """Truncates an encoding to ``limit`` tokens at the end of its longer text; special tokens are kept."""
    keep = [True] * len(encoding)
    lengths = {part: sum(1 for s in encoding.sequences if s == part) for part in (0, 1)}
    over = len(encoding) - limit
    cut = {0: 0, 1: 0}
    for _ in range(over):
        longer = 1 if lengths[1] - cut[1] >= lengths[0] - cut[0] and lengths[1] > cut[1] else 0
        cut[longer] += 1
    for part in (0, 1):
        places = [index for index, s in enumerate(encoding.sequences) if s == part]
        for index in places[len(places) - cut[part] :]:
            keep[index] = False
    if sum(keep) > limit:
        raise ContextLengthError(f"the special tokens alone exceed {limit} tokens")
    return _select(encoding, [index for index, flag in enumerate(keep) if flag])


def _select(encoding: Encoding, places: Sequence[int]) -> Encoding:
    return Encoding(
        [encoding.ids[i] for i in places],
        [encoding.type_ids[i] for i in places],
        [encoding.offsets[i] for i in places],
        [encoding.sequences[i] for i in places],
        [encoding.special[i] for i in places],
        [encoding.words[i] for i in places],
    )


def windows(encoding: Encoding, limit: int | None, stride: int | None, part: int = 0) -> list[Encoding]:
    """Splits an encoding into windows of at most ``limit`` tokens that overlap by ``stride`` tokens of the
    text ``part``; each contains the special tokens and the other text."""
    if limit is None or len(encoding) <= limit:
        return [encoding]
    if stride is None:
        raise ContextLengthError(
            f"a text has {len(encoding)} tokens: expected at most {limit}, the length of this model; "
            "set stride to read it in windows"
        )
    places = [index for index, s in enumerate(encoding.sequences) if s == part]
    others = len(encoding) - len(places)
    room = limit - others
    if whole("stride", stride, 0) >= room:
        raise OptionError(
            f"stride is {stride}: expected 0 to {room - 1}, since {room} tokens of the text fit into a window"
        )
    found = []
    start = 0
    while True:
        inside = set(places[start : start + room])
        found.append(_select(encoding, [i for i, s in enumerate(encoding.sequences) if s != part or i in inside]))
        if start + room >= len(places):
            return found
        start += room - stride


# -- tags ----------------------------------------------------------------------------------------------


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


def check_aggregation(name: str) -> None:
    """Raises OptionError for an unknown aggregation."""
    choice("aggregation", name, AGGREGATIONS)


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


# -- answers -------------------------------------------------------------------------------------------


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
        return windows(encoding, self._window, stride, part=1)

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


# -- masks ---------------------------------------------------------------------------------------------


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
) -> list[Fill] | list[list[Fill]]:
    """Candidates for each mask of one text."""
    places = [index for index, value in enumerate(ids) if value == mask_id]
    found: list[list[Fill]] = []
    for place in places:
        scores = softmax(logits[place])
        candidates = range(len(scores)) if targets is None else list(dict.fromkeys(targets))
        ranked = sorted(candidates, key=lambda index: (-scores[index], index))[:top_k]
        row = []
        for index in ranked:
            whole = [*ids[:place], index, *ids[place + 1 :]]
            row.append(
                Fill(
                    token=tokenizer.decode([index]),
                    id=index,
                    score=float(scores[index]),
                    text=tokenizer.decode(whole, skip_special_tokens=len(places) == 1),
                )
            )
        found.append(row)
    return found[0] if len(found) == 1 else found
