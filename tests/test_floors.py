"""The floors: no import goes up, `unsafe` is confined to the listed files, Rust code contains no model names, files are
short enough to read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lapwing.architectures import families

ROOT = Path(__file__).parent.parent
RUST, PYTHON = ROOT / "rust", ROOT / "python" / "lapwing"

RUST_FLOORS = (
    {"error"},
    {"simd", "threads", "tensor", "template"},
    {"matmul"},
    {"ops", "roofline"},
    {"model"},
    {"decode"},
    {"python"},
)
"""A file imports only from floors below its own and from its own room."""
PYTHON_FLOORS = (
    {"_core", "spec", "cost", "errors", "results", "progress"},
    {"checkpoint", "hub"},
    {"packed"},
    {"architectures"},
    {"tokenizer"},
    {"models", "chat"},
    {"loading"},
    {"cli", "__init__"},
    {"__main__"},
)
UNSAFE = (
    "threads/",
    "tensor/",
    "matmul/",
    "simd/",
    "ops/attention.rs",
    "model/disentangled.rs",
    "model/packed.rs",
    "python/",
)

MAX_LINES = 600
"""Maximum lines of a file; most have half as many."""


def floor(room: str, floors: tuple[set[str], ...]) -> int:
    found = [i for i, rooms in enumerate(floors) if room in rooms]
    assert found, f"{room} has no floor: give it one here and in CONTRIBUTING.md"
    return found[0]


def rust_files() -> list[Path]:
    return sorted(path for path in RUST.rglob("*.rs") if path.name != "lib.rs")


def room_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(path.suffix)


def rust_uses(path: Path) -> set[str]:
    """The rooms that a file uses, without its tests."""
    text = path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests")[0]
    code = re.sub(r"//.*", "", text)
    found = set(re.findall(r"\bcrate::(\w+)", code))
    for group in re.findall(r"\bcrate::\{([^}]*)\}", code):
        found |= {part.strip().split("::")[0] for part in group.split(",") if part.strip()}
    return {room for room in found if (RUST / room).is_dir() or (RUST / f"{room}.rs").is_file()}


@pytest.mark.parametrize("path", rust_files(), ids=lambda p: str(p.relative_to(RUST)))
def test_rust_uses_what_lies_below(path: Path) -> None:
    own = room_of(path, RUST)
    for used in rust_uses(path) - {own}:
        assert floor(used, RUST_FLOORS) < floor(own, RUST_FLOORS), f"{own} uses {used}"


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below ``node`` except those under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from runtime_nodes(child)


def python_uses(path: Path) -> Iterator[str]:
    """The rooms that a file imports at run time, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    depth = len(path.relative_to(PYTHON).parts)
    for node in runtime_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name.split(".")[1] for name in names if name.startswith("lapwing."))


@pytest.mark.parametrize("path", sorted(PYTHON.rglob("*.py")), ids=lambda p: str(p.relative_to(PYTHON)))
def test_python_imports_what_lies_below(path: Path) -> None:
    own = room_of(path, PYTHON)
    for used in set(python_uses(path)) - {own, "__version__"}:
        assert floor(used, PYTHON_FLOORS) <= floor(own, PYTHON_FLOORS), f"{own} imports {used}"


@pytest.mark.parametrize("path", rust_files(), ids=lambda p: str(p.relative_to(RUST)))
def test_unsafe_stays_where_it_is_expected_and_says_why(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    place = str(path.relative_to(RUST))
    blocks = len(re.findall(r"\bunsafe \{", text)) + len(re.findall(r"\bunsafe impl\b", text))
    if not place.startswith(UNSAFE):
        assert blocks == 0
    if blocks:
        assert "SAFETY" in text


def test_rust_knows_no_model() -> None:
    names = {name.replace("-", "_") for name in families()} - {"new"}
    for path in rust_files():
        code = re.sub(r"//.*", "", path.read_text(encoding="utf-8")).lower()
        words = set(re.findall(r"[a-z0-9_]+", code))
        assert not words & names, path


@pytest.mark.parametrize("path", [*RUST.rglob("*.rs"), *PYTHON.rglob("*.py")], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines: split it"


def test_floors_are_those_of_the_guide() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for floors in (RUST_FLOORS, PYTHON_FLOORS):
        for room in set().union(*floors) - {"__init__"}:
            assert f"`{room}`" in guide, room


def test_the_stub_exports_what_it_declares() -> None:
    tree = ast.parse((PYTHON / "_core.pyi").read_text(encoding="utf-8"))
    declared = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    exported = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    )
    assert set(exported) == declared
