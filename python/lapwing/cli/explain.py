"""The command that explains predictions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..explain import picture
from .text import load, need, progress, texts, write_json

_GIVEN = ("target", "source_lang", "target_lang", "max_tokens")


def explain(arguments: argparse.Namespace) -> None:
    """Contributions of the tokens of each text, or the logit lens."""
    items = texts(arguments)
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
    with load(arguments) as model:
        if arguments.logit_lens:
            method = need(model, "logit_lens", "explain")
            top = {} if arguments.top is None else {"top": arguments.top}
            results = [method(item, **given, **top) for item in items]
        else:
            results = need(model, "explain", "explain")(items, **given, **own, progress=progress(arguments))
    if arguments.html is not None:
        body = "".join(result.to_html(whole=False) for result in results)
        Path(arguments.html).write_text(picture.document(body), encoding="utf-8")
    for index, (item, result) in enumerate(zip(items, results, strict=True)):
        if arguments.json:
            write_json(result, text=item)
        elif arguments.html is None:
            print(f"\n{result}" if index else result)
