"""JSON schemas of Python functions, in the format that chat templates expect for tools.

Docstrings follow Google's style: a summary, ``Args:`` with one line per argument, ``Returns:``. The result is that of
transformers.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import types
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import OptionError

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_TYPES = {**_SCALARS, list: "array", tuple: "array", dict: "object"}


def describe(tool: Any) -> Any:
    """A mapping unchanged, else the schema of the function."""
    if isinstance(tool, Mapping):
        return tool
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise OptionError(f"a tool is {type(tool).__name__}: expected a JSON schema or a function")
    text = (inspect.getdoc(tool) or "").strip()
    if not text:
        raise OptionError(f"the function {tool.__name__} has no docstring: expected a description for the model")
    summary, arguments, returns = _docstring(text)
    hints = get_type_hints(tool)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for place, (name, parameter) in enumerate(inspect.signature(tool).parameters.items()):
        if place == 0 and name in ("self", "cls") and name not in hints:
            continue
        if name not in hints or name not in arguments:
            missing = "type hint" if name not in hints else "line under Args:"
            raise OptionError(f"the argument {name} of the function {tool.__name__} has no {missing}")
        described, choices = _choices(arguments[name])
        properties[name] = {**_type(hints[name]), **choices, "description": described}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    function: dict[str, Any] = {"name": tool.__name__, "description": summary, "parameters": parameters}
    if "return" in hints:
        # The model never writes the result, so one without a schema is left out.
        with contextlib.suppress(OptionError):
            function["return"] = _type(hints["return"])
            if returns is not None:
                function["return"]["description"] = returns
    return {"type": "function", "function": function}


def _type(hint: Any) -> dict[str, Any]:
    if hint is Any:
        return {}
    if isinstance(hint, type) and issubclass(hint, Enum) and get_origin(hint) is None:
        return _values(hint, [member.value for member in hint])
    if isinstance(hint, Hashable) and hint in _TYPES:
        return {"type": _TYPES[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [_type(argument) for argument in arguments if argument is not type(None)]
        if len(parts) == 1:
            found = parts[0]
        elif all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts):
            names = sorted({part["type"] for part in parts})
            found = {"type": names[0] if len(names) == 1 else names}
        else:
            found = {"anyOf": parts}
        if type(None) in arguments:
            found["nullable"] = True
        return found
    if origin is Literal:
        return _values(hint, list(arguments))
    if origin is list:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    if origin is tuple and len(arguments) > 1 and ... not in arguments:
        return {"type": "array", "prefixItems": [_type(argument) for argument in arguments]}
    raise OptionError(
        f"the type {hint} of a tool's argument has no JSON schema: expected str, int, float, bool, a Literal, an Enum, "
        "list, dict, or a tuple of several types"
    )


def _values(hint: Any, values: list[Any]) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise OptionError(f"the values of {hint}, the type of a tool's argument, are not texts, numbers or booleans")
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


# The sections of a docstring, as transformers reads them: sections that it does not name belong to what is
# before them, and only `Returns:` may follow `Args:`.
_SUMMARY = re.compile(r"^(.*?)[\n\s]*(?:Args:|Returns:|Raises:|\Z)", re.DOTALL)
_ARGUMENTS = re.compile(r"\n\s*Args:\n(.*?)[\n\s]*(?:Returns:|Raises:|\Z)", re.DOTALL)
_RETURNS = re.compile(r"\n\s*Returns:\n\s*(.*?)[\n\s]*(?:Raises:|\Z)", re.DOTALL)
_ARGUMENT = re.compile(r"([ \t]*)(\w+)(?:[ \t]*\([^()\n]*\))?:\s*(.*)$")


def _docstring(text: str) -> tuple[str, dict[str, str], str | None]:
    """The summary, the descriptions of the arguments and that of the result."""
    summary, returns, section = _SUMMARY.search(text), _RETURNS.search(text), _ARGUMENTS.search(text)
    arguments: dict[str, list[str]] = {}
    indent = name = ""
    for line in section[1].split("\n") if section else ():
        found = _ARGUMENT.match(line)
        # A line that is indented deeper than its argument's continues the description.
        deeper = bool(name) and line.startswith((indent + " ", indent + "\t"))
        if found and not deeper:
            indent, name = found[1], found[2]
            arguments[name] = [found[3].strip()]
        elif name and line.strip():
            arguments[name].append(line.strip())
    return (
        summary[1].strip() if summary else "",
        {key: " ".join(filter(None, lines)) for key, lines in arguments.items()},
        returns[1].strip() if returns else None,
    )


def _choices(text: str) -> tuple[str, dict[str, Any]]:
    """A trailing ``(choices: ["a", "b"])`` of a description becomes an enum."""
    import json

    found = re.search(r"\(choices:\s*(.*?)\)\s*$", text, flags=re.IGNORECASE)
    if not found:
        return text, {}
    try:
        values = json.loads(found[1])
    except ValueError:
        return text, {}
    if isinstance(values, list):
        values = [value.strip() if isinstance(value, str) else value for value in values]
    return text[: found.start()].strip(), {"enum": values}
