"""BART: encoder-decoder with post-norms and learned positions; also with a head over the decoder's states.

Lewis et al. 2019, https://arxiv.org/abs/1910.13461
"""

from __future__ import annotations

from ._seq2seq import DEFAULTS as _SIZES
from ._seq2seq import Shape

DEFAULTS = {
    **_SIZES,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_SHAPE = Shape(place="residual_norm", embedding_norm=True, offset=2)
spec, tensors = _SHAPE.spec, _SHAPE.tensors
BARE_HEAD = "text-to-text"
