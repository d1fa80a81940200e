"""JSON files of a checkpoint: read within bounds, and strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

_MOST_BYTES = 256 << 20
_MOST_DEPTH = 100


def parse_json(text: bytes, what: str) -> Any:
    """Parses JSON; refuses duplicate keys, deep nesting and invalid UTF-8.

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

    depth = deepest = 0
    quoted = escaped = False
    if text.count(b"[") + text.count(b"{") > _MOST_DEPTH:
        for byte in text:
            if quoted:
                if escaped:
                    escaped = False
                elif byte == 0x5C:
                    escaped = True
                elif byte == 0x22:
                    quoted = False
            elif byte == 0x22:
                quoted = True
            elif byte in b"[{":
                depth += 1
                deepest = max(deepest, depth)
                if deepest > _MOST_DEPTH:
                    raise CheckpointError(f"{what} is nested more than {_MOST_DEPTH} deep")
            elif byte in b"]}":
                depth -= 1
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not UTF-8: byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{what} is not JSON: {error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{what} is not JSON: {error}") from error


def read_json(path: Path, *, default: Any = ...) -> Any:
    """Reads a JSON file, or returns ``default`` where there is none.

    Raises:
        CheckpointError: it is missing (and there is no default), too large or damaged.
    """
    try:
        if default is not ... and not path.exists():
            return default
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes: expected at most {_MOST_BYTES}")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
