"""Long texts in overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ContextLengthError, OptionError
from ...progress import Callback
from ...tokenizer import Encoding
from ..arguments import whole
from ..heads import HeadModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


def split(
    encoding: Encoding, limit: int | None, stride: int | None, part: int = 0, side: str = "right"
) -> list[Encoding]:
    """Splits an encoding into windows of at most ``limit`` tokens that overlap by ``stride`` tokens of the
    text ``part``; each contains the special tokens and the other text. The last one is the shorter one, or the
    first one with the ``side`` "left"."""
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
    starts = [0]
    while starts[-1] + room < len(places):
        starts.append(starts[-1] + room - stride)
    spans = [(start, min(start + room, len(places))) for start in starts]
    if side == "left":
        spans = [(len(places) - last, len(places) - first) for first, last in reversed(spans)]
    found = []
    for first, last in spans:
        inside = set(places[first:last])
        found.append(encoding.select([i for i, s in enumerate(encoding.sequences) if s != part or i in inside]))
    return found


def read(
    model: HeadModel,
    texts: Sequence[Sequence[Encoding]],
    *,
    batch_tokens: int,
    progress: bool | Callback | None,
    what: str,
) -> list[list[tuple[Encoding, Floats]]]:
    """The windows of each text with the logits of the head, [tokens, outputs]."""
    flat = [window for windows in texts for window in windows]
    rows = iter(model._map(flat, len, model._head, batch_tokens=batch_tokens, progress=progress, what=what))
    return [[(window, next(rows)) for window in windows] for windows in texts]
