"""Encoders with unusual checkpoints or configurations, and the tasks against recorded pipelines."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lapwing

GOLDEN = Path(__file__).parent / "golden"
PIPELINES = json.loads((GOLDEN / "pipelines.json").read_text(encoding="utf-8"))


@cache
def model(name: str) -> Any:
    return lapwing.load(GOLDEN / name)


def _sequences(inputs: dict[str, Any]) -> tuple[list[list[int]], list[list[int]] | None]:
    """Ids and segments without the padding."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask") or [[1] * len(row) for row in ids]
    kept = [[t for t, m in zip(row, keep, strict=True) if m] for row, keep in zip(ids, mask, strict=True)]
    segments = inputs.get("token_type_ids")
    if segments is not None:
        segments = [[t for t, m in zip(row, keep, strict=True) if m] for row, keep in zip(segments, mask, strict=True)]
    return kept, segments


def _compare(own: Any, folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    values = load_file(folder / "expected.safetensors")
    checked = 0
    for key, inputs in expected["inputs"].items():
        ids, segments = _sequences(inputs)
        found: dict[str, list[Any]] = {}
        if f"{key}.last_hidden_state" in values:
            found["last_hidden_state"] = own.encode(ids, segments)
        if f"{key}.pooler_output" in values:
            found["pooler_output"] = list(own.pooled(ids, segments))
        if f"{key}.logits" in values:
            found["logits"] = own.head_logits(ids, segments)
        if f"{key}.start_logits" in values:
            both = own.head_logits(ids, segments)
            found["start_logits"], found["end_logits"] = [x[:, 0] for x in both], [x[:, 1] for x in both]
        for name, rows in found.items():
            for want, got in zip(values[f"{key}.{name}"], rows, strict=True):
                if want.ndim < got.ndim:  # a discriminator's one output
                    got = got[:, 0]
                if want.shape != got.shape:
                    want = want[: len(got)]
                np.testing.assert_allclose(got, want, rtol=0, atol=expected["tolerance"][f"{key}.{name}"])
                checked += 1
    assert checked


@pytest.mark.parametrize("name", ["bert-bf16", "bert-f16", "bert-sharded"])
def test_weights_as_they_are_stored(name: str) -> None:
    with lapwing.load(GOLDEN / name, weights="stored") as own:
        _compare(own, GOLDEN / name)


def _renamed(source: str, folder: Path, change: Any) -> Path:
    """A copy of a checkpoint with renamed tensors."""
    shutil.copytree(GOLDEN / source, folder)
    stored = load_file(folder / "model.safetensors")
    save_file(change(stored), folder / "model.safetensors", {"format": "pt"})
    return folder


def test_old_names_of_norms_missing_prefixes_and_unused_tensors(tmp_path: Path) -> None:
    def old(stored: dict[str, Any]) -> dict[str, Any]:
        return {
            key.removeprefix("bert.").replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
            for key, value in stored.items()
        } | {
            "embeddings.position_ids": np.arange(64)[None],
            "cls.seq_relationship.bias": np.zeros(2, np.float32),
            "pooler.dense.bias": np.zeros(32, np.float32),
        }

    folder = _renamed("bert-mlm", tmp_path / "old", old)
    _compare(lapwing.load(folder), folder)


@pytest.mark.parametrize(
    ("name", "embedding", "decoder"),
    [
        ("bert-mlm", "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder"),
        ("roberta-mlm", "roberta.embeddings.word_embeddings.weight", "lm_head.decoder"),
    ],
)
def test_language_heads_stored_twice_or_under_the_other_name(
    name: str, embedding: str, decoder: str, tmp_path: Path
) -> None:
    bias = decoder.rsplit(".", 1)[0] + ".bias"

    def twice(stored: dict[str, Any]) -> dict[str, Any]:
        return {**stored, f"{decoder}.weight": stored[embedding].copy(), f"{decoder}.bias": stored[bias].copy()}

    def other(stored: dict[str, Any]) -> dict[str, Any]:
        return {(f"{decoder}.bias" if key == bias else key): value for key, value in stored.items()}

    for change in (twice, other):
        folder = _renamed(name, tmp_path / change.__name__, change)
        _compare(lapwing.load(folder), folder)


def test_heads_of_other_tasks_are_left_out() -> None:
    whole = model("bert-mlm")
    own = lapwing.load(GOLDEN / "bert-mlm", task="encode")
    assert own.spec.language_head is None
    ids = [[5, 6, 7, 8]]
    np.testing.assert_array_equal(own.encode(ids)[0], whole.encode(ids)[0])


def test_shared_layers_are_stored_once() -> None:
    own = model("albert-seqcls")
    twice = GOLDEN / "albert-seqcls"
    stored = sum(value.size for value in load_file(twice / "model.safetensors").values())
    assert own.info().parameters <= stored


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("bert-mlm", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert-mlm", {"num_attention_heads": 5}, "num_attention_heads"),
        ("roberta-mlm", {"max_position_embeddings": 2}, "max_position_embeddings"),
        ("modernbert-seqcls", {"classifier_pooling": "max"}, "classifier_pooling"),
        ("modernbert-seqcls", {"layer_types": ["full_attention"]}, "layer_types"),
        ("nomic_bert", {"prenorm": True}, "prenorm"),
        ("nomic_bert", {"num_experts": 8, "moe_every_n_layers": 2}, "num_experts"),
        ("gte", {"logn_attention_scale": True}, "logn_attention_scale"),
        ("gte", {"layer_norm_type": "rms_norm"}, "layer_norm_type"),
        ("deberta-v2-seqcls", {"embedding_size": 16}, "embedding_size"),
        ("mpnet-model", {"num_hidden_layers": 10_000_000}, "num_hidden_layers"),
        ("albert-mlm", {"inner_group_num": 10_000_000}, "inner_group_num"),
        ("mpnet-model", {"relative_attention_num_buckets": 8}, "relative_attention_num_buckets"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, change: dict[str, Any], word: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match=word):
        lapwing.load(folder)


def test_batches_threads_and_singles_agree_to_the_bit() -> None:
    for name in ("deberta-v2-mlm", "esm-mlm", "eurobert-seqcls", "modernbert-tokcls", "mpnet-model", "roberta-seqcls"):
        rng = np.random.default_rng(0)
        ids = [rng.integers(5, 60, n).tolist() for n in (3, 40, 17)]
        wanted = None
        for threads in (1, 3):
            with lapwing.load(GOLDEN / name, threads=threads) as own:
                run = own.head_logits if own.spec.head or own.spec.language_head else own.encode
                together = run(ids)
                alone = [run([one])[0] for one in ids]
            wanted = wanted or together
            for found in (together, alone):
                assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)), name


