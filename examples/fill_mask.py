"""Fill a masked word: python examples/fill_mask.py [MODEL]. Default: a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "bert-mlm"

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    mask = model.tokenizer.mask_token
    for fill in model.fill_mask(f"A {mask} runs through the snow.", top_k=3):
        print(f"{fill.token!r:12} {fill.score:.3f}")
