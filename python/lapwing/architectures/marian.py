"""Marian: encoder-decoder with post-norms and sinusoidal positions, for translation.

Junczys-Dowmunt et al. 2018, https://arxiv.org/abs/1804.00344
"""

from __future__ import annotations

from ._seq2seq import DEFAULTS as _SIZES
from ._seq2seq import Shape, sinusoids

DEFAULTS = {
    **_SIZES,
    "vocab_size": 58101,
    "pad_token_id": 58100,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
}
_SHAPE = Shape(place="residual_norm", table=sinusoids)
spec, tensors = _SHAPE.spec, _SHAPE.tensors
BARE_HEAD = "text-to-text"
