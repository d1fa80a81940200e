"""Late interaction, term weights and static embeddings against recorded outputs of their libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lapwing

from .test_fixtures import GOLDEN, _close, expected, values


def _load(name: str) -> Any:
    return lapwing.load(GOLDEN / name, weights="f32")


@pytest.mark.parametrize("name", ["colbert", "colbert-stanford"])
def test_late_interaction(name: str) -> None:
    entry, want = expected(name)["multi_vector"], values(name)
    with _load(name) as model:
        queries = model.embed_tokens(entry["queries"], kind="query")
        documents = model.embed_tokens(entry["documents"])
        for kind, vectors in (("query", queries), ("document", documents)):
            for i, found in enumerate(vectors):
                _close(name, f"{kind}{i}.embeddings", found, want[f"{kind}{i}.embeddings"])
        for i, query in enumerate(entry["queries"]):
            assert np.array_equal(model.embed_tokens(query, kind="query"), queries[i])
            ranked = {one.index: one.score for one in model.rank(query, entry["documents"])}
            _close(name, "maxsim", [ranked[j] for j in range(len(ranked))], want["maxsim"][i])
        with pytest.raises(lapwing.OptionError, match="embed_tokens"):
            model.embed("a")
        with pytest.raises(lapwing.OptionError, match="SpladePooling"):
            model.embed_sparse("a")


def test_term_weights() -> None:
    entry, want = expected("splade")["sparse"], values("splade")["sparse.embeddings"]
    with _load("splade") as model:
        found = model.embed_sparse(entry["texts"])
        dense = np.zeros_like(want)
        for row, one in zip(dense, found, strict=True):
            row[one.ids] = one.weights
            assert (one.weights > 0).all()
            assert (np.diff(one.ids) > 0).all()
        _close("splade", "sparse.embeddings", dense, want)
        assert [len(one.ids) for one in found] == entry["nonzero"]
        alone = model.embed_sparse(entry["texts"][1])
        assert np.array_equal(alone.ids, found[1].ids)
        assert np.array_equal(alone.weights, found[1].weights)
        scores = {one.index: one.score for one in model.rank(entry["texts"][0], entry["texts"])}
        np.testing.assert_allclose([scores[i] for i in range(4)], want @ want[0], rtol=1e-4)
        with pytest.raises(lapwing.OptionError, match="embed_sparse"):
            model.embed("a")


def test_static_embeddings() -> None:
    entry, want = expected("static-model2vec")["sentence"], values("static-model2vec")["sentence.embeddings"]
    with _load("static-model2vec") as model:
        found = model.embed(entry["texts"])
        _close("static-model2vec", "sentence.embeddings", found, want)
        assert np.array_equal(model.embed(entry["texts"][1]), found[1])
        assert not model.embed("").any()
