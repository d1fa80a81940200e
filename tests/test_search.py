"""Similarities, exact search and quantized vectors, against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

import lapwing
from lapwing.models import search

from .loaded import model

TEXTS = ["The quick brown fox", "Hello, World!", "a b c", "Hello, World!", "numbers 1 23"]


def test_search_of_texts_and_of_vectors() -> None:
    own = model("bert-sentence")
    vectors = own.embed(TEXTS)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.testing.assert_allclose(own.similarity(vectors, vectors), scores, atol=1e-6)
    hits = own.semantic_search(vectors, vectors, top_k=3)
    for row, near in zip(scores, hits, strict=True):
        np.testing.assert_allclose([hit.score for hit in near], np.sort(row)[::-1][:3], atol=1e-6)
        np.testing.assert_allclose([row[hit.index] for hit in near], [hit.score for hit in near], atol=1e-6)
    best = own.paraphrase_mining(TEXTS)[0]
    assert (best.first, best.second) == (1, 3)
    assert best.score == pytest.approx(1, abs=1e-6)
    assert len(own.paraphrase_mining(TEXTS)) == 10
    assert len(own.paraphrase_mining(TEXTS, max_pairs=4)) == 4
    with pytest.raises(lapwing.OptionError, match="shape"):
        own.similarity(vectors, vectors[:, :3])


@pytest.mark.parametrize("how", ["cosine", "dot", "euclidean", "manhattan"])
def test_measures(how: str) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((3, 5), dtype=np.float32), rng.standard_normal((4, 5), dtype=np.float32)
    difference = left[:, None].astype(np.float64) - right
    want = {
        "cosine": left @ right.T / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1),
        "dot": left @ right.T,
        "euclidean": -np.sqrt((difference**2).sum(axis=2)),
        "manhattan": -np.abs(difference).sum(axis=2),
    }[how]
    np.testing.assert_allclose(search.similarity(left, right, how), want, rtol=1e-5, atol=1e-6)


def test_precisions() -> None:
    own = model("bert-sentence")
    vectors = own.embed(TEXTS)
    ranges = np.stack((vectors.min(axis=0), vectors.max(axis=0)))
    steps = (ranges[1] - ranges[0]) / 255
    codes = own.embed(TEXTS, precision="uint8")
    assert codes.dtype == np.uint8
    assert (np.abs(ranges[0] + codes * steps - vectors) <= steps * 1.001 + 1e-6).all()
    assert np.array_equal(own.embed(TEXTS, precision="int8"), (codes.astype(int) - 128).astype(np.int8))
    assert np.array_equal(own.embed(TEXTS[0], precision="uint8", ranges=ranges), codes[0])
    bits = own.embed(TEXTS, precision="ubinary")
    assert np.array_equal(np.unpackbits(bits, axis=1)[:, : vectors.shape[1]], vectors > 0)
    assert np.array_equal(own.embed(TEXTS, precision="binary"), (bits.astype(int) - 128).astype(np.int8))
    with pytest.raises(lapwing.OptionError, match="one vector has no range"):
        own.embed(TEXTS[0], precision="int8")
    with pytest.raises(lapwing.OptionError, match="precision"):
        own.embed(TEXTS, precision="int4")
