"""Bad input raises the named error, which says what, where, what was expected and what there was."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lapwing

GOLDEN = Path(__file__).parent / "golden"
Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    shutil.copytree(GOLDEN / "llama", path)
    return path


def configuration(**values: Any) -> Change:
    def change(path: Path) -> None:
        found = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**found, **values}))

    return change


def weights(edit: Callable[[dict[str, Any], bytearray], bytes | None]) -> Change:
    """Changes the header and the data of the weights; a result replaces the whole file."""

    def change(path: Path) -> None:
        file = path / "model.safetensors"
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        header, data = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])
        whole = edit(header, data)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data if whole is None else whole)

    return change


NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


def truncated(header: dict[str, Any], data: bytearray) -> None:
    del data[-4:]


def overlapping(header: dict[str, Any], data: bytearray) -> None:
    first = min(header, key=lambda name: header[name].get("data_offsets", [2**60])[0])
    header[NORM]["data_offsets"] = [o - o for o in header[NORM]["data_offsets"]]
    size = 4
    for n in header[NORM]["shape"]:
        size *= n
    header[NORM]["data_offsets"] = [header[first]["data_offsets"][0], header[first]["data_offsets"][0] + size]


def oversized(header: dict[str, Any], data: bytearray) -> None:
    header[NORM]["data_offsets"][1] = 2**50


def missing(header: dict[str, Any], data: bytearray) -> None:
    header["model.layers.0.self_attn.qq_proj.weight"] = header.pop(QUERY)


def reshaped(header: dict[str, Any], data: bytearray) -> None:
    header[QUERY]["shape"] = [header[QUERY]["shape"][0] * 2, header[QUERY]["shape"][1] // 2]


def integers(header: dict[str, Any], data: bytearray) -> None:
    header[NORM]["dtype"] = "I32"


def not_a_number(header: dict[str, Any], data: bytearray) -> None:
    start = header[QUERY]["data_offsets"][0]
    data[start : start + 4] = struct.pack("<f", float("nan"))


def pickle(header: dict[str, Any], data: bytearray) -> bytes:
    return b"\x80\x04\x95" + bytes(100)


def pointer(header: dict[str, Any], data: bytearray) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (weights(truncated), ["model.safetensors", "bytes"]),
        (weights(overlapping), ["model.safetensors", NORM]),
        (weights(oversized), ["model.safetensors", NORM]),
        (weights(missing), ["missing tensor", "attention.query.weight", "unknown tensor", "qq_proj"]),
        (weights(reshaped), [QUERY, "has shape", "expected"]),
        (weights(integers), [NORM, "I32", "expected float32"]),
        (weights(not_a_number), [QUERY, "NaN", "expected a finite number"]),
        (weights(pickle), ["model.safetensors"]),
        (weights(pointer), ["model.safetensors", "LFS"]),
        (configuration(model_type="lama"), ["model_type", "'lama'", "not supported", "llama"]),
        (configuration(model_type="stable-diffusion"), ["model_type", "not supported", "nearest"]),
        (configuration(hidden_size=-3), ["config.json", "hidden_size", "-3"]),
        (configuration(hidden_size=10**30), ["config.json", "hidden_size"]),
        (configuration(hidden_size="many"), ["config.json", "hidden_size", "many"]),
        (configuration(num_hidden_layers=10**9), ["config.json", "num_hidden_layers"]),
        (configuration(num_attention_heads=0), ["config.json", "num_attention_heads"]),
        (configuration(num_key_value_heads=3), ["k_proj", "expected"]),
        (configuration(hidden_act="swoosh"), ["config.json", "hidden_act", "swoosh", "silu"]),
        (configuration(rope_parameters={"rope_type": "spiral"}), ["rope_type", "spiral", "linear"]),
        (configuration(rms_norm_eps=None, vocab_size=None), ["config.json", "vocab_size"]),
        (lambda path: (path / "config.json").unlink(), ["config.json"]),
        (lambda path: (path / "config.json").write_text("{"), ["config.json"]),
        (lambda path: (path / "config.json").write_bytes(b"\xff\xfe{"), ["config.json"]),
        (lambda path: (path / "model.safetensors").unlink(), ["safetensors"]),
        (
            lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
            ["safetensors", "pytorch_model.bin"],
        ),
    ],
)
def test_damaged_checkpoints(change: Change, words: list[str], folder: Path) -> None:
    change(folder)
    with pytest.raises((lapwing.CheckpointError, lapwing.SpecError)) as caught:
        lapwing.load(folder, weights="f32")
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_numbers_that_run_away_are_an_error(folder: Path) -> None:
    def huge(header: dict[str, Any], data: bytearray) -> None:
        a, b = header[NORM]["data_offsets"]
        data[a:b] = struct.pack("<f", 3e38) * ((b - a) // 4)

    weights(huge)(folder)
    with lapwing.load(folder, weights="f32") as model, pytest.raises(lapwing.NumericalError, match=r"NaN|inf"):
        model.generate_ids([1, 2, 3], max_tokens=2)


@pytest.fixture(scope="module")
def decoder() -> Any:
    return lapwing.load("lapwing/tiny-shakespeare")


@pytest.fixture(scope="module")
def translator() -> Any:
    return lapwing.load("lapwing/tiny-en-de")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([-1], ["-1"]),
        ([1, 10**9], ["1000000000"]),
        ([2**70], []),
        ([1.5], ["1.5"]),
        (["a"], ["'a'"]),
        ([True], ["True"]),
        ([None], ["None"]),
        (None, ["None"]),
        (3, ["3"]),
        ("text", []),
        ([[1], []], ["empty"]),
        ([[1], [[2]]], []),
    ],
    ids=str,
)
def test_bad_ids(ids: Any, words: list[str], decoder: Any, translator: Any) -> None:
    for model in (decoder, translator):
        with pytest.raises(lapwing.OptionError) as caught:
            model.generate_ids(ids, max_tokens=2)
        for word in words:
            assert word in str(caught.value)


def test_prompts_beyond_the_model(decoder: Any) -> None:
    longest = decoder.max_length
    for call in (decoder.logits, lambda ids: decoder.generate_ids(ids, max_tokens=1)):
        with pytest.raises(lapwing.ContextLengthError, match=str(longest)):
            call([5] * (longest + 1))
    with pytest.raises(lapwing.ContextLengthError, match="max_tokens"):
        decoder.generate_ids([5] * (longest - 2), max_tokens=10)


NUMBERS = [
    "max_tokens",
    "top_k",
    "n",
    "beams",
    "num_hypotheses",
    "no_repeat_ngram_size",
    "seed",
    "logprobs",
    "min_tokens",
]
FACTORS = ["temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty", "presence_penalty"]
LISTS = ["stop_ids", "suppress_tokens", "begin_suppress_tokens", "bad_words", "stop", "logit_bias", "processor"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, 2**70, 1.5, "many", [], float("nan"), True], ids=repr)
def test_absurd_numbers_are_refused_by_name(name: str, value: Any, decoder: Any) -> None:
    if name == "logprobs" and value is True:
        value = -1  # here True is 0 alternatives
    with pytest.raises(lapwing.OptionError, match=name):
        decoder.generate_ids([1, 2], **{"max_tokens": 2, "temperature": 0.5, name: value})


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "hot", [], None.__class__, 1e400], ids=repr)
def test_absurd_factors_are_refused_by_name(name: str, value: Any, decoder: Any) -> None:
    with pytest.raises(lapwing.OptionError, match=name):
        decoder.generate_ids([1, 2], **{"max_tokens": 2, "temperature": 0.5, name: value})


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("value", [3.5, [[[]]], [-1], [10**9], {"a": "b"}], ids=repr)
def test_absurd_lists_are_refused_by_name(name: str, value: Any, decoder: Any) -> None:
    if name == "stop_ids" and value == [10**9]:
        value = [10**20]
    with pytest.raises(lapwing.OptionError, match=name):
        decoder.generate_ids([1, 2], **{"max_tokens": 2, name: value})


def test_unknown_options_name_the_nearest(decoder: Any) -> None:
    with pytest.raises(lapwing.OptionError, match=r"max_new_token.*max_tokens"):
        decoder.generate_ids([1, 2], max_new_token=2)
    with pytest.raises(lapwing.OptionError, match=r"temprature.*temperature"):
        decoder.generate("A", temprature=1.0)


def test_a_closed_model_says_so() -> None:
    model = lapwing.load("lapwing/tiny-shakespeare")
    model.close()
    for call in (lambda: model.generate("A"), lambda: model.logits([1]), model.info):
        with pytest.raises(lapwing.Error, match="closed"):
            call()
