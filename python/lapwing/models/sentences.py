"""Splits a text into sentences and joins their translations, for models that translate sentence by sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..results import Translation

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


def join(parts: Sequence[tuple[Translation, str]]) -> Translation:
    """One translation of translated sentences and the space behind each."""
    if not parts:
        return Translation(text="", ids=(), score=0.0, finish_reason="stop", hypotheses=())
    text = "".join(part.text + (space or "") for part, space in parts).strip()
    reasons = {part.finish_reason for part, _ in parts}
    logprobs = [part.logprobs for part, _ in parts if part.logprobs is not None]
    return Translation(
        text=text,
        ids=tuple(index for part, _ in parts for index in part.ids),
        score=float(np.mean([part.score for part, _ in parts])),
        finish_reason=next((reason for reason in ("time", "length") if reason in reasons), "stop"),
        hypotheses=(),
        prompt_tokens=sum(part.prompt_tokens for part, _ in parts),
        seconds=parts[0][0].seconds,
        logprobs=tuple(token for one in logprobs for token in one) if logprobs else None,
    )
