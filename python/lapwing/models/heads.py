"""What the tasks of an encoder share: texts as tokens that fit, and the outputs of its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..architectures import family, task_of
from ..errors import ContextLengthError, OptionError
from ..tokenizer import Encoding
from .arguments import id_lists
from .base import BaseModel, IdList, ragged, split_rows
from .generation_config import id_list

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TextOrPair = str | tuple[str, str]


class HeadModel(BaseModel):
    """A model with a task head, a pooler, or the hidden states alone."""

    @property
    def _stack(self) -> Any:
        return self.spec.encoder or self.spec.decoder

    @property
    def _outputs(self) -> int:
        head = self.spec.head
        return 0 if head is None else head.output_width(0)

    def _require_head(self, where: str, *, per_token: bool) -> None:
        head = self.spec.head
        if head is None:
            raise OptionError(
                f"{self._parts.identity} ({self._parts.architecture}) has no task head: {where} needs one"
            )
        if (not head.pool) != per_token:
            kind = "whole texts" if head.pool else "each token"
            raise OptionError(
                f"the head of {self._parts.identity} is for {kind}: it does not support {where}, but {self._head_task()}"
            )
        other = {"tag": "question-answering", "answer": "token-classification"}.get(where)
        if other is not None and task_of(self.config) == other and self._parts.task is None:
            raise OptionError(f"the head of {self._parts.identity} is for {other}: use {self._head_task()}")

    def _head_task(self) -> str:
        """The method that reads the head."""
        if self.spec.head is not None and self.spec.head.pool:
            return "rank" if self._outputs == 1 else "classify"
        return "answer" if task_of(self.config) == "question-answering" else "tag"

    def _bound(self) -> int | None:
        """The length to which texts are truncated: that of the model, or the tokenizer's if it is less."""
        bounds = [bound for bound in (self.max_length, self.tokenizer.max_length) if bound is not None]
        return min(bounds, default=None)

    def _encode(self, item: TextOrPair, truncate: bool = False) -> Encoding:
        text, pair = (item, None) if isinstance(item, str) else item
        encoding = self.tokenizer.encoding(text, pair)
        limit = self._bound() if truncate else self.max_length
        if not encoding.ids:
            raise OptionError("a text is empty and the tokenizer adds no special tokens: expected some text")
        if limit is not None and len(encoding) > limit:
            if not truncate:
                raise ContextLengthError(
                    f"a text has {len(encoding)} tokens: expected at most {limit}, the length of this model; "
                    "truncate=True shortens it, if the method has that option"
                )
            encoding = encoding.truncated(limit, self.tokenizer.truncation_side)
        return encoding

    def _arrays(self, batch: Sequence[Encoding]) -> tuple[Any, Any, Any]:
        flat, starts = ragged([encoding.ids for encoding in batch])
        stack = self._stack
        segments = None
        if stack is not None and stack.stem.segments > 1:
            segments = ragged([encoding.type_ids for encoding in batch])[0]
        return flat, starts, segments

    def _head(self, batch: Sequence[Encoding]) -> list[Floats]:
        return self._read_head([encoding.ids for encoding in batch], self._arrays(batch)[2])

    def _read_head(self, ids: Sequence[IdList], segments: Any) -> list[Floats]:
        head, padding = self.spec.head, self.config.get("pad_token_id")
        assert head is not None  # checked by every caller
        if head.pool == ("last",) and segments is None:
            # The head reads the last token that is not padding.
            ids = [one[: _content(one, padding)] for one in ids]
        flat, starts = ragged(ids)
        if self.spec.encoder is None or self.spec.decoder is None:
            found = self.core.head(flat, starts, segments)
        else:
            targets, ends = ragged([self._target(one, whole=not head.pool) for one in ids])
            found = self.core.decoder_head(flat, starts, targets, ends)
        return list(found) if head.pool else split_rows(found, starts)

    def _target(self, ids: IdList, whole: bool) -> list[int]:
        """The decoder's input for an encoder-decoder: its start token and the text without the last token.

        A text-level head reads the state at the last end token, which later tokens cannot change.
        """
        ends = id_list(self.config.get("eos_token_id"), "eos_token_id")
        max_id = self.spec.decoder.stem.vocab_size - 1 if self.spec.decoder is not None else 0
        start = self.config.optional_size("decoder_start_token_id", minimum=0, maximum=max_id)
        if start is None or family(self.config).head_start == "last token":
            start = ids[-1]
        length = len(ids)
        if not whole:
            places = [place for place, token in enumerate(ids, 1) if token in ends]
            if not places:
                raise OptionError(f"ids have no end token {ends}, whose state the head reads: expected one")
            length = places[-1]
        return [start, *ids[: length - 1]]

    def _lists(self, ids: Any, segment_ids: Any) -> tuple[Any, Any, Any]:
        lists, _ = id_lists(ids)
        return self._checked(lists, None if segment_ids is None else id_lists(segment_ids, "segment_ids")[0])

    def _checked(self, lists: Sequence[Any], segment_lists: Sequence[Any] | None) -> tuple[Any, Any, Any]:
        """Concatenated ids, sequence offsets, and segments if the model has any."""
        stack = self._stack
        checked = [self._check_ids(sequence, stack.stem.vocab_size, self.max_length) for sequence in lists]
        flat, starts = ragged(checked)
        if segment_lists is None:
            return flat, starts, None
        kinds = [self._check_ids(part, max(stack.stem.segments, 1), None, "segment_ids") for part in segment_lists]
        if [len(part) for part in kinds] != [len(part) for part in checked]:
            raise OptionError("segment_ids and ids differ in length: expected one segment per token")
        return flat, starts, ragged(kinds)[0] if stack.stem.segments else None


def labels(config: Mapping[str, Any], count: int) -> list[str]:
    """Names of a head's outputs: config.json's id2label, else LABEL_0 and so on."""
    named = config.get("id2label")
    found = [f"LABEL_{index}" for index in range(count)]
    if isinstance(named, Mapping):
        for key, text in named.items():
            if str(key).isdigit() and int(key) < count:
                found[int(key)] = str(text)
    return found


def _content(ids: IdList, padding: Any) -> int:
    """The length of a sequence without trailing padding, at least 1."""
    length = len(ids)
    while length > 1 and ids[length - 1] == padding:
        length -= 1
    return length
