"""Tag names and other labelled spans: python examples/tag.py [MODEL]. Default: a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "bert-tokcls"
TEXT = "Ada Lovelace lived in London."

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    for tag in model.tag(TEXT, aggregation="simple"):
        print(f"{tag.label:12} {TEXT[tag.start : tag.end]!r} {tag.score:.3f}")
    print(f"{len(TEXT)} characters read")
