"""Contributions of inputs to a function, without gradients.

A coalition is the set of inputs ("players") that are kept; the others are removed. The function maps coalitions, bool
[n, players], to values, float64 [n, targets].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Evaluate = Callable[[NDArray[np.bool_]], Values]

COALITION_BYTES = 4 << 20
"""Bound of the coalitions in memory."""


@dataclass(frozen=True)
class Attribution:
    """Contributions, float64 [targets, players]; the values [targets] of all players and of none (None if not
    computed); and the standard errors [players] of the contributions to the sum of all targets (None if they are exact,
    or if there is a single pair of samples)."""

    contributions: Values
    value: Values
    baseline: Values | None = None
    errors: Values | None = None


def evaluations(method: str, players: int, samples: int) -> int:
    """The number of coalitions that a method evaluates."""
    if method == "occlusion":
        return players + 1
    return 1 << players if is_exact(players, samples) else samples * (players - 1) + 2


def is_exact(players: int, samples: int) -> bool:
    """Whether all coalitions cost no more than the samples."""
    return players < 31 and 1 << players <= samples * (players - 1) + 2


def occlusion(evaluate: Evaluate, players: int) -> Attribution:
    """The value lost by removing one player (leave-one-out; Zeiler & Fergus 2014,
    <https://arxiv.org/abs/1311.2901>)."""
    value = evaluate(np.ones((1, players), bool))[0]
    lost = [value - rows for rows in _blocks(evaluate, players, players, lambda places: _all_but(places, players))]
    return Attribution(np.concatenate(lost).T, value)


def _all_but(places: NDArray[np.int64], players: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = places[:, None] != np.arange(players)[None, :]
    return found


def shapley(evaluate: Evaluate, players: int, samples: int, seed: int) -> Attribution:
    """Shapley values: the mean contribution of a player over the orders in which players can join.

    All coalitions are evaluated if they are no more than the samples need. Otherwise ``samples`` orders are drawn
    (Castro et al. 2009, <https://doi.org/10.1016/j.cor.2008.04.004>), each second one the reverse of the one before
    (antithetic sampling, Mitchell et al. 2022, <https://arxiv.org/abs/2104.12199>). Either way the contributions of all
    players sum to the value of all minus the value of none, since those of each order do.
    """
    baseline, value = evaluate(np.array([[False] * players, [True] * players]))
    if is_exact(players, samples):
        return Attribution(_exact(evaluate, players, baseline, value), value, baseline)
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(samples // 2):
        order = rng.permutation(players)
        ways = [_walk(evaluate, order, baseline, value), _walk(evaluate, order[::-1], baseline, value)]
        pairs.append((ways[0] + ways[1]) / 2)
    mean = sum(pairs[1:], pairs[0]) / len(pairs)
    errors = None
    if len(pairs) > 1:
        errors = np.std([pair.sum(axis=0) for pair in pairs], axis=0, ddof=1) / math.sqrt(len(pairs))
    return Attribution(mean, value, baseline, errors)


def _walk(evaluate: Evaluate, order: NDArray[np.int64], baseline: Values, value: Values) -> Values:
    """The contributions [targets, players] as the players join in one order."""
    players = len(order)
    rank = np.argsort(order)
    between = _blocks(evaluate, players - 1, players, lambda sizes: rank[None, :] <= sizes[:, None])
    steps: Values = np.diff(np.concatenate([baseline[None], *between, value[None]]), axis=0)
    found: Values = np.empty((steps.shape[1], players))
    found[:, order] = steps.T
    return found


def _exact(evaluate: Evaluate, players: int, baseline: Values, value: Values) -> Values:
    """The contributions [targets, players] from the values of all coalitions."""
    total = 1 << players
    bits = np.arange(players)
    inner = _blocks(evaluate, total - 2, players, lambda places: (places[:, None] + 1 >> bits & 1).astype(bool))
    values = np.concatenate([baseline[None], *inner, value[None]])
    sets = np.arange(total)
    sizes = np.array([place.bit_count() for place in range(total)])
    weights = [1 / (players * math.comb(players - 1, size)) for size in range(players)]
    found = []
    for player in range(players):
        without = sets[sets >> player & 1 == 0]
        gains = values[without | 1 << player] - values[without]
        found.append(np.array(weights)[sizes[without]] @ gains)
    return np.stack(found, axis=1)


def _blocks(evaluate: Evaluate, count: int, players: int, coalitions: Callable[[Any], Any]) -> list[Values]:
    """The values of coalitions 0 to ``count``, evaluated in bounded blocks."""
    size = max(1, COALITION_BYTES // max(1, players))
    return [evaluate(coalitions(np.arange(at, min(at + size, count)))) for at in range(0, count, size)]


def rollout(layers: Iterable[NDArray[np.float32]], tokens: int) -> Values:
    """Attention rollout (Abnar & Zuidema 2020, <https://arxiv.org/abs/2005.00928>): the share of each input token
    [tokens, tokens] in each final state, from the attention probabilities [heads, tokens, tokens] of the layers.

    A layer is taken to be the mean of its heads, mixed half and half with the residual. Rows sum to 1.
    """
    found = np.eye(tokens)
    for probabilities in layers:
        found = (found + mean_of_heads(probabilities) @ found) / 2
    return found


def mean_of_heads(probabilities: NDArray[np.float32]) -> Values:
    """The mean over the heads, [queries, keys], whose rows sum to 1."""
    mean = probabilities.mean(axis=0, dtype=np.float64)
    found: Values = mean / mean.sum(axis=1, keepdims=True)
    return found
