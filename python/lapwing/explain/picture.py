"""Pictures of explanations, as text and as HTML without scripts or external resources."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from html import escape

BAR = 20
"""Characters of the longest bar."""
MAX_CELLS = 40_000
"""Maximum cells of a table: browsers take long to lay out more."""

_STYLE = (
    "font-family:sans-serif;line-height:1.7;white-space:pre-wrap;overflow-wrap:anywhere;color:#111;background:#fff;"
    "padding:0.5em"
)
_CELL = "border:1px solid #ddd;padding:1px 5px;white-space:pre"


def shown(token: str) -> str:
    """A token without line breaks and other control characters."""
    found = "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") else c
        for c in token.replace("\n", "\\n").replace("\t", "\\t")
    )
    return found or "''"


def bars(title: str, tokens: Sequence[str], scores: Sequence[float]) -> str:
    """A line per token: its score, a bar, and the token."""
    most = _largest(scores)
    lines = [title]
    for token, score in zip(tokens, scores, strict=True):
        length = round(abs(score) / most * BAR)
        bar = ("+" if score > 0 else "-") * length
        lines.append(f"{score:+9.4f} {bar:<{BAR}} {shown(token)}")
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def page(body: str, *, whole: bool) -> str:
    """A page or an element."""
    element = f'<div style="{_STYLE}">{body}</div>'
    return document(element) if whole else element


def document(body: str) -> str:
    """A page of elements."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Lapwing explanation</title></head>'
        f"<body>{body}</body></html>\n"
    )


def paragraph(text: str) -> str:
    """Plain text."""
    return f'<p style="margin:0.3em 0">{escape(text)}</p>'


def runs(
    texts: Sequence[str],
    offsets: Sequence[tuple[int, int]],
    parts: Sequence[int | None],
    scores: Sequence[float],
    tokens: Sequence[str],
) -> list[str]:
    """Each text with its tokens shaded, and the added tokens behind it if any has a score."""
    most = _largest(scores)
    found = []
    for index, text in enumerate(texts):
        pieces, at = [], 0
        own = [place for place, part in enumerate(parts) if part == index]
        for place in sorted(own, key=lambda place: offsets[place]):
            start, end = offsets[place]
            start = max(start, at)  # tokens of one character overlap
            pieces.append(escape(text[at:start]))
            if end > start:
                pieces.append(_span("span", text[start:end], scores[place], most))
            at = max(at, end)
        pieces.append(escape(text[at:]))
        found.append(f'<p style="margin:0.3em 0">{"".join(pieces)}</p>')
    added = [place for place, part in enumerate(parts) if part is None and scores[place]]
    if added:
        spans = " ".join(_span("span", tokens[place], scores[place], most) for place in added)
        found.append(f'<p style="margin:0.3em 0">added: {spans}</p>')
    return found


def table(tokens: Sequence[str], targets: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """A row per target token and a column per input token."""
    if len(tokens) * len(targets) > MAX_CELLS:
        return paragraph(
            f"The table of {len(targets)} target tokens and {len(tokens)} input tokens has more than {MAX_CELLS} cells: "
            "it is in the attribute matrix alone."
        )
    most = max(map(_largest, matrix), default=1.0)
    head = "".join(f'<th style="{_CELL}">{escape(shown(token))}</th>' for token in tokens)
    rows = [f'<tr><th style="{_CELL}"></th>{head}</tr>']
    for target, row in zip(targets, matrix, strict=True):
        cells = "".join(_span("td", f"{score:+.2f}", score, most, _CELL) for score in row)
        rows.append(f'<tr><th style="{_CELL};text-align:left">{escape(shown(target))}</th>{cells}</tr>')
    return _table(rows)


def lens(tokens: Sequence[str], layers: Sequence[Sequence[Sequence[tuple[str, float]]]]) -> str:
    """A row per layer, the last on top, and a column per token."""
    if len(tokens) * len(layers) > MAX_CELLS:
        return paragraph(f"{len(layers)} rows of {len(tokens)} tokens have more than {MAX_CELLS} cells: see layers.")
    rows = []
    for number in range(len(layers) - 1, -1, -1):
        cells = []
        for top in layers[number]:
            detail = "\n".join(f"{shown(text)} {math.exp(logprob):.3f}" for text, logprob in top)
            share = math.exp(top[0][1])
            cells.append(
                f'<td style="{_CELL};background:rgba(30,100,220,{share:.3f})" title="{escape(detail)}">'
                f"{escape(shown(top[0][0]))}</td>"
            )
        rows.append(f'<tr><th style="{_CELL}">{number}</th>{"".join(cells)}</tr>')
    names = "".join(f'<th style="{_CELL}">{escape(shown(token))}</th>' for token in tokens)
    rows.append(f'<tr><th style="{_CELL}">layer</th>{names}</tr>')
    return _table(rows)


def _table(rows: Sequence[str]) -> str:
    return f'<div style="overflow-x:auto"><table style="border-collapse:collapse">{"".join(rows)}</table></div>'


def _span(tag: str, text: str, score: float, most: float, style: str = "") -> str:
    colour = "30,100,220" if score > 0 else "220,50,30"
    shade = f"background:rgba({colour},{0.75 * abs(score) / most:.3f})"
    return f'<{tag} style="{style};{shade}" title="{score:+.5f}">{escape(text)}</{tag}>'


def _largest(scores: Sequence[float]) -> float:
    return max(map(abs, scores), default=0.0) or 1.0
