"""Incremental decoding of a stream of ids into complete characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_CONTEXT = 8
"""Tokens before the new ones that are decoded again, so that spaces and merges equal those of the whole
text."""
_CLEAN_TAIL = 4
"""Length of the longest pattern of `clean_up`."""


class StreamDecoder:
    """Decodes ids incrementally; the concatenated texts of all calls equal the decoding of all ids.

    Text is held back while its end may still change: an incomplete UTF-8 character, a run of byte tokens
    (which the next token determines), a space that `clean_up` may still remove.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        token: Callable[[int], str | None],
        skip: frozenset[int] = frozenset(),
        clean_up: bool = False,
    ) -> None:
        self._decode = decode
        self._token = token
        self._skip = skip
        self._clean_up = clean_up
        self._ids: list[int] = []
        self._window = 0
        self._read = 0
        self._shown = 0
        self._text = ""

    def push(self, ids: Sequence[int]) -> str:
        """Takes new ids and returns the text that is now final."""
        if not ids:
            return ""
        self._ids.extend(ids)
        if self._clean_up:
            self._text = self._decode(self._ids)
            return self._show(len(self._text) - _CLEAN_TAIL)
        # Skipped tokens do not end a run of byte tokens.
        last = next((index for index in reversed(self._ids) if index not in self._skip), None)
        if last is None or self._is_byte(last):
            return ""
        before = self._decode(self._ids[self._window : self._read])
        now = self._decode(self._ids[self._window :])
        if now.endswith("\ufffd") or not now.startswith(before):
            return ""
        self._text += now[len(before) :]
        self._read = len(self._ids)
        start = max(self._window, self._read - _CONTEXT)
        # A window that decodes to the empty string would count as the start of the text.
        if start > self._window and self._settled(start):
            self._window = start
        return self._show(len(self._text))

    def finish(self) -> str:
        """The text still held back; call it once, after the last ids."""
        whole = self._decode(self._ids)
        shown = self._shown
        self._text = whole
        self._shown = len(whole)
        return whole[shown:]

    def _settled(self, start: int) -> bool:
        if self._ids[start] in self._skip or self._is_byte(self._ids[start]):
            return False
        text = self._decode(self._ids[start : self._read])
        return text.strip() != "" and not text.startswith("\ufffd")

    def _is_byte(self, index: int) -> bool:
        token = self._token(index)
        return token is not None and _BYTE_TOKEN.fullmatch(token) is not None

    def _show(self, end: int) -> str:
        if end <= self._shown:
            return ""
        out = self._text[self._shown : end]
        self._shown = end
        return out
