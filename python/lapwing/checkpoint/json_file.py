"""JSON files of a checkpoint: bounded in size, and parsed strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MAX_BYTES = 256 << 20
"""Bound of a file; the largest known tokenizer file is a tenth of it."""


def parse_json(text: bytes, what: str) -> Any:
    """Parses JSON; refuses duplicate keys, nesting beyond Python's recursion limit and invalid UTF-8.

    Raises:
        CheckpointError: naming ``what``.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(items)
        if len(out) != len(items):
            seen: set[str] = set()
            double = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise CheckpointError(f"{what} has the key {double!r} twice")
        return out

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not UTF-8: byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{what} is not JSON: {error.msg} at line {error.lineno}") from error
    except RecursionError as error:
        raise CheckpointError(f"{what} is nested too deeply") from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{what} is not JSON: {error}") from error


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        CheckpointError: it is missing, too large or damaged.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes: expected at most {MAX_BYTES}")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object; empty if the file does not exist."""
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds {type(value).__name__}: expected an object")
    return value
