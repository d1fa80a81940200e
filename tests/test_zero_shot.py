"""Zero-shot classification against the pipeline of transformers, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lapwing
from lapwing.__main__ import main

from .refusals import GOLDEN, Folder, fails, model

STORED = json.loads((GOLDEN / "zero_shot.json").read_text(encoding="utf-8"))
TEXTS = STORED["texts"]
TOLERANCE = 2e-5
"""Of probabilities: a relative change of 1e-6 in the weights changes logits of this size by less."""


def folder(case: dict[str, Any], path: Path) -> Path:
    """The checkpoint of a case: its names of labels, its head, its tokenizer."""
    own = Folder(case["checkpoint"], path)
    config = json.loads((own.path / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {str(index): label for index, label in enumerate(case["order"])}
    (own.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(own.path / "model.safetensors")
    head = "classifier.weight" if case["checkpoint"].startswith("bert") else "classification_head.out_proj.weight"
    tensors[head] = (tensors[head] * np.float32(case["scale"])).astype(tensors[head].dtype)
    save_file(tensors, own.path / "model.safetensors", {"format": "pt"})
    if not (own.path / "tokenizer.json").exists():
        (own.path / "tokenizer.json").write_text(json.dumps(STORED["tokenizer"]), encoding="utf-8")
    return own.path


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda case: f"{case['checkpoint']}-{case['order'][0]}")
def test_scores_are_those_of_the_pipeline(case: dict[str, Any], tmp_path: Path) -> None:
    own = lapwing.load(folder(case, tmp_path), task="classify")
    for call in case["calls"]:
        labels = call["candidate_labels"]
        options: dict[str, Any] = {"multi_label": call.get("multi_label", False)}
        if "hypothesis_template" in call:
            options["hypothesis"] = call["hypothesis_template"]
        found = own.classify(TEXTS, labels=labels, **options)
        for result, text, expected in zip(found, TEXTS, call["scores"], strict=True):
            assert {one.label: one.score for one in result.labels} == pytest.approx(expected, abs=TOLERANCE)
            assert [one.score for one in result.labels] == sorted((one.score for one in result.labels), reverse=True)
            assert (result.label, result.score) == (result.labels[0].label, result.labels[0].score)
            assert own.classify(text, labels=labels, **options) == result
        assert len(own.classify(TEXTS[0], labels=labels, top_k=1, **options).labels) == 1
    assert own(TEXTS[0], labels=labels) == own.classify(TEXTS[0], labels=labels)
    assert own.classify([], labels=["a"]) == []


def test_refusals(tmp_path: Path) -> None:
    own = lapwing.load(folder(STORED["cases"][0], tmp_path))
    error = lapwing.OptionError
    fails(
        error, lambda: model("bert-seqcls").classify("the", labels=["a"]), "no, maybe, yes, none of which is an entail"
    )
    fails(error, lambda: own.classify("the", labels="a,b"), "labels is 'a,b'", "list of texts")
    fails(error, lambda: own.classify("the", labels=[]), "expected at least one label")
    fails(error, lambda: own.classify("the", labels=["a", "a"]), "each once")
    fails(error, lambda: own.classify("the", labels=["a", 3]), "labels holds 3")
    fails(error, lambda: own.classify("the", labels=["a"], hypothesis="about it"), "{} in place of the label")
    fails(error, lambda: own.classify("the", labels=["a"], hypothesis=3), "hypothesis is 3")
    fails(error, lambda: own.classify("the", labels=["a"], multi_label=1), "multi_label is 1")
    fails(error, lambda: own.classify("the", labels=["a"], scores="sigmoid"), "multi_label")
    fails(error, lambda: own.classify(("a", "b"), labels=["a"], scores="auto", hypothesis="{"), "{} in place")
    fails(error, lambda: own.classify("the", multi_label=True), "multi_label is set without labels")
    fails(error, lambda: own.classify("the", hypothesis="It is {}."), "hypothesis is set without labels")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder(STORED["cases"][0], tmp_path)
    words = ["--label", "cat", "--label", "dog", "--label", "the news"]
    assert main(["classify", str(place), TEXTS[0], *words]) == 0
    best = max(STORED["cases"][0]["calls"][0]["scores"][0].items(), key=lambda item: item[1])
    assert capsys.readouterr().out == f"{best[0]}\t{best[1]:.4f}\t{TEXTS[0]}\n"
    assert main(["classify", str(place), TEXTS[0], *words, "--multi-label", "--json", "--hypothesis", "On {}."]) == 0
    found = json.loads(capsys.readouterr().out)
    own = lapwing.load(place).classify(
        TEXTS[0], labels=["cat", "dog", "the news"], multi_label=True, hypothesis="On {}."
    )
    assert [one["score"] for one in found["labels"]] == [one.score for one in own.labels]
