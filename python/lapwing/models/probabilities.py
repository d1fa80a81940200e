"""Probabilities of logits."""

from __future__ import annotations

from typing import Any

import numpy as np


def softmax(x: Any) -> Any:
    """Probabilities over the last dimension, in float64."""
    wide = np.asarray(x, np.float64)
    wide = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return wide / wide.sum(axis=-1, keepdims=True)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) in float64, without overflow."""
    wide = np.asarray(x, np.float64)
    return np.where(
        wide >= 0,
        1 / (1 + np.exp(-np.abs(wide))),
        np.exp(-np.abs(wide)) / (1 + np.exp(-np.abs(wide))),
    )
