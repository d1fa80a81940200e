"""M2M-100 and NLLB: encoder-decoder with pre-norms and sinusoidal positions, for translation between many languages.

Fan et al. 2020, https://arxiv.org/abs/2010.11125; NLLB Team 2022, https://arxiv.org/abs/2207.04672
"""

from __future__ import annotations

import numpy as np

from ..checkpoint import Config
from ._seq2seq import DEFAULTS as _SIZES
from ._seq2seq import Shape, Table

DEFAULTS = {
    **_SIZES,
    "vocab_size": 128112,
    "activation_function": "relu",
    "scale_embedding": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def positions(config: Config) -> Table:
    """Sines, then cosines, whose frequencies fall from 1 to exactly 1/10000; the first token's position is the number
    after the padding token's."""
    count, width = (
        config.size("max_position_embeddings", maximum=1 << 20),
        config.size("d_model", minimum=4, maximum=1 << 18),
    )
    frequencies = np.exp(np.arange(width // 2) * -(np.log(10000) / (width // 2 - 1)))
    first = config.size("pad_token_id", minimum=0) + 1
    angles = np.arange(first, first + count)[:, None] * frequencies
    table = np.zeros((count, width), np.float32)
    table[:, : width // 2 * 2] = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return table


_SHAPE = Shape(place="input_norm", table=positions, logits_bias=False, padding_unplaced=True)
spec, tensors = _SHAPE.spec, _SHAPE.tensors
BARE_HEAD = "text-to-text"
