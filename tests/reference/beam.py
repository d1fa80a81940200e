"""Beam search as transformers does it, for one prompt, from a function that gives logits of a whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def log_softmax(x: Array) -> Array:
    x = x.astype(np.float64) - x.max()
    return x - np.log(np.exp(x).sum())


def beam_search(
    logits: Callable[[list[int]], Array],
    prompt: Sequence[int],
    *,
    beams: int,
    ends: Sequence[int],
    max_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    margins: list[float] | None = None,
) -> list[tuple[list[int], float]]:
    """Hypotheses, best first: new ids and scores. ``logits(ids)`` are those after the last of the ids.

    ``margins`` receives the differences of scores that decided: smaller rounding errors cannot change the choice.
    """
    margins = [] if margins is None else margins
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    improvable = True
    for length in range(1, max_tokens + 1):
        found = []
        for score, ids in running:
            values = log_softmax(logits([*prompt, *ids]))
            found += [(score + value, [*ids, token]) for token, value in enumerate(values)]
        found.sort(key=lambda item: -item[0])
        width = beams * max(2, 1 + len(ends))
        margins += [a[0] - b[0] for a, b in pairwise(found[: width + 1])]
        found = found[:width]
        over = [ids[-1] in ends or length == max_tokens for _, ids in found]
        full = len(finished) == beams
        for (score, ids), ended in list(zip(found, over, strict=True))[:beams]:
            if ended and improvable and not (full and early_stopping is True):
                finished.append((score / length**length_penalty, ids))
        finished.sort(key=lambda item: -item[0])
        margins += [a[0] - b[0] for a, b in pairwise(finished)]
        finished = finished[:beams]
        running = [item for item, ended in zip(found, over, strict=True) if not ended][:beams]
        if not running:
            break
        reach = max_tokens if early_stopping == "never" and length_penalty > 0 else length
        best = running[0][0] / reach**length_penalty
        # An empty place counts as a hypothesis with a very low score.
        worst = finished[-1][0] if len(finished) == beams else -1e9
        margins.append(abs(best - worst))
        improvable = improvable and best > worst
        if not improvable or (len(finished) == beams and early_stopping is True):
            break
    return [(ids, score) for score, ids in finished]
