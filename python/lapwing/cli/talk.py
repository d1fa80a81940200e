"""``lapwing chat``: a conversation at the terminal, or line by line from a pipe.

Enter sends; a line that ends in a backslash continues on the next. Ctrl-C stops the answer and keeps the text
so far, Ctrl-D ends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ContextLengthError, Error
from .text import generation, json_list, load, need, write_json

if TYPE_CHECKING:
    from ..chat import Chat

HELP = """\
/help          show this text
/reset         start over
/undo          remove the last turn
/again         answer the last message again
/system TEXT   start over with this system message
/save FILE     write the conversation as JSON
/quit          end (as Ctrl-D)
A line that ends in \\ continues on the next. Ctrl-C stops an answer."""


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
        for line in sys.stdin:
            if line.strip():
                _say(talk, line.rstrip("\n"), arguments.json)
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
            talk = begin(rest.strip() or None)
            continue
        try:
            if not _command(talk, command, rest.strip(), arguments):
                _say(talk, line, arguments.json)
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
            _say(talk, str(last["content"]), arguments.json)
    elif command == "/save":
        import json

        Path(rest or "chat.json").write_text(
            json.dumps(talk.messages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    elif command.startswith("/") and command[1:].isalpha():
        print(f"there is no command {command}: /help lists them", file=sys.stderr)
    else:
        return False
    return True


def _say(talk: Chat, text: str, as_json: bool) -> None:
    """One turn; Ctrl-C ends the answer, not the program."""
    chunks = talk.stream(text)
    answer = ""
    reason = None
    try:
        for chunk in chunks:
            answer += chunk.text
            reason = chunk.finish_reason
            if not as_json:
                print(chunk.text, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        reason = "interrupted"
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    if as_json:
        write_json({"message": text, "text": answer, "finish_reason": reason})
    else:
        print()


def _read() -> str:
    lines: list[str] = []
    mark = "> "
    while True:
        line = input(mark)
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])
        mark = ". "


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
