"""Late interaction (ColBERT): how queries and documents become tokens whose vectors are compared one by one.

Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, short_repr
from .json_file import read_object


@dataclass(frozen=True)
class LateInteraction:
    """How texts are prepared.

    Attributes:
        query_marker: token put after the first one of a query; None if a prompt marks it, or nothing.
        document_marker: the same of a document.
        query_length: maximum number of tokens of a query; expansion fills queries up to it.
        document_length: the same of documents.
        expansion: queries are filled up with mask tokens, which nothing attends to unless ``attend``.
        skipped: tokens of documents that have no vector.
    """

    query_marker: str | None = None
    document_marker: str | None = None
    query_length: int | None = None
    document_length: int | None = None
    expansion: bool = False
    attend: bool = False
    skipped: tuple[str, ...] = ()


def of_modules(mask: Path | None, transformer: Path) -> LateInteraction:
    """As sentence-transformers saves it: in the transformer's settings and those of MultiVectorMask."""
    path = transformer / "sentence_bert_config.json"
    settings = read_object(path)
    expansion = settings.get("query_expansion")
    if expansion is not None and (not isinstance(expansion, dict) or expansion.get("strategy", "fixed") != "fixed"):
        raise CheckpointError(f'{path} has query_expansion {short_repr(expansion)}: expected the strategy "fixed"')
    if expansion and expansion.get("token") is not None:
        raise CheckpointError(f"{path} names the token of query_expansion, which is not supported: expected null")
    skipped = read_object(mask / "config.json") if mask is not None else {}
    if skipped.get("keep_only_token_ids") or skipped.get("skiplist_tasks", ["document"]) not in (
        ["document"],
        "document",
    ):
        raise CheckpointError(f"{mask} keeps some tokens only, or skips tokens of queries, which is not supported")
    words = skipped.get("skiplist_words") or []
    return LateInteraction(
        query_length=_length(path, expansion.get("length") if expansion else settings.get("query_length")),
        document_length=_length(path, settings.get("document_length")),
        expansion=bool(expansion),
        attend=bool(expansion and expansion.get("attend", False)),
        skipped=tuple(map(str, words)),
    )


def of_pylate(settings: Mapping[str, Any], path: Path) -> LateInteraction:
    """As pylate saves it, in config_sentence_transformers.json."""
    words = settings.get("skiplist_words")
    return LateInteraction(
        query_marker=str(settings.get("query_prefix") or "[Q] "),
        document_marker=str(settings.get("document_prefix") or "[D] "),
        query_length=_length(path, settings.get("query_length") or 32),
        document_length=_length(path, settings.get("document_length") or 180),
        expansion=bool(settings.get("do_query_expansion", True)),
        attend=bool(settings.get("attend_to_expansion_tokens", False)),
        skipped=tuple(string.punctuation) if words is None else tuple(map(str, words)),
    )


def of_stanford(path: Path) -> LateInteraction:
    """As the ColBERT repository saves it, in artifact.metadata."""
    settings = read_object(path)
    return LateInteraction(
        query_marker=str(settings.get("query_token_id") or "[unused0]"),
        document_marker=str(settings.get("doc_token_id") or "[unused1]"),
        query_length=_length(path, settings.get("query_maxlen") or 32),
        document_length=_length(path, settings.get("doc_maxlen") or 220),
        expansion=True,
        attend=bool(settings.get("attend_to_mask_tokens", False)),
        skipped=tuple(string.punctuation) if settings.get("mask_punctuation", True) else (),
    )


def _length(path: Path, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 2 < value < 1 << 20:
        raise CheckpointError(f"{path} has the length {short_repr(value)}: expected a whole number from 3")
    return value
