"""mT5: T5 1.1 for a hundred languages; its logits are never scaled.

Xue et al. 2020, https://arxiv.org/abs/2010.11934
"""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Model
from . import t5

DEFAULTS = {
    **t5.DEFAULTS,
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}
BARE_HEAD, LANGUAGES = t5.BARE_HEAD, t5.LANGUAGES
tensors = t5.tensors


def spec(config: Config, task: str) -> Model:
    return t5.build(config, task, scaled=False)
