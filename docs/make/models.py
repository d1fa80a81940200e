"""The list of model types in docs/models.md, from the code: ``python docs/make/models.py --write``.

The types are those of `lapwing.architectures.families`. Shapes and heads come from describing the configurations of
the checkpoints in tests/golden, so a head in the list is one that the tests compare with transformers. Types that
share a file share their heads.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from lapwing.architectures import ALIASES, describe, families, task_of
from lapwing.checkpoint import open_checkpoint

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "models.md"
START, END = "<!-- types -->", "<!-- /types -->"
SHAPES = ("encoder", "decoder", "encoder-decoder")
HEADS = {
    "features": "features",
    "generation": "generation",
    "text-to-text": "generation",
    "sequence-classification": "classification",
    "token-classification": "tagging",
    "question-answering": "question answering",
    "fill-mask": "masked tokens",
}


def found() -> dict[str, tuple[str, set[str]]]:
    """Shape and tested heads of each type."""
    shapes: dict[str, str] = {}
    heads: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests" / "golden").glob("*/config.json")):
        if json.loads((path.parent / "expected.json").read_text(encoding="utf-8")).get("task") == "sentence":
            continue  # an embedding model, whose transformer is another fixture's
        checkpoint = open_checkpoint(path.parent)
        name = checkpoint.config.model_type
        head = task_of(checkpoint.config)
        if head not in HEADS:
            raise SystemExit(f"{path}: docs/make/models.py has no word for the head {head!r}")
        model = describe(checkpoint)[0]
        shape = "encoder-decoder" if model.encoder and model.decoder else "encoder" if model.encoder else "decoder"
        heads[name].add(HEADS[head])
        # A type has the shape of its largest form: T5 runs as an encoder alone too.
        if name not in shapes or SHAPES.index(shape) > SHAPES.index(shapes[name]):
            shapes[name] = shape
    for name in families():  # a spelling of another type (CamemBERT of RoBERTa), perhaps without a checkpoint
        file = ALIASES.get(name, name).replace("-", "_")
        same = [other for other in shapes if ALIASES.get(other, other).replace("-", "_") == file]
        shapes.setdefault(name, shapes[same[0]])
        heads[name] |= set().union(*(heads[other] for other in same))
    return {name: (shapes[name], heads[name]) for name in families()}


def text() -> str:
    """The table between its marks."""
    rows = found()
    lines = ["| `model_type` | Shape | Heads compared with transformers |", "|---|---|---|"]
    for shape in SHAPES:
        for name, (its, heads) in sorted(rows.items()):
            if its == shape:
                listed = ", ".join(word for word in dict.fromkeys(HEADS.values()) if word in heads)
                lines.append(f"| `{name}` | {shape} | {listed} |")
    return "\n".join([START, f"{len(rows)} types:", "", *lines, END])


def replaced(document: str) -> str:
    return document.split(START)[0] + text() + document.split(END)[1]


if __name__ == "__main__":
    if "--write" in sys.argv:
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(text())
