"""JSON schemas of Python functions, in the format that chat templates expect for tools.

Docstrings follow Google's style: a summary, ``Args:`` with one line per argument, ``Returns:``.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import OptionError

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


def describe(tool: Any) -> Any:
    """A mapping unchanged, else the schema of the function."""
    if isinstance(tool, Mapping):
        return tool
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise OptionError(f"a tool is {type(tool).__name__}: expected a JSON schema or a function")
    summary, arguments, returns = _docstring(inspect.getdoc(tool) or "")
    if not summary:
        raise OptionError(f"the function {tool.__name__} has no docstring: expected a description for the model")
    hints = get_type_hints(tool)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(tool).parameters.items():
        if name in ("self", "cls"):
            continue
        if name not in hints or name not in arguments:
            missing = "a type hint" if name not in hints else "a line under Args:"
            raise OptionError(
                f"the argument {name} of the function {tool.__name__} has no {missing.removeprefix('a ')}"
            )
        text, choices = _choices(arguments[name])
        properties[name] = {**_type(hints[name]), **choices, "description": text}
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    function: dict[str, Any] = {
        "name": tool.__name__,
        "description": summary,
        "parameters": parameters,
    }
    if "return" in hints:
        function["return"] = _type(hints["return"])
        if returns:
            function["return"]["description"] = returns
    return {"type": "function", "function": function}


def _type(hint: Any) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        plain = [argument for argument in arguments if argument is not type(None)]
        if all(argument in _TYPES for argument in plain):
            names = sorted({_TYPES[argument] for argument in plain})
            found: dict[str, Any] = {"type": names[0] if len(names) == 1 else names}
        else:
            found = _type(plain[0]) if len(plain) == 1 else {"anyOf": [_type(item) for item in plain]}
        if type(None) in arguments:
            found["nullable"] = True
        return found
    if origin is Literal:
        kinds = sorted({_TYPES.get(type(argument), "string") for argument in arguments})
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(arguments)}
    if hint is list or origin is list:
        return {"type": "array", "items": _type(arguments[0])} if arguments else {"type": "array"}
    if hint is dict or origin is dict:
        extra = {"additionalProperties": _type(arguments[1])} if len(arguments) == 2 else {}
        return {"type": "object", **extra}
    if hint is tuple or origin is tuple:
        return {"type": "array", "prefixItems": [_type(argument) for argument in arguments]}
    raise OptionError(
        f"the type {hint} of a tool's argument has no JSON schema: expected str, int, float, bool, list or dict"
    )


def _docstring(text: str) -> tuple[str, dict[str, str], str]:
    parts = re.split(r"^(Args|Returns|Raises|Yields|Examples?):\s*$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    arguments: dict[str, str] = {}
    name = ""
    for line in sections.get("Args", "").splitlines():
        found = re.match(r"^\s{1,4}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$", line)
        if found:
            name = found[1]
            arguments[name] = found[2].strip()
        elif name and line.strip():
            arguments[name] += f" {line.strip()}"
    return parts[0].strip(), arguments, " ".join(sections.get("Returns", "").split())


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
    return text[: found.start()].strip(), {"enum": values}
