"""The picture of the README, docs/images/speed.svg, from a record: ``python docs/make/bars.py --write``."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))

import records  # noqa: E402
import table  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "speed.svg"
RECORD = "zen5-avx512"
BARS = {
    "decode llama-1b q8": "Llama 1B, one answer",
    "decode after 4096 llama-1b q8": "Llama 1B, after 4,096 tokens",
    "8 prompts llama-1b q8": "Llama 1B, 8 answers at once",
    "prefill 512 llama-1b q8": "Llama 1B, reading a prompt",
    "minilm short f32": "MiniLM embeddings, f32",
    "minilm short q8 int8": "MiniLM embeddings, 8 bits",
    "opus-mt q8 greedy x1": "opus-mt, one sentence",
    "opus-mt q8 beam 4 x32": "opus-mt, 32 sentences, 4 beams",
}
"""Row of the record to label: one weight type for each model, not the best rows of the record."""
UNITS = {"decode": "tokens/s", "8": "tokens/s", "prefill": "tokens/s", "minilm": "texts/s", "opus-mt": "tokens/s"}
LEFT, TOP, HEIGHT, SCALE, WIDTH = 250, 52, 34, 60, 860


def svg() -> str:
    """The picture: a bar is Lapwing's median rate over that of the fastest peer measured in the same rounds."""
    record = records.read(RECORD)
    rows = {row.name: row for row in table.rows(record["machine"]["isa"])}
    bottom = TOP + HEIGHT * len(BARS)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 42}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="14" fill="#1f2a2a">',
        f'<rect width="{WIDTH}" height="{bottom + 42}" fill="#ffffff"/>',
        '<text x="16" y="26" font-size="16" font-weight="bold">Speed of Lapwing beside the fastest peer (= 1)</text>',
    ]
    for place, (name, label) in enumerate(BARS.items()):
        rates = record["rates"][name]
        peer = table.best(rows[name], rates)
        assert peer is not None, name
        ours = statistics.median(rates[rows[name].ours])
        times, y = ours / peer[1], TOP + HEIGHT * place
        unit = UNITS[name.split()[0]]
        out += [
            f'<text x="{LEFT - 10}" y="{y + 18}" text-anchor="end">{label}</text>',
            f'<rect x="{LEFT}" y="{y + 3}" width="{times * SCALE:.0f}" height="22" rx="2" fill="#3b7a78"/>',
            f'<text x="{LEFT + times * SCALE + 8:.0f}" y="{y + 18}"><tspan font-weight="bold">{times:.2f}</tspan>'
            f'<tspan fill="#5c6b6b" font-size="12">  {ours:,.0f} {unit}, {peer[0]} {peer[1]:,.0f}</tspan></text>',
        ]
    machine = record["machine"]
    out += [
        f'<line x1="{LEFT + SCALE}" x2="{LEFT + SCALE}" y1="{TOP - 6}" y2="{bottom}" stroke="#b03a2e" stroke-dasharray="4 3"/>',
        f'<text x="16" y="{bottom + 24}" font-size="12" fill="#5c6b6b">{machine["cpu"]} (Zen 5, AVX-512), '
        f"{machine['threads']} threads, {machine['time']}; medians of rounds in turn on the same work; "
        "weights of 8 bits unless f32 is named</text>",
        "</svg>",
    ]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PICTURE.write_text(svg(), encoding="utf-8")
    else:
        print(svg())
