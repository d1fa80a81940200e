"""Folders of sentence-transformers, module by module, against that library's vectors (``tests/recipes.py``)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lapwing

from .recipes import GOLDEN, RECIPES, TEXTS, WIDTH, dense, make, pooling, router

EXPECTED = json.loads((GOLDEN / "recipes.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_vectors_of_each_module(name: str, tmp_path: Path) -> None:
    RECIPES[name](tmp_path)
    with lapwing.load(tmp_path, task="embed", weights="f32") as model:
        for call, want in EXPECTED[name].items():
            # f32 in another order of operations: some thirty units of rounding of the largest value.
            allowed = 2e-6 * max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(getattr(model, call)(TEXTS), want, rtol=0, atol=allowed, err_msg=call)


def test_quantized_dense_layers_are_near(tmp_path: Path) -> None:
    RECIPES["normalize_first"](tmp_path)
    with lapwing.load(tmp_path, task="embed", weights="q8") as model:
        np.testing.assert_allclose(model.embed(TEXTS), EXPECTED["normalize_first"]["embed"], atol=0.05)


def test_a_folder_without_pooling_makes_no_vector(tmp_path: Path) -> None:
    make(tmp_path)
    with lapwing.load(tmp_path) as model, pytest.raises(lapwing.OptionError, match="has no Pooling"):
        model.embed(TEXTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation_function": "torch.nn.Softplus"}, "Softplus"),
        ({"activation_function": "mine.Tanh"}, "mine.Tanh"),
        ({"module_input_name": "token_embeddings"}, "expected sentence_embedding after the Pooling"),
        ({"out_features": 5}, "linear.weight"),
    ],
)
def test_impossible_dense_layers_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    make(tmp_path, "Pooling", "Dense")
    pooling(tmp_path / "1_Pooling", "mean")
    place = tmp_path / "2_Dense"
    dense(place, WIDTH, 4)
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    (place / "config.json").write_text(json.dumps({**config, **settings}), encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match=message):
        lapwing.load(tmp_path)


def test_classes_of_other_packages_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "Pooling")
    path = tmp_path / "modules.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries[1]["type"] = "mine.Pooling"
    path.write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match=r"mine\.Pooling is code of another package"):
        lapwing.load(tmp_path)


def test_routes_by_the_kind_of_text(tmp_path: Path) -> None:
    router(tmp_path)
    path = tmp_path / "2_Router" / "router_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["parameters"] = {"default_route": None, "allow_empty_key": False}
    path.write_text(json.dumps(config), encoding="utf-8")
    with lapwing.load(tmp_path, task="embed", weights="f32") as model:
        with pytest.raises(lapwing.OptionError, match="encode_query or encode_document"):
            model.embed("a")
        np.testing.assert_allclose(model.encode_query(TEXTS), EXPECTED["router"]["encode_query"], atol=5e-6)
