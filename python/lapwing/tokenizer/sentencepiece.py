"""Reads a SentencePiece model (``.spm``, ``.model``) and converts it to the format of ``tokenizer.json``.

The file is a protobuf message; the reader below parses only the few fields that matter. It supports unigram
and BPE, with byte fallback and the precompiled normalization map.
Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

SPACE = "\u2581"
"""The character (lower one eighth block) that represents a space inside pieces."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2

MAX_PIECES = 4_000_000
"""Bound of the vocabulary, far above any known model, so that a damaged file cannot exhaust memory."""


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: int


@dataclass
class SentencePieceModel:
    """The fields of a model file that affect tokenization."""

    pieces: list[Piece] = field(default_factory=list)
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    unk_surface: str = " \u2047 "
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    whitespace_as_suffix: bool = False

    def unk_piece(self) -> str:
        return self.pieces[self.unk_id].text


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number extends past the end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The (field number, value) pairs of one protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire == 1:
            size = 8
        elif wire == 5:
            size = 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("a field extends past the end")
        yield number, data[at : at + size]
        at += size


def _signed(value: int | bytes) -> int:
    """An int32 field: negative numbers are encoded as 64-bit two's complement."""
    if isinstance(value, bytes):
        raise ValueError("a number was expected")
    return value - (1 << 64) if value >= 1 << 63 else value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a string was expected")
    return value


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value).decode("utf-8")
        elif number == 2:
            score = float(struct.unpack("<f", _bytes(value))[0])
        elif number == 3:
            kind = _signed(value)
    if score != score:
        raise ValueError(f"piece {text!r} has a score that is not a number")
    return Piece(text, score, kind)


class CharacterMap:
    """The precompiled normalization: a trie from UTF-8 strings to replacements, longest match first.

    The trie is a double array of 32-bit units (Darts-clone); the zero-terminated replacements follow it.
    """

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 or size > len(data) - 4 or size % 4 or size == 0:
            raise ValueError("the character map is damaged")
        self._units = struct.unpack(f"<{size // 4}I", data[4 : 4 + size])
        self._texts = data[4 + size :]
        # Fast path: printable ASCII is its own normal form in every published map.
        self._ascii_is_plain = all(self._match(bytes([code]), 0) is None for code in range(32, 127))

    def _match(self, data: bytes, start: int) -> tuple[int, int] | None:
        """Length of the longest prefix of ``data[start:]`` in the trie, and the offset of its replacement."""
        units = self._units
        found = None
        node = self._offset(units[0])
        for at in range(start, len(data)):
            byte = data[at]
            node ^= byte
            if node >= len(units):
                break
            unit = units[node]
            if unit & 0x800000FF != byte:
                break
            node ^= self._offset(unit)
            if unit >> 8 & 1:
                if node >= len(units):
                    break
                found = (at + 1 - start, units[node] & 0x7FFFFFFF)
        return found

    @staticmethod
    def _offset(unit: int) -> int:
        return unit >> 10 << ((unit & (1 << 9)) >> 6)

    def normalize(self, text: str) -> tuple[str, list[int]]:
        """The normal form, and the position in ``text`` of each of its characters (and of the end)."""
        if self._ascii_is_plain and text.isascii() and text.isprintable():
            return text, list(range(len(text) + 1))
        data = text.encode("utf-8")
        places = [index for index, char in enumerate(text) for _ in range(len(char.encode("utf-8")))]
        out: list[str] = []
        origins: list[int] = []
        at = 0
        while at < len(data):
            found = self._match(data, at)
            if found is None:
                part = text[places[at]]
                size = len(part.encode("utf-8"))
            else:
                size, begin = found
                end = self._texts.find(b"\0", begin)
                if begin > len(self._texts) or end < 0:
                    raise ValueError("the character map is damaged")
                part = self._texts[begin:end].decode("utf-8", "replace")
            out.append(part)
            origins += [places[at]] * len(part)
            at += size
        return "".join(out), [*origins, len(text)]


