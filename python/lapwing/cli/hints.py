"""Wrong usage of the command line: messages that name the right flag, value or command."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from ..foreign import COMMANDS, flag_advice, own_value

_OPTIONS = {
    "dim": "truncate_dim",
    "offline": "local_files_only",
    "ignore_label": "ignore_labels",
    "target": "targets",
    "template": "chat_template",
    "set": "template_variables",
    "label": "labels",
}
"""Options of methods by the ``dest`` of a flag, where the names differ."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors say what to write instead."""

    def error(self, message: str) -> NoReturn:
        """Ends with the usage and the message, completed by a hint."""
        hint: str | None = None
        if found := re.match(r"argument (\S+): invalid choice: '([^']*)'", message):
            hint = _instead(found[1], found[2], message)
        elif found := re.match(r"ambiguous option: (\S+) could match", message):
            hint = flag_advice(found[1], "", _flags(self), ())
        super().error(message + (f"; {hint}" if hint else ""))


def _instead(argument: str, value: str, message: str) -> str | None:
    if argument == "COMMAND":
        if value in COMMANDS:
            return f"use {COMMANDS[value]}"
        near = difflib.get_close_matches(value, re.findall(r"[\w-]+", message.partition("choose from")[2]), n=2)
        return f"did you mean {' or '.join(near)}?" if near else None
    own = own_value(argument.rpartition("--")[2].replace("-", "_"), value)
    return None if own is None else f"it is {own} here"


def _flags(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The flags of a command by the option of a method that each sets."""
    found = {}
    for action in parser._actions:
        long = [text for text in action.option_strings if text.startswith("--")]
        if long and action.dest != "help":
            found[_OPTIONS.get(action.dest, action.dest)] = long[0]
    return found


def unrecognized(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """The message for arguments that a command does not have.

    Args:
        parser: that of the command.
        words: the unrecognized words, in order.
    """
    from ..models.options import GenerateOptions

    flags = _flags(parser)
    others = GenerateOptions.__annotations__ if "option" in flags else ()
    hints = []
    for place, word in enumerate(words):
        if not word.startswith("-"):
            continue
        name, _, value = word.partition("=")
        if not value and place + 1 < len(words) and not words[place + 1].startswith("-"):
            value = words[place + 1]
        hint = flag_advice(name, value, flags, others)
        if hint:
            hints.append(f"{name}: {hint}")
    return "; ".join([f"unrecognized arguments: {' '.join(words)}", *hints])
