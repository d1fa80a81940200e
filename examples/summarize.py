"""Summarize a text: python examples/summarize.py [MODEL]. Default: a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "bart"
TEXT = "The lapwing is a bird of wet meadows. It nests on the ground and lays four eggs."

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    summary = model.summarize(TEXT, max_tokens=12, beams=2)
    print(f"{len(summary.ids)} tokens: {summary.text!r}")
