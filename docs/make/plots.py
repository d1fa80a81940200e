"""The plots of the guide, docs/images/*.png, from the built-in models: ``python docs/make/plots.py`` (matplotlib)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benches")]
matplotlib.use("Agg")

import records  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from tests.reference.opened import twin  # noqa: E402
from tests.reference.quantize import q4, q6, q8  # noqa: E402

import lapwing  # noqa: E402

IMAGES = ROOT / "docs" / "images"
COLOUR, MARK = "#3b7a78", "#b03a2e"


def save(figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def words(tokenizer: lapwing.Tokenizer, ids: list[int]) -> list[str]:
    return [(tokenizer.id_to_token(i) or "").strip("\u2581\u0120") or "_" for i in ids]


def attention() -> None:
    """An encoder's, a decoder's and cross-attention, of one layer, averaged over heads."""
    english, verse = "A dog runs through the snow.", "O Romeo, Romeo, wherefore art thou"
    translator, writer = lapwing.load("lapwing/tiny-en-de"), lapwing.load("lapwing/tiny-shakespeare")
    assert isinstance(translator, lapwing.Seq2Seq) and isinstance(writer, lapwing.TextGenerator)
    source, text = translator.tokenizer.encode(english), writer.tokenizer.encode(verse)
    found = list(translator.translate(english).ids)
    target = [int(translator.config["decoder_start_token_id"]), *found[:-1]]
    columns = words(translator.tokenizer, source)
    written = words(writer.tokenizer, text)
    maps = [
        ("encoder", translator.attentions(source, -1).mean(axis=0), columns, columns),
        ("decoder", writer.attentions(text, -1).mean(axis=0), written, written),
        (
            "cross-attention",
            translator.attentions(source, -1, target, cross=True).mean(axis=0),
            columns,
            words(translator.tokenizer, found),
        ),
    ]
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 4.2))
    for axis, (title, shares, across, down) in zip(axes, maps, strict=True):
        axis.imshow(shares, cmap="GnBu", vmin=0)
        axis.set_title(title)
        axis.set_xticks(range(len(across)), across, rotation=90)
        axis.set_yticks(range(len(down)), down)
    save(figure, "attention")


def positions() -> None:
    table = twin("lapwing/tiny-en-de").weights["encoder.embedding.position.weight"][:64]
    figure, axis = pyplot.subplots(figsize=(8, 3))
    axis.imshow(table, cmap="GnBu", aspect="auto")
    axis.set_xlabel("value: sines, then cosines, from fast to slow")
    axis.set_ylabel("position")
    save(figure, "positions")


def quantization() -> None:
    """The distribution of the errors of a matrix, in parts of its root mean square."""
    w = twin("lapwing/tiny-shakespeare").weights["decoder.layers.0.feed_forward.up.weight"].astype(np.float32)
    size = float(np.sqrt((w**2).mean()))
    figure, axis = pyplot.subplots(figsize=(8, 3.2))
    for f, colour in ((q4, MARK), (q6, "#d9a441"), (q8, COLOUR)):
        error = np.sort(np.abs((f(w) - w) / size).ravel())
        label = f"{f.__name__}: {100 * float(np.sqrt((error**2).mean())):.1f} % (root mean square)"
        axis.plot(error, np.linspace(0, 1, error.size), color=colour, label=label)
    axis.set_xscale("log")
    axis.set_xlim(1e-4, 1)
    axis.set_xlabel("error of a weight / root mean square of the weights")
    axis.set_ylabel("part of the weights below")
    axis.legend(loc="upper left")
    save(figure, "quantization")


def roofline() -> None:
    """The two roofs of the machine of a record, and where kinds of work stand below them."""
    record = records.read("zen5-avx512")["rates"]
    reads, peaks = (np.concatenate([row[name] for row in record.values() if name in row]) for name in ROOFS)
    read, peak = float(np.median(reads)), float(np.median(peaks))
    per_byte = np.logspace(-1.5, 3, 200)
    figure, axis = pyplot.subplots(figsize=(8, 3.6))
    axis.plot(per_byte, np.minimum(per_byte * read, peak) / 1e9, color="black")
    for rows, name in ((1, "one answer"), (8, "8 answers"), (512, "a prompt of 512")):
        x = rows / BYTES_OF_Q8
        axis.axvline(x, color=COLOUR, linewidth=1, linestyle="--")
        axis.text(x * 0.93, 3, f"q8, {name}", rotation=90, ha="right", va="bottom", color=COLOUR)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("multiply-adds per byte of weights")
    axis.set_ylabel("10⁹ multiply-adds per second")
    axis.set_title(f"{read / 1e9:.0f} GB/s, {peak / 1e9:.0f}·10⁹ f32 multiply-adds per second (AMD Zen 5, 2 threads)")
    save(figure, "roofline")


ROOFS = ("read", "multiply_adds")
BYTES_OF_Q8 = 34 / 32


if __name__ == "__main__":
    for plot in (attention, positions, quantization, roofline):
        plot()
        print(plot.__name__)
