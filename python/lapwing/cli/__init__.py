"""The command line: one command per task; text from arguments, files or standard input; text or JSON lines
out.

Exit codes: 0 success, 1 error (one line on standard error, like warnings), 2 wrong usage, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from ..errors import Error


def run(argv: Sequence[str]) -> int:
    """Runs one command."""
    from .parser import build

    _open_closed_streams()
    _encode()
    parser = build()
    try:
        arguments, rest = parser.parse_known_args(argv)
        if rest and (not hasattr(arguments, "text") or any(word.startswith("-") for word in rest)):
            from .hints import unrecognized

            parser.error(unrecognized(arguments.parser if "parser" in arguments else parser, rest))
        if rest:  # texts after options
            arguments.text += rest
    except SystemExit as stop:
        return int(stop.code or 0) if not isinstance(stop.code, str) else 2
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = arguments.run(arguments)
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        print("\nlapwing: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe; flushing the buffer at exit must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Error, OSError, UnicodeError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        print(f"lapwing: error: {text or type(error).__name__}", file=sys.stderr)
        return 1
    except MemoryError:
        print(
            "lapwing: error: not enough memory: try smaller weights (--weights bf16)",
            file=sys.stderr,
        )
        return 1


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning without its source location, which is not in the user's code."""
    print(f"lapwing: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _encode() -> None:
    """Standard streams are UTF-8 whatever the locale, or as PYTHONIOENCODING asks; no character fails to be written."""
    from .input import named_encoding

    encoding = named_encoding() or "utf-8"
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8" if stream is sys.stdin else encoding, errors=errors)


def _open_closed_streams() -> None:
    """Replaces missing standard streams by the null device."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115  # stays open
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
