"""``lapwing chat``: a conversation at the terminal, or line by line from a pipe.

Enter sends; lines that are pasted together, and a line that ends in a backslash with the next, are one message. Ctrl-C
stops the answer and keeps the text so far, Ctrl-D ends.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ContextLengthError, Error, OptionError
from .input import File
from .parser import setting
from .text import generation, json_list, load, need, write_json

if TYPE_CHECKING:
    from ..chat import Chat

HELP = """\
/help             show this text
/reset            start over
/undo             remove the last turn
/again            answer the last message again
/system TEXT      start over with this system message
/set NAME VALUE   change an option of generation; without a value restore it; alone show all
/tools FILE       tools of a JSON file for the template; alone none
/save FILE        write the conversation as JSON
/load FILE        continue a conversation that was saved
/quit             end (as Ctrl-D)
Pasted lines are one message; a line that ends in \\ continues on the next. Ctrl-C stops an answer."""

PASTE_SECONDS = 0.05
"""A line that follows another in this time is pasted, not typed."""


def chat(arguments: argparse.Namespace) -> int:
    """Runs the conversation."""
    from ..chat import Chat

    with load(arguments, "chat") as model:
        need(model, "stream_chat", "chat")
        settings = {
            "chat_template": arguments.template,
            "template_variables": dict(arguments.set),
            "tools": json_list(arguments.tools, "--tools"),
            "documents": json_list(arguments.documents, "--documents"),
            **generation(arguments),
        }

        def begin(system: str | None) -> Chat:
            return Chat(model, system=system, **settings)

        talk = begin(arguments.system)
        if sys.stdin.isatty():
            return _terminal(talk, begin, arguments)
        pipe = File("-")
        while (lines := pipe.read()) is not None:
            for line in lines:
                if line.strip():
                    _say(talk, line, arguments)
    return 0


def _terminal(talk: Chat, begin: Callable[[str | None], Chat], arguments: argparse.Namespace) -> int:
    history = _history()
    if not arguments.quiet:
        print(f"{talk.model.info().id}: /help for commands, Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            line = _read()
        except EOFError:
            print()
            break
        except KeyboardInterrupt:
            print("  (Ctrl-D ends)", file=sys.stderr)
            continue
        if not line.strip():
            continue
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            break
        if command == "/system":
            options = talk.options
            talk = begin(rest.strip() or None)
            talk.change(**options)
            continue
        try:
            if not _command(talk, command, rest.strip(), arguments):
                _say(talk, line, arguments)
        except ContextLengthError as error:
            print(f"lapwing: error: {error}; /undo and /reset make room", file=sys.stderr)
        except (Error, OSError) as error:
            print(f"lapwing: error: {error}", file=sys.stderr)
    if history is not None:
        import readline

        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(str(history))
        except OSError:
            pass  # failing to write the history is not an error
    return 0


def _command(talk: Chat, command: str, rest: str, arguments: argparse.Namespace) -> bool:
    """Runs a command of the conversation; False if the line is not a command."""
    if command == "/help":
        print(HELP, file=sys.stderr)
    elif command == "/reset":
        talk.reset()
    elif command == "/undo":
        talk.undo()
    elif command == "/again":
        last = next((m for m in reversed(talk.messages) if m["role"] == "user"), None)
        if last is None:
            print("there is no message to answer", file=sys.stderr)
        else:
            talk.undo()
            _say(talk, str(last["content"]), arguments)
    elif command == "/set":
        _set(talk, rest)
    elif command == "/tools":
        talk.change(tools=json_list(rest or None, "/tools"))
    elif command == "/load":
        if not rest:
            raise OptionError("/load needs the file of a conversation")
        talk.resume(json_list(rest, "/load") or [])
        print(f"{len(talk.messages)} messages", file=sys.stderr)
    elif command == "/save":
        Path(rest or "chat.json").write_text(
            json.dumps(talk.messages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    elif command.startswith("/") and command[1:].isalpha():
        print(f"there is no command {command}: /help lists them", file=sys.stderr)
    else:
        return False
    return True


def _set(talk: Chat, rest: str) -> None:
    """``/set NAME VALUE``: the value is JSON, else a text."""
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    if not name:
        for key, own in talk.options.items():
            print(f"{key} {json.dumps(own, ensure_ascii=False)}", file=sys.stderr)
        return
    key, given = setting(f"{name}={value.strip()}") if value.strip() else (name.replace("-", "_"), None)
    talk.change(**{key: given})


def _say(talk: Chat, text: str, arguments: argparse.Namespace) -> None:
    """One turn; Ctrl-C ends the answer, not the program."""
    chunks = talk.stream(text)
    answer = ""
    reason = None
    times: list[float] = []
    tokens = first = 0
    try:
        for chunk in chunks:
            answer += chunk.text
            reason = chunk.finish_reason
            tokens += len(chunk.ids)
            times.append(time.perf_counter())
            first = first or tokens
            if not arguments.json:
                print(chunk.text, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        reason = "interrupted"
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    if arguments.json:
        write_json({"message": text, "text": answer, "finish_reason": reason})
        return
    print(flush=True)
    if sys.stdin.isatty() and sys.stderr.isatty() and not arguments.quiet and tokens:
        # The rate of new tokens, without the time to read the prompt.
        seconds = times[-1] - times[0]
        rate = f", {(tokens - first) / seconds:.1f} tokens/s" if seconds > 0 and tokens > first else ""
        print(f"[{tokens} token{'s' if tokens > 1 else ''}{rate}]", file=sys.stderr, flush=True)


def _read() -> str:
    """A message: a line, with those pasted after it and those it continues on."""
    lines: list[str] = []
    mark = "> "
    while True:
        try:
            line = input(mark)
        except EOFError:
            if not lines:
                raise
            return "\n".join(lines)
        pasted = _waits()
        continues = line.endswith("\\")
        lines.append(line[:-1] if continues else line)
        if not (continues or pasted):
            return "\n".join(lines)
        mark = "" if pasted else ". "


def _waits() -> bool:
    """Whether a further line is there already. (Terminals that mark what is pasted give its lines as one.)"""
    try:
        return bool(select.select([sys.stdin], [], [], PASTE_SECONDS)[0])
    except (OSError, ValueError):
        return False  # Windows has no such question


def _history() -> Path | None:
    """Loads line editing and history, if the platform has readline."""
    try:
        import readline
    except ImportError:
        return None
    import os

    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    path = Path(home) / "lapwing" / "chat_history"
    try:
        if path.is_file():
            readline.read_history_file(str(path))
    except OSError:
        return None
    readline.set_history_length(1000)
    return path
