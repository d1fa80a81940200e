"""Reading texts and writing results."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import OptionError, short_repr
from ..progress import Callback


def texts(arguments: argparse.Namespace) -> list[str]:
    """The texts of a command: its arguments, its files, else standard input."""
    found = [_utf8(text, "an argument") for text in arguments.text]
    files = arguments.file or []
    if not found and not files:
        if sys.stdin.isatty():
            raise OptionError("no text: give it as an argument, with --file, or on standard input")
        files = ["-"]
    for name in files:
        content = _content(name)
        if arguments.unit == "lines":
            # Not splitlines, which also splits at form feeds and other separators within a text.
            found += [line for line in content.split("\n") if line.strip()]
        elif content.strip():
            found.append(content.removesuffix("\n"))
    if not found:
        raise OptionError("no text: the input is empty")
    return found


def _content(name: str) -> str:
    """The contents of a file or of standard input (-), without a byte order mark."""
    where = "standard input" if name == "-" else name
    try:
        content = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise OptionError(f"{where} is not UTF-8: byte {error.start} is 0x{byte:02x}") from error
    return _utf8(content, where).removeprefix("\ufeff")


def _utf8(text: str, where: str) -> str:
    """The text, if it was UTF-8: Python decodes other bytes to lone surrogates."""
    wrong = next((character for character in text if "\udc80" <= character <= "\udcff"), None)
    if wrong is not None:
        raise OptionError(f"{where} is not UTF-8: it contains the byte 0x{ord(wrong) - 0xDC00:02x}")
    return text


def plain(value: Any) -> Any:
    """A result converted to JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Without times, which differ between equal results.
        fields = [field.name for field in dataclasses.fields(value) if field.compare]
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return list(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def write_json(value: Any, **more: Any) -> None:
    """One line of JSON."""
    content = plain(value)
    if more:
        content = {**more, **content} if isinstance(content, dict) else {**more, "result": content}
    print(json.dumps(content, ensure_ascii=False), flush=True)


def progress(arguments: argparse.Namespace) -> bool | Callback | None:
    """Progress on a terminal, unless --quiet is set."""
    return True if sys.stderr.isatty() and not arguments.quiet else None


def load(arguments: argparse.Namespace, task: str | None = None) -> Any:
    """The model of a command."""
    from ..loading import load as load_model

    return load_model(
        arguments.model,
        weights=arguments.weights,
        activations=arguments.activations,
        kv_cache=arguments.kv_cache,
        threads=arguments.threads,
        task=task,
        revision=arguments.revision,
        local_files_only=arguments.offline,
        packed_cache=arguments.packed_cache,
        progress=progress(arguments),
    )


def need(model: Any, method: str, command: str) -> Any:
    """The model's method for a command; OptionError if this class of models lacks it."""
    found = getattr(model, method, None)
    if found is None:
        raise OptionError(f"{command} needs another model: {model!r} has no method {method}")
    return found


def generation(arguments: argparse.Namespace) -> dict[str, Any]:
    """The given options of generation."""
    from ..models.options import GenerateOptions

    names = GenerateOptions.__annotations__
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    for name, value in arguments.option:
        if name in given:
            raise OptionError(
                f"{name} is given twice, as {short_repr(given[name])} and as {short_repr(value)}: expected one of them"
            )
        given[name] = value
    if given.get("logprobs") is not None and not arguments.json:
        raise OptionError("logprobs is set without --json, which shows them: add --json")
    return given


def json_list(path: str | None, what: str) -> list[Any] | None:
    """The list in a JSON file, if one is named."""
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{what} {path} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise OptionError(f"{what} {path} contains {type(found).__name__}: expected a list")
    return found
