"""umT5: mT5 with a bias by distance of its own in each layer.

Chung et al. 2023, https://arxiv.org/abs/2304.09151
"""

from __future__ import annotations

from functools import partial

from . import mt5, t5

DEFAULTS, BARE_HEAD, LANGUAGES = mt5.DEFAULTS, mt5.BARE_HEAD, mt5.LANGUAGES
spec = t5.spec
tensors = partial(t5.tensors, shared_bias=False)
