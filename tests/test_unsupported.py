"""Families that are not supported: what they are and what would serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lapwing
from lapwing.architectures import families
from lapwing.architectures._unsupported import BY_TYPE, KINDS

from .refusals import GOLDEN, fails


def test_no_family_is_in_both_places() -> None:
    assert not set(BY_TYPE) & set(families())
    assert len(BY_TYPE) > 300


def test_what_serves_exists() -> None:
    own = {name.replace("_", "-") for name in families()} | set(families())
    for kind in KINDS:
        named = set(kind.instead.replace(",", " ").replace(":", " ").replace("(", " ").split()) & {*own, *BY_TYPE}
        assert named <= own, kind.what


def message(folder: Path, **config: object) -> str:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes((GOLDEN / "llama" / "model.safetensors").read_bytes())
    with pytest.raises(lapwing.CheckpointError) as caught:
        lapwing.load(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("whisper", "speech recognition; transcribe with another program"),
        ("clip", "joint embeddings of images and texts"),
        ("stable-diffusion", "image generation"),
        ("mamba", "state-space or linear-attention layers; a decoder with attention"),
        ("gpt_oss", "mixtures of experts of this design; mixtral and qwen3_moe are read"),
        ("deepseek_v3", "mixtures of experts"),
        ("qwen2_vl", "language models that read images"),
        ("vit", "vision; only text is read"),
        ("bark", "speech and music synthesis"),
        ("longformer", "modernbert (also for long texts)"),
        ("led", "t5, bart, pegasus"),
        ("llamma", "the nearest supported ones are llama"),
        ("zzz", "is unknown here, so it is not supported: docs/models.md lists"),
    ],
)
def test_the_error_says_why_and_what_serves(name: str, words: str, tmp_path: Path) -> None:
    found = message(tmp_path, model_type=name)
    assert f"model_type '{name}'" in found and "not supported" in found and words in found
    if name not in ("llamma", "zzz"):
        assert "nearest" not in found


def test_an_unknown_type_is_known_by_its_class(tmp_path: Path) -> None:
    assert "speech recognition" in message(tmp_path, model_type="zzz", architectures=["ZzzForSpeechSeq2Seq"])
    assert "of the class ZzzForCausalLM," in message(tmp_path, model_type="zzz", architectures=["ZzzForCausalLM"])


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        (
            "bert-seqcls",
            "tag",
            "needs a head for token-classification: this checkpoint (BertForSequenceClassification)",
        ),
        ("bert-tokcls", "classify", "has a head for token-classification, for the task tag"),
        ("bert-tokcls", "answer", "has a head for token-classification"),
        ("bert-qa", "tag", "has a head for question-answering, for the task answer"),
        ("bert-mlm", "classify", "has a head for fill-mask"),
        ("bert-model", "classify", "has no head, for the task embed or encode"),
        ("llama", "classify", "has a head for generation"),
        ("llama-seqcls", "generate", "has a head for sequence-classification"),
        ("bert-seqcls", "rank", "needs a head with 1 output: this one has 3: use classify"),
        ("bart-seqcls", "tag", "has a head for sequence-classification, for the task classify or rank"),
    ],
)
def test_a_task_that_the_head_does_not_serve_is_refused(name: str, task: str, words: str) -> None:
    fails(lapwing.OptionError, lambda: lapwing.load(GOLDEN / name, task=task), f"task is {task!r}", words)


def test_heads_of_equal_shape_are_told_apart_without_a_task() -> None:
    own = lapwing.load(GOLDEN / "bert-qa")
    fails(lapwing.OptionError, lambda: own.tag("the cat"), "is for question-answering: use answer")
    fails(lapwing.OptionError, lambda: own.classify("the cat"), "is for each token", "but answer")
    own = lapwing.load(GOLDEN / "bert-seqcls")
    fails(lapwing.OptionError, lambda: own.tag("the cat"), "is for whole texts", "but classify")
