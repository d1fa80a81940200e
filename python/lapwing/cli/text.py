"""Writing results, and the model and options of a command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import OptionError, short_repr
from ..progress import Callback


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
    write(json.dumps(content, ensure_ascii=False))


def write(text: str) -> None:
    """A line of output, complete and at once: a reader sees it, and Ctrl-C does not cut it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress(arguments: argparse.Namespace, *, writes: bool = False) -> bool | Callback | None:
    """Progress on a terminal, unless --quiet is set or the command ``writes`` results to it meanwhile."""
    shown = sys.stderr.isatty() and not arguments.quiet and not (writes and sys.stdout.isatty())
    return True if shown else None


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
        progress=False if arguments.quiet else progress(arguments),
    )


def load_folder(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The folder of a command's model and its name; what is downloaded is not looked up again."""
    from ..hub import find

    return find(
        arguments.model,
        revision=arguments.revision,
        local_files_only=arguments.offline,
        downloaded_first=True,
        quiet=arguments.quiet,
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
