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
            # Not splitlines, which also cuts at form feeds and at separators inside of a text.
            found += [line for line in content.split("\n") if line.strip()]
        elif content.strip():
            found.append(content.removesuffix("\n"))
    if not found:
        raise OptionError("no text: the input is empty")
    return found


def _content(name: str) -> str:
    """What a file or standard input (-) holds, without a mark of byte order at its beginning."""
    where = "standard input" if name == "-" else name
    try:
        content = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise OptionError(f"{where} is no text in UTF-8: its byte {error.start} is 0x{byte:02x}") from error
    return _utf8(content, where).removeprefix("\ufeff")


def _utf8(text: str, where: str) -> str:
    """The text, if it was UTF-8: Python puts lone surrogates in the place of other bytes."""
    wrong = next((character for character in text if "\udc80" <= character <= "\udcff"), None)
    if wrong is not None:
        raise OptionError(f"{where} is no text in UTF-8: it holds the byte 0x{ord(wrong) - 0xDC00:02x}")
    return text


def plain(value: Any) -> Any:
    """A result in JSON's types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
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
    """Progress on a terminal, unless it is to be quiet."""
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
    """The model's method for a command; OptionError if this shape of model has none."""
    found = getattr(model, method, None)
    if found is None:
        raise OptionError(f"{command} needs another model: {model!r} does not {method}")
    return found


def generation(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of generation that were given."""
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
        raise OptionError("logprobs is set, and only --json shows them: add it")
    return given


def json_list(path: str | None, what: str) -> list[Any] | None:
    """A list from a JSON file, if one is named."""
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{what} {path} is no JSON: {error}") from error
    if not isinstance(found, list):
        raise OptionError(f"{what} {path} holds {type(found).__name__}: expected a list")
    return found
