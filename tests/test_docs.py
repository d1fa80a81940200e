"""The documents agree with the code."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lapwing
from lapwing import TextEncoder, TextGenerator, packed
from lapwing.architectures import families
from lapwing.checkpoint import open_checkpoint
from lapwing.cli.parser import build
from lapwing.cli.talk import HELP
from lapwing.loading import QUANTIZED_FROM
from lapwing.models.options import GenerateOptions

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    """A script that makes a part of the documents."""
    spec = importlib.util.spec_from_file_location(f"docs_make_{name}", ROOT / "docs" / "make" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_model_types_is_that_of_the_code() -> None:
    made = script("models").text()
    assert made in document("models.md"), "run python docs/make/models.py --write"
    assert f"{len(families())} model types" in README and f"All {len(families())} types" in README


def test_the_picture_of_the_readme_is_that_of_the_record() -> None:
    bars = script("bars")
    assert bars.PICTURE.read_text(encoding="utf-8") == bars.svg(), "run python docs/make/bars.py --write"
    assert len(bars.BARS) == 8 and str(bars.PICTURE.relative_to(ROOT)) in README


def test_the_readme_says_the_numbers_of_the_record() -> None:
    bars = script("bars")
    record = bars.records.read(bars.RECORD)
    rows = {row.name: row for row in bars.table.rows(record["machine"]["isa"])}

    def times(name: str) -> str:
        rates = record["rates"][name]
        peer = bars.table.best(rows[name], rates)
        return f"{statistics.median(rates[rows[name].ours]) / peer[1]:.2f}"

    def figure(name: str, digits: int) -> str:
        return f"{statistics.median(record['figures'][name]):.{digits}f}"

    text = " ".join(README.split())
    for name, words in {
        "opus-mt q8 greedy x1": "{:.1f} times CTranslate2 for a sentence",
        "8 prompts llama-1b q8": "{:.1f} times llama.cpp for eight answers",
        "decode llama-1b q8": "{:.1f} times for one",
        "prefill 512 llama-1b bf16": "{:.2f} of llama.cpp",
    }.items():
        assert words.format(float(times(name))) in text, name
    assert f"quantized in {figure('first load llama-1b to q8', 1)} s" in text
    assert f"mapped in {figure('second load llama-1b q8', 2)} s" in text
    assert f"takes {figure('import above numpy', 2)} s above" in text
    values = record["figures"]
    plain, quantized = (statistics.median(values[f"perplexity of tiny-shakespeare {kind}"]) for kind in ("f32", "q8"))
    assert f"perplexity of the built-in model by {100 * abs(quantized / plain - 1):.2f} %" in text
    plain, quantized = (statistics.median(values[f"BLEU of tiny-en-de {kind}: greedy"]) for kind in ("f32", "q8"))
    assert f"its greedy BLEU by {abs(quantized - plain):.2f}" in text


def test_every_command_is_in_the_readme() -> None:
    commands = next(action.choices for action in build()._actions if hasattr(action, "choices") and action.choices)
    for name in commands:
        assert f"`{name}`" in README, name


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "function", "exempt"),
    [
        ("loading.md", lapwing.load, {"name"}),
        (
            "chat.md",
            TextGenerator.chat,
            {"self", "messages", "progress", "chat_template", *GenerateOptions.__annotations__},
        ),
        *(
            (
                "tasks.md",
                getattr(TextEncoder, task),
                {"self", "text", "texts", "question", "context", "query", "documents"},
            )
            for task in ("embed", "rank", "classify", "tag", "answer", "fill_mask")
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_argument_is_documented(name: str, function: Callable[..., Any], exempt: set[str]) -> None:
    text = document(name)
    if name == "tasks.md":
        general, *sections = text.split("\n## ")
        (section,) = (one for one in sections if one.startswith(function.__name__ + "\n"))
        assert "`progress=True`" in general and "`batch_tokens`" in text
        text, exempt = section, exempt | {"progress", "batch_tokens"}
    rows = {word for line in text.splitlines() if line.startswith("|") for word in re.findall(r"`(\w+)`", line)}
    assert set(inspect.signature(function).parameters) - exempt <= rows


def test_the_cache_of_packed_weights_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = document("loading.md").split("\n## Packed weights on disk\n")[1].split("\n## ")[0]
    where = set(re.findall(r'environ.get\("(\w+)"', inspect.getsource(packed.folder))) | {
        packed.VARIABLE,
        "Library/Caches",
    }
    assert {"XDG_CACHE_HOME", "LOCALAPPDATA"} < where
    for word in {
        *where,
        ".cache",
        f"{packed.VARIABLE}=off",
        "`lapwing info`",
        "`lapwing cache`",
        "`lapwing cache --clear`",
    }:
        assert word in section, word
    assert f"from {QUANTIZED_FROM // 10**6} million parameters" in section
    assert f"{packed._SAMPLES} samples of {packed._SAMPLE_BYTES // 1000} kB" in section
    monkeypatch.setenv(packed.VARIABLE, str(tmp_path))
    entry = packed.entry(open_checkpoint(ROOT / "tests" / "golden" / "llama"), "{}", {}, "q8", "1")
    assert entry is not None
    assert set(json.loads(entry.key)) == set(re.findall(r"^\| `(\w+)` \|", section, re.M))


def test_every_option_of_a_command_is_documented() -> None:
    """Options of loading, of a conversation and of the tasks; generation options are documented with the methods."""
    commands = next(action.choices for action in build()._actions if hasattr(action, "choices") and action.choices)
    documented = document("tasks.md") + document("chat.md") + document("loading.md") + document("translation.md")
    generation = {name.replace("_", "-") for name in GenerateOptions.__annotations__}
    for name in ("embed", "rank", "classify", "tag", "answer", "fill-mask", "chat", "translate", "summarize"):
        for action in commands[name]._actions:
            option = next((word for word in action.option_strings if word.startswith("--")), "--help").lstrip("-")
            if option not in {*generation, "help", "option", "lines", "whole", "quiet"}:
                assert f"`--{option}" in documented, (name, option)


def test_every_word_of_the_terminal_is_documented() -> None:
    words = set(re.findall(r"^/(\w+)", HELP, re.M))
    assert words == set(re.findall(r"`/(\w+)", document("chat.md")))


def test_every_task_has_an_example() -> None:
    tasks = {
        "generate",
        "chat",
        "translate",
        "summarize",
        "embed",
        "classify",
        "tag",
        "answer",
        "rank",
        "fill_mask",
        "score",
    }
    assert tasks <= {path.stem for path in (ROOT / "examples").glob("*.py")}


def test_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{name}:", makefile, re.M), name


def test_shell_lines_of_the_readme_parse() -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = [line[line.index("lapwing ") :] for line in block.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        build().parse_args(shlex.split(line)[1:])


def test_nothing_speaks_of_other_places() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benches/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        for place in ("/tmp/", "/work/", "../shared"):
            assert place not in text, (path, place)


def chapters() -> list[Path]:
    return sorted((ROOT / "docs" / "guide").glob("[0-9]*.md"))


def test_the_guide_has_ten_chapters_of_formulas() -> None:
    index = document("guide/index.md")
    assert len(chapters()) == 10
    for path in chapters():
        text = path.read_text(encoding="utf-8")
        assert f"]({path.name})" in index
        assert "| | NumPy twin | Rust |" in text and "```pycon" in text


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_functions_of_the_guide_exist(path: Path) -> None:
    found = re.findall(r"`((?:rust|tests)/[\w/]+\.(?:rs|py))`: `(\w+)`", path.read_text(encoding="utf-8"))
    assert found
    for file, name in found:
        code = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"\b(?:def|fn|struct) {name}\b", code), f"{file} has no {name}"


def test_pictures_of_the_documents_exist_and_are_small() -> None:
    images = {path.name for path in (ROOT / "docs" / "images").iterdir()}
    shown = set()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        shown |= set(re.findall(r"images/([\w.-]+)\)", path.read_text(encoding="utf-8")))
    assert shown == images
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()) < 1_000_000
