"""Classify texts and pairs of texts: python examples/classify.py [MODEL]. Default: a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "bert-seqcls"

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    for result in model.classify(["A dog runs.", ("It rains.", "The street is wet.")]):
        print(f"{result.label}  {result.score:.3f}  of {len(result.labels)} labels")
