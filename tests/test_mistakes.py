"""Forty mistakes of beginners and the messages that they get: each says what to write instead."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.__main__ import main

from .refusals import GOLDEN, model


class DataFrame:
    """What a table of pandas shows of itself: iteration gives the names of its columns."""

    columns = ("label", "text")
    iloc = None

    def __iter__(self) -> Any:
        return iter(self.columns)


class Dataset:
    """A table of datasets: iteration gives rows."""

    column_names = ("text",)

    def __iter__(self) -> Any:
        return iter([{"text": "a"}])


def gguf() -> Path:
    """A file of another program."""
    path = Path(tempfile.mkdtemp()) / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def generator() -> Any:
    return model("llama")


MISTAKES: list[tuple[str, Callable[[], Any], str]] = [
    ("from lapwing import pipeline", lambda: lapwing.pipeline, "use lapwing.load"),
    ("lapwing.AutoModelForCausalLM", lambda: lapwing.AutoModelForCausalLM, "use lapwing.load"),
    ('lapwing.SentenceTransformer("x")', lambda: lapwing.SentenceTransformer, "use lapwing.load"),
    ('lapwing.generate("Hi")', lambda: lapwing.generate, "use lapwing.load (its result has generate)"),
    ('load("model.gguf")', lambda: lapwing.load(gguf()), "is a GGUF file of llama.cpp: expected safetensors"),
    ('load("x", device="cuda")', lambda: lapwing.load("x", device="cuda"), "everything runs on the CPU"),
    ('load("x", torch_dtype="float16")', lambda: lapwing.load("x", torch_dtype="float16"), "use weights='f16'"),
    ('load("x", load_in_4bit=True)', lambda: lapwing.load("x", load_in_4bit=True), "use weights='q4'"),
    ('load("x", n_ctx=4096)', lambda: lapwing.load("x", n_ctx=4096), "the context has the length of the model"),
    ('load("x", n_threads=8)', lambda: lapwing.load("x", n_threads=8), "use threads=8"),
    ('load("x", threads=0)', lambda: lapwing.load("x", threads=0), "expected a whole number from 1"),
    ('load("x", weights="int8")', lambda: lapwing.load("x", weights="int8"), "it is 'q8' here"),
    (
        'load("x", task="sentiment-analysis")',
        lambda: lapwing.load("x", task="sentiment-analysis"),
        "it is 'classify' here",
    ),
    ('load(classifier, task="tag")', lambda: lapwing.load(GOLDEN / "bert-seqcls", task="tag"), "for the task classify"),
    (
        'load(classifier, task="generate")',
        lambda: lapwing.load(GOLDEN / "bert-seqcls", task="generate"),
        "for the task classify",
    ),
    ('load(folder / "config.json")', lambda: lapwing.load(GOLDEN / "llama" / "config.json"), "give its folder"),
    ('generate("Hi", max_new_tokens=20)', lambda: generator().generate("Hi", max_new_tokens=20), "use max_tokens=20"),
    ('generate("Hi", do_sample=True)', lambda: generator().generate("Hi", do_sample=True), "use temperature=1"),
    ('generate("Hi", do_sample=False)', lambda: generator().generate("Hi", do_sample=False), "use temperature=0"),
    ('generate("Hi", stream=True)', lambda: generator().generate("Hi", stream=True), "use the method stream"),
    ('generate("Hi", num_beams=4)', lambda: generator().generate("Hi", num_beams=4), "use beams=4"),
    ('generate("Hi", top_p=0.9)', lambda: generator().generate("Hi", top_p=0.9), "set temperature above 0"),
    ('generate("Hi", n=3)', lambda: generator().generate("Hi", n=3), "set temperature above 0"),
    (
        'generate("Hi", repeat_penalty=1.1)',
        lambda: generator().generate("Hi", repeat_penalty=1.1),
        "use repetition_penalty=1.1",
    ),
    ('generate("Hi", temprature=1)', lambda: generator().generate("Hi", temprature=1), "did you mean temperature?"),
    ('generate("Hi", stopping="###")', lambda: generator().generate("Hi", stopping="###"), "are the option stop"),
    ('generate(b"Hi")', lambda: generator().generate(b"Hi"), "x.decode()"),
    ('generate(Path("prompt.txt"))', lambda: generator().generate(Path("prompt.txt")), "x.read_text()"),
    ('generate({"prompt": "Hi"})', lambda: generator().generate({"prompt": "Hi"}), "its iteration gives keys"),
    ('chat("Hi")', lambda: model("qwen3").chat("Hi"), '[{"role": "user", "content": text}]'),
    ("create_chat_completion(messages)", lambda: generator().create_chat_completion, "use chat"),
    ('generator.classify("Hi")', lambda: generator().classify("Hi"), "only an encoder (TextEncoder) has it"),
    (
        'generator.translate_batch(["Hi"])',
        lambda: generator().translate_batch,
        "use translate of an encoder-decoder (Seq2Seq)",
    ),
    ('encoder.encode("Hi")', lambda: model("bert-sentence").encode("Hi"), "embed"),
    ('generate_ids("Hi")', lambda: generator().generate_ids("Hi"), "model.tokenizer.encode(text)"),
    ("embed(df)", lambda: model("bert-sentence").embed(DataFrame()), "df['text'].tolist()"),
    ("embed(dataset)", lambda: model("bert-sentence").embed(Dataset()), "list(table['text'])"),
    ('embed({"a", "b"})', lambda: model("bert-sentence").embed({"a", "b"}), "sorted(x)"),
    ('embed(["a", nan])', lambda: model("bert-sentence").embed(["a", np.nan]), 'series.fillna("")'),
    ('embed("Hi", batch_size=32)', lambda: model("bert-sentence").embed("Hi", batch_size=32), "use batch_tokens"),
    (
        'embed("Hi", normalize_embeddings=True)',
        lambda: model("bert-sentence").embed("Hi", normalize_embeddings=True),
        "use normalize=True",
    ),
    ('rank("cats", "a text")', lambda: model("bert-sentence").rank("cats", "a text"), "expected a list"),
    (
        'classify("Hi", candidate_labels=["a"])',
        lambda: model("bert-seqcls").classify("Hi", candidate_labels=["a"]),
        "use labels=['a']",
    ),
    (
        'classify("Hi", labels="a, b")',
        lambda: model("bert-seqcls").classify("Hi", labels="a, b"),
        "expected a list of texts",
    ),
    ('fill_mask("Hi")', lambda: model("bert-mlm").fill_mask("Hi"), "[MASK]"),
    (
        'tag("Hi", aggregation="mean")',
        lambda: model("bert-tokcls").tag("Hi", aggregation="mean"),
        "it is 'average' here",
    ),
    ('translate("Hi", tgt_lang="de")', lambda: model("marian").translate("Hi", tgt_lang="de"), "use target_lang='de'"),
    (
        'translate("Hi", target_lang="klingon")',
        lambda: model("m2m_100-nllb").translate("Hi", target_lang="klingon"),
        "does not have",
    ),
    ('seq2seq.summarise("Hi")', lambda: model("bart").summarise, "use summarize"),
    ('model.to("cuda")', lambda: generator().to("cuda"), "everything runs on the CPU"),
]
"""The call as people write it, the call, and what the message must say."""

COMMANDS = [
    ("lapwing encode M Hi", "use embed"),
    ("lapwing generate M Hi --max-new-tokens 20", "use --max-tokens 20"),
    ("lapwing generate -m M -p Hi", "the model is the first argument"),
    ("lapwing generate M Hi --do-sample true", "use --temperature 1"),
    ("lapwing generate M Hi --device cuda", "everything runs on the CPU"),
    ("lapwing translate M Hi --tgt-lang de", "use --to de"),
    ("lapwing generate M Hi -w int4", "it is q4 here"),
]


def message(call: Callable[[], Any]) -> str:
    with pytest.raises((lapwing.Error, AttributeError)) as caught:
        call()
    return str(caught.value)


def test_there_are_forty() -> None:
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize(("call", "words"), [pytest.param(call, words, id=name) for name, call, words in MISTAKES])
def test_a_mistake_is_answered_with_the_way_out(call: Callable[[], Any], words: str) -> None:
    found = message(call)
    assert words in found, found
    assert len(found) < 500 and "\n" not in found, found


@pytest.mark.parametrize(("line", "words"), COMMANDS)
def test_a_command_is_answered_with_the_way_out(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()[1:]) == 2
    assert words in capsys.readouterr().err
