"""Splits a text into sentences, for models that translate sentence by sentence."""

from __future__ import annotations

import re

_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+(?=[\"'“‘«(\[]?[^\W_a-z])|(?<=[。！？])|\n+")
_ABBREVIATIONS = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|No|Nr|Fig|Abb|bzw|usw|ca|z|d|u|e|i)\.|\b[A-Z]\.|\d\.)$"
)


def split(text: str) -> list[tuple[str, str]]:
    """Sentences, each with the white space after it; concatenated, they are the stripped text.

    A sentence ends at . ! ? before white space and a capital letter, or at the end of a line, but not after
    an initial, a number or a common abbreviation.
    """
    text = text.strip()
    parts: list[tuple[str, str]] = []
    start = 0
    for found in _END.finditer(text):
        closing = len(found.group()) - len(found.group().lstrip("\"'”’»)]"))
        end = found.start() + closing
        body = text[start:end]
        if not body.strip():
            continue
        if _ABBREVIATIONS.search(body) and "\n" not in found.group():
            continue
        parts.append((body, text[end : found.end()]))
        start = found.end()
    if start < len(text):
        parts.append((text[start:], ""))
    return parts
