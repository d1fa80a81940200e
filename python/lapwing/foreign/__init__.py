"""Foreign names: what people type who come from other libraries, and what it is called here.

The tables in `options` and `names` are the one place for such names. Keys are those of transformers (pipelines and
generate), sentence-transformers, llama-cpp-python and llama.cpp, CTranslate2, mlx-lm and OpenAI's client; an error
about an unknown option, attribute, value, command or flag ends with what the tables say. To add a name, add a line:
`tests/test_foreign.py` checks that each target exists.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from types import FunctionType, MappingProxyType
from typing import Any, TypeVar

from ..errors import OptionError, short_repr
from .names import COMMANDS, FLAGS, METHODS, NAMES, RESULTS, TOKENIZER, VALUES
from .options import OPTIONS

__all__ = [
    "COMMANDS",
    "FLAGS",
    "METHODS",
    "NAMES",
    "OPTIONS",
    "RESULTS",
    "TOKENIZER",
    "VALUES",
    "advice",
    "check_methods",
    "checked",
    "flag_advice",
    "missing_attribute",
    "missing_name",
    "missing_result",
    "own_value",
    "unknown_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])


def advice(name: str, value: Any, known: Collection[str], *, loading: bool = False) -> str:
    """What to write instead of an unknown option, as a sentence without its full stop; "" if nothing is known.

    Args:
        name: the unknown option.
        value: its value.
        known: the options of the called function.
        loading: the called function is `lapwing.load`.
    """
    text = OPTIONS.get(f"{name}={value!r}", OPTIONS.get(name))
    if text is None:
        return ""
    last = ""
    for alternative in text.split(" | "):
        target, _, note = alternative.partition("; ")
        last, fits = _advised(target, note, value, known, loading)
        if fits:
            return last
    return last


def _advised(target: str, note: str, value: Any, known: Collection[str], loading: bool) -> tuple[str, bool]:
    """One alternative in words, and whether the called function has it."""
    if target == "-":
        return "leave it out" + (f": {note}" if note else ""), True
    more = f" ({note})" if note else ""
    if target.startswith("."):
        return f"use the method {target[1:]}{more}", not loading
    option, sign, fixed = target.removeprefix("load.").partition("=")
    own = own_value(option, value)
    if own is not None:
        fixed = repr(own)
    written = f"{option}={fixed}" if fixed else f"{option}={short_repr(value, 40)}" if sign else option
    if target.startswith("load.") and not loading:
        return f"set {written} in lapwing.load{more}", True
    if option in known:
        return f"use {written}{more}", True
    return f"{option} is an option of other methods{more}", False


def flag_advice(word: str, value: str, flags: Mapping[str, str], others: Collection[str]) -> str:
    """What to write instead of an unknown flag of the command line; "" if nothing is known.

    Args:
        word: the flag, such as "--max-new-tokens".
        value: the word after it, or "".
        flags: the flags of the command by the option that each sets.
        others: options that ``-o NAME=VALUE`` sets.
    """
    if word in FLAGS:
        return FLAGS[word]
    name = word.strip("-").replace("-", "_")
    text = OPTIONS.get(f"{name}={value.capitalize()}", OPTIONS.get(name, ""))
    for alternative in text.split(" | "):
        target, _, note = alternative.partition("; ")
        if target == "-":
            return "leave it out" + (f": {note}" if note else "")
        option, sign, fixed = target.removeprefix("load.").partition("=")
        shown = fixed.strip("'") if fixed else value if sign else ""
        more = f" ({note})" if note else ""
        if option in flags:
            return f"use {flags[option]} {shown}".rstrip() + more
        if option in others:
            return f"use -o {option}={shown}" + more
    near = difflib.get_close_matches(word, flags.values(), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""


def unknown_option(where: str, name: str, value: Any, known: Collection[str]) -> OptionError:
    """The error for an option that the function ``where`` does not have."""
    loading = where == "load"
    found = advice(name, value, known, loading=loading)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if not found:
        found = f"did you mean {' or '.join(near)}?" if near else f"expected {', '.join(sorted(known))}"
    return OptionError(f"{where} has no option {name}={short_repr(value, 40)}: {found}")


def checked(function: Function, known: Collection[str] = ()) -> Function:
    """The function with an error that names the right option for an unknown one.

    Args:
        function: a public function or method.
        known: the options that its ``**options`` takes.
    """
    code = inspect.unwrap(function).__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    accepted = {*names, *known} - {"self"}
    keywords = [*names[code.co_argcount :], *known]

    @functools.wraps(function)
    def call(*arguments: Any, **given: Any) -> Any:
        for name in given:
            if name not in accepted:
                raise unknown_option(function.__name__, name, given[name], keywords or accepted)
        return function(*arguments, **given)

    return call  # type: ignore[return-value]


def check_methods(kind: type, known: Collection[str] = ()) -> None:
    """Makes the public methods of a class `checked`; ``known`` are the options that a ``**options`` takes, without
    which methods with such are left as they are."""
    for name, value in list(vars(kind).items()):
        if isinstance(value, FunctionType) and not name.startswith("_"):
            takes = bool(value.__code__.co_flags & inspect.CO_VARKEYWORDS)
            if known or not takes:
                setattr(kind, name, checked(value, known if takes else ()))


def missing_attribute(
    owner: object, name: str, others: Mapping[str, type] = MappingProxyType({}), table: Mapping[str, str] = METHODS
) -> AttributeError:
    """The error for an attribute that a model or a tokenizer does not have.

    Args:
        owner: the object.
        name: the attribute.
        others: methods of other classes of models, and the class that has each.
        table: `METHODS` or `TOKENIZER`.
    """
    kind = type(owner)
    hint = ""
    if name in table:
        first = ""
        for alternative in table[name].split(" | "):
            target, _, note = alternative.partition("; ")
            if target == "-":
                hint = f"leave it out: {note}"
                break
            own = target.startswith("lapwing.") or (hasattr(kind, target[1:]) or target[1:] in vars(owner))
            words = f"use {target.removeprefix('.')}"
            if not own and target[1:] in others:
                words += f" of {_named(others[target[1:]])}, from a checkpoint of that kind"
            words += f" ({note})" if note else ""
            first = first or words
            if own:
                hint = words
                break
        hint = hint or first
    elif name in others:
        hint = f"only {_named(others[name])} has it; load a checkpoint of that kind"
    else:
        near = difflib.get_close_matches(name, [one for one in dir(kind) if not one.startswith("_")], n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
    return AttributeError(
        f"{kind.__name__!r} object has no attribute {name!r}" + (f": {hint}" if hint else ""), name=name, obj=owner
    )


def _named(kind: type) -> str:
    """A class of models with the kind of checkpoints that it loads: "an encoder (TextEncoder)"."""
    what = str(getattr(kind, "kind", "model"))
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what} ({kind.__name__})"


def missing_name(name: str) -> str:
    """What to use instead of an unknown attribute of the package, as the end of a message; "" if unknown."""
    if name not in NAMES:
        return ""
    target, _, note = NAMES[name].partition("; ")
    return f": use {target}" + (f", which {note}" if note.startswith("takes") else f" ({note})" if note else "")


def missing_result(kind: type, name: object) -> str:
    """The end of a message about an unknown attribute or key of a result: what has it here."""
    attributes = [one for one in dir(kind) if not one.startswith("_")]
    known = list(dict.fromkeys([*getattr(kind, "__dataclass_fields__", ()), *attributes]))
    if isinstance(name, int):
        return "; one text gives one result, and a list of texts a list of results"
    own = name if name in known else RESULTS.get(name) if isinstance(name, str) else None
    return f"; use .{own}" if own in known else f"; it has {', '.join(known)}"


def own_value(option: str, value: Any) -> str | None:
    """The value of ``option`` that a foreign one means, if known: "f16" for "float16"."""
    found = VALUES.get(option, {})
    text = value if isinstance(value, str) else short_repr(value)
    if option == "task" and text.startswith("translation_"):
        return "translate"
    return found.get(text, found.get(text.lower()))
