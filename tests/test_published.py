"""Checkpoints as people publish them: tables stored once, no class in config.json, wrappers' prefixes, extra heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lapwing

from .refusals import GOLDEN, Folder, fails

IDS, TARGET = [5, 9, 20, 7, 30], [2, 7, 11]


def changed(name: str, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A golden checkpoint with other tensors."""
    made = Folder(name, folder)
    save_file(change(load_file(made.weights)), made.weights)
    return made.path


def logits(place: Path) -> Any:
    with lapwing.load(place, weights="f32") as model:
        if model.kind == "decoder":
            return model.logits(IDS)
        return model.head_logits([IDS])[0] if model.kind == "encoder" else model.decoder_logits(IDS, TARGET)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("qwen2", "model.embed_tokens.weight", "lm_head.weight"),
        ("gpt2", "wte.weight", "lm_head.weight"),
        ("bart", "model.shared.weight", "lm_head.weight"),
        ("t5-v1_0", "shared.weight", "lm_head.weight"),
        ("bert-mlm", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ],
)
def test_a_tied_table_may_have_the_name_of_the_head(name: str, old: str, new: str, tmp_path: Path) -> None:
    def rename(tensors: dict[str, Any]) -> dict[str, Any]:
        if name == "gpt2":
            tensors = {key if key == old else f"transformer.{key}": value for key, value in tensors.items()}
        return {**{key: value for key, value in tensors.items() if key != old}, new: tensors[old]}

    np.testing.assert_array_equal(logits(changed(name, tmp_path, rename)), logits(GOLDEN / name))


def test_a_decoder_of_a_tied_table_embeds(tmp_path: Path) -> None:
    def rename(tensors: dict[str, Any]) -> dict[str, Any]:
        return {**tensors, "lm_head.weight": tensors.pop("model.embed_tokens.weight")}

    with lapwing.load(GOLDEN / "qwen2", task="encode") as model:
        want = model.encode(IDS)
    with lapwing.load(changed("qwen2", tmp_path, rename), task="encode") as model:
        np.testing.assert_array_equal(model.encode(IDS), want)


def test_an_untied_table_is_still_needed(tmp_path: Path) -> None:
    def drop(tensors: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in tensors.items() if key != "model.embed_tokens.weight"}

    folder = changed("llama", tmp_path, drop)
    fails(lapwing.CheckpointError, lambda: lapwing.load(folder), "missing tensor decoder.embedding.token.weight")


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bart", "t5-v1_0"])
@pytest.mark.parametrize("classes", [None, ["MyOwnLLM"]])
def test_a_model_without_a_known_class_generates_if_it_can(name: str, classes: Any, tmp_path: Path) -> None:
    folder = Folder(name, tmp_path)
    folder.config({"architectures": classes})
    np.testing.assert_array_equal(logits(folder.path), logits(GOLDEN / name))


def test_a_decoder_without_a_head_and_class_encodes(tmp_path: Path) -> None:
    folder = Folder("llama", tmp_path)
    tensors = load_file(folder.weights)
    del tensors["lm_head.weight"]
    save_file(tensors, folder.weights)
    folder.config({"architectures": None})
    with lapwing.load(folder.path) as model:
        assert isinstance(model, lapwing.TextEncoder)


def test_an_encoder_without_a_class_encodes(tmp_path: Path) -> None:
    folder = Folder("bert-mlm", tmp_path)
    folder.config({"architectures": None})
    with lapwing.load(folder.path) as model:
        assert isinstance(model, lapwing.TextEncoder)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed(prefix: str, tmp_path: Path) -> None:
    folder = changed("llama", tmp_path, lambda tensors: {f"{prefix}{key}": value for key, value in tensors.items()})
    np.testing.assert_array_equal(logits(folder), logits(GOLDEN / "llama"))


def test_one_name_with_a_prefix_is_unknown(tmp_path: Path) -> None:
    extra = {"module.model.norm.weight": np.zeros(36, np.float32)}
    folder = changed("llama", tmp_path, lambda tensors: {**tensors, **extra})
    fails(lapwing.CheckpointError, lambda: lapwing.load(folder), "unknown tensor module.model.norm.weight")


def test_a_value_head_is_left_out(tmp_path: Path) -> None:
    head = {"v_head.summary.weight": np.zeros((1, 36), np.float32), "v_head.summary.bias": np.zeros(1, np.float32)}
    folder = changed("llama", tmp_path, lambda tensors: {**tensors, **head})
    np.testing.assert_array_equal(logits(folder), logits(GOLDEN / "llama"))


def test_float64_is_read(tmp_path: Path) -> None:
    folder = changed(
        "llama", tmp_path, lambda tensors: {key: value.astype(np.float64) for key, value in tensors.items()}
    )
    np.testing.assert_array_equal(logits(folder), logits(GOLDEN / "llama"))


def test_next_sentences_are_classified_by_a_pretrained_model(tmp_path: Path) -> None:
    """A BertForPreTraining has both heads: the masked words by its class, the pairs on demand."""
    path, folder = GOLDEN / "bert-nsp", Folder("bert-mlm", tmp_path)
    tensors = load_file(folder.weights)
    rng = np.random.default_rng(0)
    width = json.loads((folder.path / "config.json").read_text())["hidden_size"]
    tensors["bert.pooler.dense.weight"] = rng.standard_normal((width, width)).astype(np.float32)
    tensors["bert.pooler.dense.bias"] = rng.standard_normal(width).astype(np.float32)
    head, bias = rng.standard_normal((2, width)).astype(np.float32), rng.standard_normal(2).astype(np.float32)
    save_file({**tensors, "cls.seq_relationship.weight": head, "cls.seq_relationship.bias": bias}, folder.weights)
    folder.config({"architectures": ["BertForPreTraining"]})
    with lapwing.load(folder.path) as model:
        assert model.fill_mask("The [MASK] runs.") and model.spec.language_head is not None
    with lapwing.load(folder.path, task="encode") as model:
        pooled = np.asarray(model.pooled([IDS]))
    with lapwing.load(folder.path, task="classify") as model:
        np.testing.assert_allclose(model.head_logits([IDS]), pooled @ head.T + bias, atol=1e-4)
    with lapwing.load(path) as model:
        assert len(model.head_logits([IDS])[0]) == 2
