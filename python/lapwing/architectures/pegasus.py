"""Pegasus: encoder-decoder with pre-norms and sinusoidal positions, for summaries.

Zhang et al. 2019, https://arxiv.org/abs/1912.08777
"""

from __future__ import annotations

from ._seq2seq import DEFAULTS as _SIZES
from ._seq2seq import Shape, sinusoids

DEFAULTS = {**_SIZES, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1}
_SHAPE = Shape(place="input_norm", table=sinusoids)
spec, tensors = _SHAPE.spec, _SHAPE.tensors
BARE_HEAD = "text-to-text"
