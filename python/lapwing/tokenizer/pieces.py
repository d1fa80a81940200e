"""The bytes that one token of a vocabulary stands for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from .sentencepiece import SPACE

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Writing:
    """How a vocabulary spells bytes and spaces, from the decoder of its tokenizer."""

    byte_level: bool = False
    byte_tokens: bool = False
    space: str = ""
    """What stands for a space."""
    continuing: str = ""
    """What marks a piece that continues a word; other pieces begin one."""

    @staticmethod
    def of(decoder: Any) -> Writing:
        """The writing of a decoder of the tokenizers library, or None."""
        if decoder is None:
            return Writing(space="")
        state = json.loads(decoder.__getstate__())
        steps = state["decoders"] if state.get("type") == "Sequence" else [state]
        kinds = {step.get("type"): step for step in steps}
        space = ""
        if "BPEDecoder" in kinds:
            space = str(kinds["BPEDecoder"].get("suffix", "</w>"))
        if "Metaspace" in kinds:
            space = str(kinds["Metaspace"].get("replacement", SPACE))
        for step in steps:
            if step.get("type") == "Replace" and step.get("content") == " ":
                space = str(step.get("pattern", {}).get("String", space))
        continuing = str(kinds["WordPiece"].get("prefix", "##")) if "WordPiece" in kinds else ""
        return Writing("ByteLevel" in kinds, "ByteFallback" in kinds, space, continuing)


@cache
def _alphabet() -> dict[str, int]:
    """The characters with which byte-level vocabularies spell bytes, as GPT-2 introduced them (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}


def to_bytes(piece: str, writing: Writing) -> bytes:
    """The bytes that a piece adds to a text."""
    if writing.byte_level:
        alphabet = _alphabet()
        if all(char in alphabet for char in piece):
            return bytes(alphabet[char] for char in piece)
        return piece.encode("utf-8", "replace")
    found = _BYTE.fullmatch(piece) if writing.byte_tokens else None
    if found:
        return bytes([int(found[1], 16)])
    if writing.continuing:
        piece = piece.removeprefix(writing.continuing) if piece.startswith(writing.continuing) else f" {piece}"
    elif writing.space:
        piece = piece.replace(writing.space, " ")
    return piece.encode("utf-8", "replace")
