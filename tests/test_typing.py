"""Types reach the user: `tests/typing/user.py` is checked as a user's own program would be."""

from __future__ import annotations

import inspect
import json
import os
import pydoc
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import lapwing
from lapwing import loading
from lapwing.models.options import GenerateOptions, SingleOptions
from lapwing.tasks import TASKS

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "tests" / "typing"
PACKAGE = Path(lapwing.__file__).parent
CLASSES = (lapwing.TextGenerator, lapwing.TextEncoder, lapwing.Seq2Seq, lapwing.Chat, lapwing.Tokenizer)


def mypy(*arguments: str) -> list[str]:
    """The errors of `mypy --strict`."""
    environment = dict(os.environ)
    if not {"site-packages", "dist-packages"} & set(PACKAGE.parts):
        environment["MYPYPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", *arguments]
    command.append(f"--cache-dir={ROOT / '.mypy_cache' / 'user'}")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=PROGRAMS, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def pyright(*arguments: str) -> dict[str, object]:
    """The report of pyright, which needs node and, once, a download."""
    found = shutil.which("pyright", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip("pyright is not installed: pip install 'lapwing[lint]'")
    try:
        subprocess.run([found, "--version"], capture_output=True, check=True, timeout=120)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"pyright does not start, perhaps for want of a network: {error}")
    command = [found, "--outputjson", "--pythonpath", sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROGRAMS, check=False)
    report: dict[str, object] = json.loads(done.stdout)
    return report


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert mypy("user.py") == []


def test_type_checkers_find_mistakes() -> None:
    source = (PROGRAMS / "mistakes.py").read_text(encoding="utf-8").splitlines()
    want = {(n, line.partition("# error: ")[2]) for n, line in enumerate(source, 1) if "# error: " in line}
    found = set()
    for line in mypy("mistakes.py"):
        match = re.match(r"mistakes\.py:(\d+): error: .*\[([\w-]+)\]$", line)
        assert match is not None, line
        found.add((int(match[1]), match[2]))
    assert found == want


def test_pyright_agrees() -> None:
    report = pyright("-p", str(PROGRAMS))
    assert report["generalDiagnostics"] == []
    assert report["summary"]["filesAnalyzed"] == 1  # type: ignore[index]


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_program_calls_every_public_method(kind: type) -> None:
    text = (PROGRAMS / "user.py").read_text(encoding="utf-8")
    missing = [name for name in public(kind) if f".{name}(" not in text]
    assert not missing


def test_every_exported_name_exists() -> None:
    for name in lapwing.__all__:
        assert getattr(lapwing, name) is not None
    assert set(lapwing.__all__) == set(dir(lapwing))
    with pytest.raises(AttributeError, match="lod"):
        lapwing.lod  # type: ignore[attr-defined]  # noqa: B018


def test_the_types_of_load_are_those_of_the_tasks() -> None:
    by_shape = {
        "decoder": get_args(loading.DecoderTask),
        "encoder": get_args(loading.EncoderTask),
        "encoder-decoder": get_args(loading.TextToTextTask),
    }
    for shape, names in by_shape.items():
        assert {name for name, task in TASKS.items() if task.shapes == (shape,)} == set(names)
    parameters = inspect.signature(loading.load).parameters
    assert set(parameters) - {"name", "task"} == set(loading.LoadOptions.__annotations__)


@pytest.mark.parametrize(
    "method",
    [
        lapwing.TextGenerator.generate,
        lapwing.TextGenerator.chat,
        lapwing.TextGenerator.stream,
        lapwing.Seq2Seq.translate,
        lapwing.Seq2Seq.generate_ids,
    ],
    ids=lambda method: method.__qualname__,
)
def test_help_shows_the_options(method: object) -> None:
    text = pydoc.render_doc(method, renderer=pydoc.plaintext)
    for name in GenerateOptions.__annotations__:
        assert re.search(rf"\b{name}: .*= None", text), name
    assert "Sampling: ``temperature`` 0 is greedy" in text
    assert set(SingleOptions.__annotations__) == set(GenerateOptions.__annotations__) - {"n", "num_hypotheses"}
