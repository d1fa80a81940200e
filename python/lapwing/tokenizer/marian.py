"""Marian's tokenizer: pieces from ``source.spm`` or ``target.spm``, ids from ``vocab.json``.

Special tokens spelled out in a text stay text. A prefix such as ``>>fra<<`` is one token if the vocabulary
has it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import read_object
from ..errors import CheckpointError, short_repr
from . import sentencepiece
from .encoding import Encoding
from .files import guarded


class Marian:
    """The backend of a folder with ``source.spm``, ``target.spm`` and ``vocab.json``."""

    def __init__(self, folder: Path, config: dict[str, Any], specials: dict[str, str]) -> None:
        specials.setdefault("eos_token", "</s>")
        specials.setdefault("unk_token", "<unk>")
        specials.setdefault("pad_token", "<pad>")
        self._source = _Pieces(folder / "source.spm")
        self._target = _Pieces(folder / "target.spm")
        self._ids = _vocabulary(folder / "vocab.json")
        target_ids = folder / str(config.get("target_vocab_file") or "target_vocab.json")
        self._target_ids = _vocabulary(target_ids) if config.get("separate_vocabs") else self._ids
        self._texts = {index: text for text, index in self._target_ids.items()}
        self._specials = specials
        for name in ("unk_token", "eos_token"):
            if specials[name] not in self._ids:
                raise CheckpointError(f"{folder / 'vocab.json'} lacks the {name} {specials[name]!r}")
        self._unk_id = self._ids[specials["unk_token"]]
        self._eos_id = self._ids[specials["eos_token"]]
        self.special_ids = frozenset(self._target_ids[text] for text in specials.values() if text in self._target_ids)

    def encode(self, text: str, pair: str | None, add_special_tokens: bool, target: bool = False) -> Encoding:
        """Ids of a source text (with ``target``, of a target text), with the end token last."""
        if pair is not None:
            raise CheckpointError("this tokenizer does not support pairs of texts")
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        vocab = self._target_ids if target else self._ids
        start = 0
        if text.startswith(">>") and "<<" in text:
            end = text.index("<<") + 2
            if text[:end] in vocab:
                ids.append(vocab[text[:end]])
                offsets.append((0, end))
                start = end
        pieces = (self._target if target else self._source).cut(text[start:])
        for piece, (first, last) in pieces:
            ids.append(vocab.get(piece, self._unk_id))
            offsets.append((start + first, start + last))
        special = [0] * len(ids)
        if add_special_tokens:
            ids.append(self._eos_id)
            offsets.append((0, 0))
            special.append(1)
        sequence: list[int | None] = [None if flag else 0 for flag in special]
        return Encoding(ids, [0] * len(ids), offsets, sequence, special, [None] * len(ids))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of target ids."""
        parts: list[str] = []
        run: list[str] = []
        for index in ids:
            text = self._texts.get(index, self._specials["unk_token"])
            if text not in self._specials.values() or (text == self._specials["unk_token"] and not skip_special_tokens):
                run.append(text)
                continue
            parts.append(self._target.join(run))
            run = []
            if not skip_special_tokens:
                parts.append(f"{text} ")
        parts.append(self._target.join(run))
        return "".join(parts).replace(sentencepiece.SPACE, " ").strip()

    def decode_pieces(self, ids: Sequence[int]) -> str:
        """The text of target ids according to the SentencePiece model alone."""
        return self._target.join([self._texts.get(index, "<unk>") for index in ids])

    def token_to_id(self, text: str) -> int | None:
        return self._target_ids.get(text, self._ids.get(text))

    def id_to_token(self, index: int) -> str | None:
        return self._texts.get(index)

    def vocab_size(self) -> int:
        return max(len(self._ids), len(self._target_ids))

    def vocab(self) -> dict[str, int]:
        return dict(self._ids)


def _vocabulary(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: expected the ids of the pieces, next to source.spm")
    vocab = read_object(path)
    for text, index in vocab.items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 1 << 31:
            raise CheckpointError(f"{path} maps {text!r} to the id {short_repr(index)}: expected a number from 0")
    return vocab


class _Pieces:
    """One SentencePiece model: text to pieces with offsets, and pieces to text."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Backend

        self._path = path
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: expected source.spm and target.spm")
        model = sentencepiece.read(path)
        try:
            self._map = sentencepiece.CharacterMap(model.charsmap) if model.charsmap else None
        except ValueError as error:
            raise CheckpointError(f"{path} is not a SentencePiece model: {error}") from error
        # Both are applied in `cut`, exactly: the library works on grapheme clusters and strips all white
        # space.
        model.charsmap = b""
        self._squeeze = model.remove_extra_whitespaces
        model.remove_extra_whitespaces = False
        description: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": sentencepiece.normalizer_json(model, prefix=True),
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": None,
            "model": sentencepiece.model_json(model, model.pieces, model.unk_id, hide_special=True),
        }
        text = json.dumps(description)
        self._backend = guarded(f"{path} cannot be used", lambda: Backend.from_str(text))
        self._model = model
        self._kinds = {piece.text: piece.kind for piece in model.pieces}

    def cut(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        if self._map is not None:
            try:
                normal, origins = self._map.normalize(text)
            except ValueError as error:
                raise CheckpointError(f"{self._path}: {error}") from error
        else:
            normal, origins = text, list(range(len(text) + 1))
        if self._squeeze:
            normal, origins = _squeeze(normal, origins)
        encoding = guarded(
            "the text cannot be encoded",
            lambda: self._backend.encode(normal, add_special_tokens=False),
        )
        pieces = self._model.pieces
        unk = self._model.unk_id
        return [
            (
                normal[first:last] if index == unk else pieces[index].text,
                (origins[first], origins[last]),
            )
            for index, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def join(self, pieces: list[str]) -> str:
        """Concatenates pieces; unknown ones are kept, and one leading space is removed."""
        out: list[str] = []
        for piece in pieces:
            kind = self._kinds.get(piece, sentencepiece.UNKNOWN)
            if kind == sentencepiece.CONTROL:
                continue
            if kind == sentencepiece.UNKNOWN:
                out.append(self._model.unk_surface if piece == self._model.unk_piece() else piece)
                continue
            if not out and self._model.add_dummy_prefix and piece.startswith(sentencepiece.SPACE):
                piece = piece[1:]
            out.append(piece.replace(sentencepiece.SPACE, " "))
        return "".join(out)


def _squeeze(text: str, origins: list[int]) -> tuple[str, list[int]]:
    """Strips spaces at the ends and collapses them between words."""
    if text == text.strip(" ") and "  " not in text:
        return text, origins
    keep = [index for index, char in enumerate(text) if char != " " or (index > 0 and text[index - 1] != " ")]
    while keep and text[keep[-1]] == " ":
        keep.pop()
    return "".join(text[index] for index in keep), [
        *(origins[index] for index in keep),
        origins[-1],
    ]
