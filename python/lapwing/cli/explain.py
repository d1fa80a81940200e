"""The command that explains predictions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..explain import picture
from .input import Texts
from .text import load, need, progress, write, write_json

_GIVEN = ("target", "source_lang", "target_lang", "max_tokens")


def explain(arguments: argparse.Namespace) -> None:
    """Contributions of the tokens of each text, or the logit lens."""
    items = Texts(arguments)
    given: dict[str, Any] = {name: value for name in _GIVEN if (value := getattr(arguments, name)) is not None}
    own = {
        name: value
        for name in ("method", "removal", "samples", "seed")
        if (value := getattr(arguments, name)) is not None
    }
    if arguments.logit_lens and own:
        raise OptionError(f"--logit-lens and --{next(iter(own))} exclude each other: remove one of them")
    if arguments.top is not None and not arguments.logit_lens:
        raise OptionError("--top is set without --logit-lens: set both, or remove it")
    pictures: list[str] = []
    with load(arguments) as model:
        if arguments.logit_lens:
            lens = need(model, "logit_lens", "explain")
            top = {} if arguments.top is None else {"top": arguments.top}

            def run(texts: Any) -> Any:
                return (lens(text, **given, **top) for text in texts)
        else:
            method = need(model, "explain", "explain")

            def run(texts: Any) -> Any:
                return (method(text, **given, **own, progress=progress(arguments, writes=True)) for text in texts)

        for index, (item, result) in enumerate(items.results(run)):
            if result is not None and arguments.html is not None:
                pictures.append(result.to_html(whole=False))
            if arguments.json:
                write_json(result, text=item)
            elif arguments.html is None:
                write("" if result is None else f"\n{result}" if index else str(result))
    if arguments.html is not None:
        Path(arguments.html).write_text(picture.document("".join(pictures)), encoding="utf-8")
