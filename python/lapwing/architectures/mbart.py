"""mBART: BART with norms before the blocks and one more at each end.

Liu et al. 2020, https://arxiv.org/abs/2001.08210
"""

from __future__ import annotations

from ._seq2seq import DEFAULTS as _SIZES
from ._seq2seq import Shape

DEFAULTS = {**_SIZES, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2}
_SHAPE = Shape(place="input_norm", embedding_norm=True, offset=2)
spec, tensors = _SHAPE.spec, _SHAPE.tensors
BARE_HEAD = "text-to-text"
HEAD_START = "last token"