def read(path: Path) -> SentencePieceModel:
    """Reads a model file.

    Raises:
        CheckpointError: the file is not a SentencePiece model, or uses an algorithm other than unigram or
            BPE.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1:
                if len(model.pieces) >= MAX_PIECES:
                    raise ValueError(f"more than {MAX_PIECES} pieces")
                model.pieces.append(_piece(_bytes(value)))
            elif number == 2:
                _trainer(model, _bytes(value))
            elif number == 3:
                _normalizer(model, _bytes(value))
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a SentencePiece model: {error}") from error
    if model.algorithm not in (UNIGRAM, BPE):
        names = {3: "word", 4: "char"}
        found = names.get(model.algorithm, str(model.algorithm))
        raise CheckpointError(
            f"{path} uses the algorithm {found}: expected unigram or BPE; "
            "a tokenizer.json next to it would be used instead"
        )
    if not 0 <= model.unk_id < len(model.pieces):
        raise CheckpointError(f"{path} has the unknown piece {model.unk_id}, but only {len(model.pieces)} pieces")
    return model


def _trainer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 3:
            model.algorithm = _signed(value)
        elif number == 24:
            model.whitespace_as_suffix = bool(_signed(value))
        elif number == 35:
            model.byte_fallback = bool(_signed(value))
        elif number == 40:
            model.unk_id = _signed(value)
        elif number == 41:
            model.bos_id = _signed(value)
        elif number == 42:
            model.eos_id = _signed(value)
        elif number == 43:
            model.pad_id = _signed(value)
        elif number == 44:
            model.unk_surface = _bytes(value).decode("utf-8")


def _normalizer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2:
            model.charsmap = _bytes(value)
        elif number == 3:
            model.add_dummy_prefix = bool(_signed(value))
        elif number == 4:
            model.remove_extra_whitespaces = bool(_signed(value))
        elif number == 5:
            model.escape_whitespaces = bool(_signed(value))


def merges(vocab: dict[str, int], pieces: list[Piece]) -> list[list[str]]:
    """The merge list of a BPE model, which stores only its pieces: better scores merge first; ties between
    the splits of a piece are resolved in favour of smaller ids."""
    found: list[tuple[float, int, int, int, str, str]] = []
    for piece in pieces:
        if piece.kind not in (NORMAL, USER_DEFINED):
            continue
        text = piece.text
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocab and right in vocab:
                found.append((-piece.score, vocab[text], vocab[left], vocab[right], left, right))
    found.sort()
    return [[left, right] for *_, left, right in found]


def model_json(
    model: SentencePieceModel, pieces: list[Piece], unk_id: int, *, hide_special: bool = False
) -> dict[str, Any]:
    """The ``model`` part of a tokenizer.json for ``pieces`` (those of the file, or reordered by a family).

    Unused pieces, and with ``hide_special`` control and unknown ones too, get names that do not occur in
    text: they keep their ids and never match.
    """
    hidden = {UNUSED} | ({CONTROL, UNKNOWN} if hide_special else set())
    names = [
        f"\ufdd0{piece.text}\ufdd0{index}" if piece.kind in hidden and index != unk_id else piece.text
        for index, piece in enumerate(pieces)
    ]
    if hide_special:
        names[unk_id] = f"\ufdd0{pieces[unk_id].text}"
    if model.algorithm == UNIGRAM:
        return {
            "type": "Unigram",
            "unk_id": unk_id,
            "vocab": [[name, piece.score] for name, piece in zip(names, pieces, strict=True)],
            "byte_fallback": model.byte_fallback,
        }
    vocab: dict[str, int] = {}
    for index, name in enumerate(names):
        vocab.setdefault(name, index)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": names[unk_id],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges(vocab, pieces),
    }


def normalizer_json(model: SentencePieceModel, *, prefix: bool) -> dict[str, Any] | None:
    """The ``normalizer`` part: the character map of the file, then its rules for spaces.

    With ``prefix``, the normalizer adds the space before the first word, in each span between special tokens;
    otherwise a pre-tokenizer adds it.
    """
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if prefix:
        if model.add_dummy_prefix:
            steps.append({"type": "Prepend", "prepend": SPACE})
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    if not steps:
        return None
    return {"type": "Sequence", "normalizers": steps}


def pre_tokenizer_json(model: SentencePieceModel) -> dict[str, Any]:
    """The ``pre_tokenizer`` part that adds a space before the first word of the text only. It does not split,
    since pieces may span spaces."""
    return {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "first" if model.add_dummy_prefix else "never",
        "split": False,
    }


def decoder_json(model: SentencePieceModel) -> dict[str, Any]:
    """The ``decoder`` part."""
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
    ]
    if model.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
