"""Blenderbot: a conversational encoder-decoder with pre-norms and learned positions.

Roller et al. 2020, https://arxiv.org/abs/2004.13637
"""

from __future__ import annotations

from ._seq2seq import DEFAULTS as _SIZES
from ._seq2seq import Shape

DEFAULTS = {
    **_SIZES,
    "vocab_size": 8008,
    "max_position_embeddings": 128,
    "encoder_layers": 2,
    "encoder_ffn_dim": 10240,
    "encoder_attention_heads": 32,
    "decoder_layers": 24,
    "decoder_ffn_dim": 10240,
    "decoder_attention_heads": 32,
    "d_model": 2560,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 2,
    "encoder_no_repeat_ngram_size": 3,
}
_SHAPE = Shape(place="input_norm")
spec, tensors = _SHAPE.spec, _SHAPE.tensors
BARE_HEAD = "text-to-text"
