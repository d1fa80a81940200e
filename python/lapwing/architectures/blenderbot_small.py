"""Blenderbot small: post-norms as in BART, with positions that the decoder adds after the norm of the embedding.

Roller et al. 2020, https://arxiv.org/abs/2004.13637
"""

from __future__ import annotations

from ._seq2seq import DEFAULTS as _SIZES
from ._seq2seq import Shape

DEFAULTS = {
    **_SIZES,
    "max_position_embeddings": 512,
    "encoder_layers": 8,
    "encoder_ffn_dim": 2048,
    "decoder_layers": 8,
    "decoder_ffn_dim": 2048,
    "d_model": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 2,
}
_SHAPE = Shape(place="residual_norm", embedding_norm=True, decoder_norm_first=True)
spec, tensors = _SHAPE.spec, _SHAPE.tensors
BARE_HEAD = "text-to-text"
