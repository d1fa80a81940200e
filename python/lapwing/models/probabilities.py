"""Probabilities of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def softmax(x: Any) -> Any:
    """Probabilities over the last dimension, in float64."""
    wide = np.asarray(x, np.float64)
    wide = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return wide / wide.sum(axis=-1, keepdims=True)


def log_softmax(x: Any) -> Any:
    """Log-probabilities over the last dimension, in float64."""
    wide = np.asarray(x, np.float64)
    return wide - _log_sum_exp(wide)[..., None]


def logprobs_of(rows: Any, targets: Sequence[int]) -> Any:
    """The log-probability of a target for each row of logits, in float64, row by row: it does not depend on the
    batch."""
    wide = np.asarray(rows, np.float64)
    return wide[np.arange(len(wide)), list(targets)] - _log_sum_exp(wide)


def _log_sum_exp(wide: Any) -> Any:
    top = wide.max(axis=-1)
    return top + np.log(np.exp(wide - top[..., None]).sum(axis=-1))


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) in float64, without overflow."""
    wide = np.asarray(x, np.float64)
    return np.where(
        wide >= 0,
        1 / (1 + np.exp(-np.abs(wide))),
        np.exp(-np.abs(wide)) / (1 + np.exp(-np.abs(wide))),
    )
