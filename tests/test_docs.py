"""What the documents say of the code is so."""

from __future__ import annotations

import re
from pathlib import Path

from lapwing.architectures import families
from lapwing.cli.parser import build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_families_is_that_of_the_code() -> None:
    table = README.split("| Shape | Families |")[1].split("\n\n")[0]
    listed = {word for row in table.splitlines() for word in re.findall(r"`([\w.-]+)`", row)}
    assert listed == set(families())


def test_every_command_is_in_the_readme() -> None:
    commands = next(action.choices for action in build()._actions if hasattr(action, "choices") and action.choices)
    for name in commands:
        assert f"`{name}`" in README, name


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


def test_nothing_speaks_of_other_places() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benches/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        for place in ("/tmp/", "/work/", "../shared"):
            assert place not in text, (path, place)
