"""Answer a question from a text: python examples/answer.py [MODEL]. Default: a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "bert-qa"
TEXT = "The lapwing is a bird of wet meadows. It nests on the ground and lays four eggs."

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    # Long texts are read in windows that overlap by `stride` tokens.
    answer = model.answer("How many eggs does it lay?", TEXT, window=32, stride=8)
    print(f"{answer.text!r}  characters {answer.start} to {answer.end}, {answer.score:.3f}")
