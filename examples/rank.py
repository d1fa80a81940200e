"""Rank documents with a cross-encoder: python examples/rank.py [MODEL]. Default: a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "xlm-roberta-rerank"
DOCUMENTS = ["Two kids kick a ball around.", "Stocks fell sharply on Monday.", "A match ends in a draw."]

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    for ranked in model.rank("children playing football", DOCUMENTS):
        print(f"{ranked.score:7.3f}  {ranked.text}")
