"""``lapwing chat`` at a terminal: editing, history, commands, Ctrl-C."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lapwing

pty = pytest.importorskip("pty", reason="terminals are of Unix")
pytest.importorskip("readline", reason="this Python has no line editing")

ANSWER = 4000
"""Tokens of an answer, about ten seconds of work, so that Ctrl-C arrives before its end."""
SECONDS = 60.0
"""Timeout for output."""


class Terminal:
    """A program with a pseudo-terminal."""

    def __init__(self, *words: str, **environment: str) -> None:
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lapwing", *words],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(other)
        self._shown = ""

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def until(self, what: str) -> str:
        """Reads up to and including a text; returns everything before it."""
        end = time.monotonic() + SECONDS
        while what not in self._shown:
            ready, _, _ = select.select([self._own], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{what!r} does not come: {self._shown[-2000:]!r}"
            self._shown += os.read(self._own, 1 << 16).decode("utf-8", "replace")
        before, _, self._shown = self._shown.partition(what)
        return before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._own)


def _take_terminal() -> None:
    """Makes the terminal the controlling one, so that it sends Ctrl-C to this process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(talker: Path, tmp_path: Path) -> Iterator[Terminal]:
    options = ["--max-tokens", str(ANSWER), "--ignore-eos", "--temperature", "0"]
    own = Terminal("chat", str(talker), *options, XDG_STATE_HOME=str(tmp_path / "state"))
    try:
        own.until("/help for commands")
        own.until("> ")
        yield own
    finally:
        own.close()


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal: Terminal, talker: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    terminal.type("Hello\n")
    terminal.until("Hello\r\n")
    terminal.until(" ")  # the answer has begun and is streamed
    terminal.type("\x03")
    terminal.until("\r\n> ")
    terminal.type(f"/save {path}\n")
    terminal.until("\r\n> ")
    user, assistant = json.loads(path.read_text(encoding="utf-8"))
    assert user == {"role": "user", "content": "Hello"}
    with lapwing.load(talker) as model:
        begun = model.chat([user], max_tokens=50, ignore_eos=True, temperature=0).text
        answer = assistant["content"]
        size = min(len(begun), len(answer)) - 1  # the last character may be half of one
        assert size > 0 and begun[:size] == answer[:size]
        assert len(model.tokenizer.encode(answer)) < ANSWER // 2
    terminal.type("\x03")  # at the prompt, Ctrl-C does not end the program either
    terminal.until("(Ctrl-D ends)")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(SECONDS) == 0


def test_lines_are_edited_and_remembered(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("/hepl\x7f\x7flp\n")  # two strokes of the backspace key
    assert "/again" in terminal.until("\r\n> ")
    terminal.type("\x1b[A\n")  # the arrow up
    assert "/again" in terminal.until("\r\n> ")
    terminal.type("/nonsense\n")
    terminal.until("there is no command /nonsense")
    terminal.until("> ")
    path = tmp_path / "talk.json"
    terminal.type("/system Be brief.\n")
    terminal.until("\r\n> ")
    terminal.type("one\\\n")
    terminal.until("\r\n. ")
    terminal.type("two\n")
    terminal.until("two\r\n")
    terminal.until(" ")
    terminal.type("\x03")
    terminal.until("\r\n> ")
    terminal.type(f"/save {path}\n")
    terminal.until("\r\n> ")
    system, user, _ = json.loads(path.read_text(encoding="utf-8"))
    assert system == {"role": "system", "content": "Be brief."}
    assert user == {"role": "user", "content": "one\ntwo"}
    for command, roles in (("/undo", ["system"]), ("/reset", ["system"])):
        terminal.type(f"{command}\n")
        terminal.until("\r\n> ")
        terminal.type(f"/save {path}\n")
        terminal.until("\r\n> ")
        assert [message["role"] for message in json.loads(path.read_text(encoding="utf-8"))] == roles
    terminal.type("/again\n")
    terminal.until("there is no message to answer")
    terminal.until("> ")
    terminal.type("/quit\n")
    assert terminal.process.wait(SECONDS) == 0
    history = (tmp_path / "state" / "lapwing" / "chat_history").read_text(encoding="utf-8").splitlines()
    assert {"/help", "/nonsense", "two", "/quit"} <= set(history)
