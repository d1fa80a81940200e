"""The floors: no import goes up, `unsafe` is confined to the listed files, Rust code contains no model names, files are
short enough to read."""

from __future__ import annotations

import ast
import io
import re
import tokenize
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
    {"roofline"},
    {"ops"},
    {"model"},
    {"decode"},
    {"python"},
)
"""A file imports only from floors below its own and from its own room."""
PYTHON_FLOORS = (
    {"_core", "spec", "errors", "results", "progress", "tasks", "foreign"},
    {"checkpoint", "cost", "hub", "explain"},
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
    "roofline.rs",
    "ops/attention",
    "model/blocks/disentangled_attention.rs",
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


def use_paths(tree: str) -> Iterator[list[str]]:
    """The paths of a `use`: `a::{b, c::d}` gives `a::b` and `a::c::d`."""
    depth, start = 0, 0
    for i, c in enumerate(tree + ","):
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            part, start = tree[start:i].strip(), i + 1
            head, brace, rest = part.partition("{")
            names = [name for name in head.split(" as ")[0].strip().split("::") if name]
            if brace:
                yield from (names + path for path in use_paths(rest.rpartition("}")[0]))
            elif names:
                yield names


def module_file(module: tuple[str, ...]) -> Path | None:
    found = (RUST.joinpath(*module).with_suffix(".rs"), RUST.joinpath(*module, "mod.rs")) if module else ()
    return next((path for path in found if path.is_file()), None)


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(RUST).with_suffix("").parts
    return parts[:-1] if parts[-1] == "mod" else parts


def file_uses(path: Path) -> set[Path]:
    """The files of its own room that a file imports with `use`, without its tests. A file may name its own submodules
    by path, as it contains them."""
    own = module_of(path)
    text = path.read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests {")[0]
    code = re.sub(r"//.*", "", text)
    code = re.sub(r"#\[cfg\(test\)\]\s*(pub(\([^)]*\))? )?use [^;]*;", "", code)
    found = set()
    for tree in re.findall(r"^(?:pub(?:\([^)]*\))? )?use ([^;]+);", code, flags=re.MULTILINE):
        for names in use_paths(tree):
            base = own
            if names[0] == "crate":
                base, names = (), names[1:]
            while names and names[0] in ("super", "self"):
                base, names = base[:-1] if names[0] == "super" else base, names[1:]
            module = base
            while names and module_file((*module, names[0])):
                module, names = (*module, names[0]), names[1:]
            used = module_file(module)
            if used and used != path and module[0] == own[0]:
                found.add(used)
    return found


def circle(uses: dict[Path, set[Path]]) -> list[str]:
    """The files of one circle of imports, if any."""
    left = dict(uses)
    while leaves := [path for path, used in left.items() if not used & left.keys()]:
        for path in leaves:
            del left[path]
    if not left:
        return []
    path, seen = next(iter(left)), []
    while path not in seen:
        seen.append(path)
        path = min(left[path] & left.keys())
    return [str(p.relative_to(ROOT)) for p in [*seen[seen.index(path) :], path]]


ROOMS = sorted({room_of(path, RUST) for path in rust_files()})


@pytest.mark.parametrize("room", ROOMS)
def test_files_of_a_room_import_in_one_direction(room: str) -> None:
    files = [
        path for path in rust_files() if room_of(path, RUST) == room and path.name not in ("tests.rs", "testing.rs")
    ]
    found = circle({path: file_uses(path) for path in files})
    assert not found, " -> ".join(found)


def test_circles_are_found() -> None:
    a, b, c = RUST / "a.rs", RUST / "b.rs", RUST / "c.rs"
    assert circle({a: {b}, b: {c}, c: set()}) == []
    assert circle({a: {b}, b: {c}, c: {b}}) == ["rust/b.rs", "rust/c.rs", "rust/b.rs"]
    assert list(use_paths("super::{a::{B, C as D}, e}")) == [["super", "a", "B"], ["super", "a", "C"], ["super", "e"]]


def test_vectors_are_used_through_multiversion() -> None:
    """Methods of the vector types are safe, but sound only where the CPU has the instruction set."""
    for path in rust_files():
        if room_of(path, RUST) != "simd":
            assert not re.search(r"\bvectors::", path.read_text(encoding="utf-8")), path


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


def python_file(module: Path) -> Path | None:
    """The file of a module, given as a path without suffix."""
    return next((file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()), None)


def python_files_used(path: Path) -> set[Path]:
    """The files of its own package that a file imports when it is imported."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        # What is not a module of the package is a name in its __init__.
        files = [python_file(base / alias.name) or python_file(base) for alias in node.names]
        found |= {file for file in files if file is not None and file.is_relative_to(PYTHON)}
    return found - {path}


def test_python_files_import_in_one_direction() -> None:
    found = circle({path: python_files_used(path) for path in PYTHON.rglob("*.py")})
    assert not found, " -> ".join(found)


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


MAX_COLUMNS = 120
"""Maximum width of a line of comment; new ones are wrapped at 110."""
BANNED = re.compile(
    r"\b(nobody|anybody|whoever|likeliest|tells|told|so many|so much|for ever|none where|now and then"
    r"|in the hands of|asks? the memory|(is|are) no (JSON|text|list|number|integer|tensor))\b",
    re.IGNORECASE,
)
"""Phrases with a plain word or a term of art in their place: CONTRIBUTING.md."""
SOURCES = sorted(
    path
    for root, suffixes in (
        (RUST, ".rs"),
        (PYTHON, ".py .pyi"),
        (ROOT / "tests", ".py .rs"),
        (ROOT / "benches", ".py .rs"),
        (ROOT / "docs", ".py"),
    )
    for path in root.rglob("*.*")
    if path.suffix in suffixes.split() and path != Path(__file__)
)
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_comments(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a comment or docstring; a comment behind code counts alone."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from ((n, lines[n - 1]) for n in range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def rust_comments(text: str) -> Iterator[tuple[int, str]]:
    for n, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("//"):
            yield n, line
        elif " // " in line:
            yield n, line[line.index(" // ") :]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_comments_are_plain_and_wrapped(path: Path) -> None:
    comments = rust_comments if path.suffix == ".rs" else python_comments
    for n, line in comments(path.read_text(encoding="utf-8")):
        assert len(line) <= MAX_COLUMNS, f"{path.name}:{n} has {len(line)} columns"
        found = BANNED.search(line)
        assert not found, f'{path.name}:{n} says "{found[0]}"' if found else ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_documents_are_plain(path: Path) -> None:
    for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = BANNED.search(line)
        assert not found, f'{path.name}:{n} says "{found[0]}"' if found else ""


def test_comments_are_found() -> None:
    python = '"""One.\n\ntwo"""\nx = "# no"  # three\n'
    assert sorted(python_comments(python)) == [(1, '"""One.'), (2, ""), (3, 'two"""'), (4, "# three")]
    assert list(rust_comments("/// a\nlet x = 1; // b\n")) == [(1, "/// a"), (2, " // b")]