# -- tasks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in PIPELINES if row["task"] == "tag"])
def test_tags_are_those_of_the_pipeline(row: dict[str, Any]) -> None:
    found = model(row["folder"]).tag(row["input"], ignore_labels=(), **row["options"])
    assert [[tag.label, tag.start, tag.end] for tag in found] == [span[:3] for span in row["output"]]
    assert [tag.score for tag in found] == pytest.approx([span[3] for span in row["output"]], abs=1e-5)
    assert all(tag.text == row["input"][tag.start : tag.end] for tag in found)


@pytest.mark.parametrize("row", [row for row in PIPELINES if row["task"] == "classify"])
def test_labels_are_those_of_the_pipeline(row: dict[str, Any]) -> None:
    found = model(row["folder"]).classify(tuple(row["input"]))
    assert [label.label for label in found.labels] == [label for label, _ in row["output"]]
    assert [label.score for label in found.labels] == pytest.approx([score for _, score in row["output"]], abs=1e-5)


@pytest.mark.parametrize("row", [row for row in PIPELINES if row["task"] == "fill_mask"])
def test_masks_are_filled_as_by_the_pipeline(row: dict[str, Any]) -> None:
    found = model(row["folder"]).fill_mask(row["input"], **row["options"])
    rows = found if len(row["output"]) > 1 else [found]
    for got, want in zip(rows, row["output"], strict=True):
        assert [[fill.id, fill.token, fill.text] for fill in got] == [one[:3] for one in want]
        assert [fill.score for fill in got] == pytest.approx([one[3] for one in want], abs=1e-5)


def test_the_best_of_answers_that_are_the_same_words() -> None:
    own = model("bert-qa")
    context = "One fox. Two foxes. one FOX."
    found = own.answer("How many?", context, top_k=30)
    texts = [answer.text.lower() for answer in (found, *found.alternatives)]
    assert len(texts) == len(set(texts))
