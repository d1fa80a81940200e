"""Bad names, settings and files: the exact exception, and a message with place, expected and actual value."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing

from .refusals import GOLDEN, Folder, fails

# -- names of models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("", lapwing.CheckpointError, ("name is empty",)),
        ("nosuch/../x", lapwing.CheckpointError, ("no folder 'nosuch/../x'", "owner/name")),
        ("lapwing/nosuch", lapwing.CheckpointError, ("no built-in model", "lapwing/tiny-en-de")),
        ("a" * 5000, lapwing.CheckpointError, ("is not a valid folder name",)),
        ("\0", lapwing.CheckpointError, ("expected a folder",)),
        ("~nosuchuser/x", lapwing.CheckpointError, ("is not a valid folder name",)),
        (None, lapwing.OptionError, ("name is None",)),
        (3, lapwing.OptionError, ("name is 3",)),
        (b"x", lapwing.OptionError, ("name is b'x'",)),
        (GOLDEN / "llama" / "config.json", lapwing.CheckpointError, ("is a file", "give its folder")),
        (GOLDEN / "nosuch", lapwing.CheckpointError, ("no folder",)),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, tuple) else None,
)
def test_names_of_models(name: Any, kind: type[Exception], words: tuple[str, ...]) -> None:
    fails(kind, lambda: lapwing.load(name, local_files_only=True), *words)


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("llama", "translate", ("needs an encoder-decoder", "is a decoder")),
        ("bert-seqcls", "generate", ("needs a head for generation", "has a head for sequence-classification")),
        ("marian", "chat", ("needs a decoder with a language head", "is an encoder-decoder")),
    ],
)
def test_tasks_that_a_checkpoint_does_not_serve(name: str, task: str, words: tuple[str, ...]) -> None:
    fails(lapwing.OptionError, lambda: lapwing.load(GOLDEN / name, task=task), f"task is {task!r}", *words)


@pytest.mark.parametrize(("activations", "weights"), [("int8", "q8"), ("bf16", "bf16")])
def test_activations_need_their_weights(activations: str, weights: str) -> None:
    for other in {"auto", "stored", "f32", "bf16", "f16", "q8", "q4"} - {weights}:
        found = "stored" if other == "auto" else other
        fails(
            lapwing.OptionError,
            lambda other=other: lapwing.load(GOLDEN / "llama", activations=activations, weights=other),
            f"needs weights='{weights}'",
            f"has weights='{found}'",
        )


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"top_p": "x"}, lapwing.OptionError, ("top_p of generation_config.json is 'x'",)),
        ({"do_sample": True, "temperature": -1}, lapwing.OptionError, ("temperature of generation_config.json is -1",)),
        (
            {"guidance_scale": 2},
            lapwing.OptionError,
            ("guidance_scale to 2", "not supported", "{'guidance_scale': None}"),
        ),
        ({"eos_token_id": "x"}, lapwing.CheckpointError, ("eos_token_id of generation_config.json is 'x'",)),
        ({"eos_token_id": [1, -1]}, lapwing.CheckpointError, ("eos_token_id", "holds -1")),
        ({"suppress_tokens": [400]}, lapwing.OptionError, ("suppress_tokens holds 400", "0 to 399")),
    ],
    ids=str,
)
def test_settings_of_the_checkpoint(settings: dict[str, Any], kind: type[Exception], words: tuple[str, ...]) -> None:
    def call() -> None:
        with lapwing.load(GOLDEN / "llama", generation_config=settings) as generator:
            generator.generate("the", max_tokens=2)

    fails(kind, call, *words)


# -- files -----------------------------------------------------------------------------------------------

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


def _rename(folder: Folder, old: str, new: str) -> None:
    header, data = folder.read()
    header[new] = header.pop(old)
    folder.write(header, data)


def _double(folder: Folder) -> None:
    header, data = folder.read()
    text = json.dumps(header)
    folder.write(f"{text[:-1]}, {json.dumps(NORM)}: {json.dumps(header[NORM])}}}".encode(), data)


def _drop(folder: Folder, name: str) -> None:
    """Removes the last tensor, so that no gap remains."""
    header, data = folder.read()
    start, stop = header.pop(name)["data_offsets"]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= stop:
            entry["data_offsets"] = [at - (stop - start) for at in entry["data_offsets"]]
    folder.write(header, data[:start] + data[stop:])


def _add(folder: Folder, name: str) -> None:
    header, data = folder.read()
    header[name] = {"dtype": "F32", "shape": [2], "data_offsets": [len(data), len(data) + 8]}
    folder.write(header, data + bytes(8))


def _swap(folder: Folder) -> None:
    """Two tensors at the same offset."""
    header, data = folder.read()
    norms = ["model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"]
    header[norms[1]]["data_offsets"] = header[norms[0]]["data_offsets"]
    folder.write(header, data)


_FILES: dict[str, tuple[Callable[[Folder], Any], tuple[str, ...]]] = {
    "no config": (lambda f: (f.path / "config.json").unlink(), ("no config.json", "download it too")),
    "config is a list": (lambda f: (f.path / "config.json").write_text("[]"), ("config.json", "not a JSON object")),
    "config is not JSON": (lambda f: (f.path / "config.json").write_text("{"), ("config.json", "not JSON", "line 1")),
    "config is not UTF-8": (lambda f: (f.path / "config.json").write_bytes(b'{"a": "\xff"}'), ("not UTF-8: byte 7",)),
    "config with a key twice": (
        lambda f: (f.path / "config.json").write_text('{"vocab_size": 1, "vocab_size": 2}'),
        ("'vocab_size' twice",),
    ),
    "config too deep": (
        lambda f: (f.path / "config.json").write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        ("config.json is nested too deeply",),
    ),
    "no weights": (
        lambda f: f.weights.unlink(),
        ("has no weights", "model.safetensors.index.json", "pytorch_model.bin"),
    ),
    "safetensors under another name": (
        lambda f: f.weights.rename(f.path / "pytorch_model.bin"),
        ("pytorch_model.bin is a safetensors file", "call it model.safetensors"),
    ),
    "a pickle under another name": (
        lambda f: f.weights.write_bytes(b"\x80\x04\x95" + bytes(99)),
        ("is a pickle", "call it pytorch_model.bin"),
    ),
    "a zip under another name": (lambda f: f.weights.write_bytes(b"PK\x03\x04" + bytes(99)), ("is a pickle",)),
    "a pointer of Git LFS": (
        lambda f: f.weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("Git LFS pointer", "git lfs pull"),
    ),
    "a web page": (lambda f: f.weights.write_text("<!DOCTYPE html><html></html>"), ("web page", "fetch it again")),
    "GGUF": (lambda f: f.weights.write_bytes(b"GGUF" + bytes(99)), ("GGUF", "expected safetensors")),
    "empty": (lambda f: f.weights.write_bytes(b""), ("0 bytes", "at least 8")),
    "a short header": (lambda f: f.weights.write_bytes(f.weights.read_bytes()[:100]), ("claims", "truncated")),
    "a huge header": (
        lambda f: f.weights.write_bytes(struct.pack("<Q", 2**63) + f.weights.read_bytes()[8:]),
        ("claims 9223372036854775808 bytes",),
    ),
    "cut off": (lambda f: f.weights.write_bytes(f.weights.read_bytes()[:-1]), ("data_offsets", "truncated")),
    "longer": (lambda f: f.weights.write_bytes(f.weights.read_bytes() + b"x"), ("tensors need", "damaged")),
    "a header that is a list": (lambda f: f.write([], b""), ("not a JSON object",)),
    "a header that is not JSON": (lambda f: f.write(b"{]", b""), ("the header of", "not JSON")),
    "a name twice": (_double, (f"{NORM!r} twice",)),
    "overlapping": (_swap, ("overlaps", "model.layers.")),
    "offsets outside": (
        lambda f: f.entry(NORM, data_offsets=[2**40, 2**40 + 144]),
        (f"tensor {NORM}", "are not within"),
    ),
    "offsets the wrong way": (lambda f: f.entry(NORM, data_offsets=[144, 0]), (f"tensor {NORM}", "are not within")),
    "offsets below 0": (lambda f: f.entry(NORM, data_offsets=[-1, 143]), (f"tensor {NORM}", "whole numbers from 0")),
    "offsets that are not a list": (lambda f: f.entry(NORM, data_offsets="x"), (f"tensor {NORM}", "'x'")),
    "a huge shape": (lambda f: f.entry(NORM, shape=[2**40, 2**40]), (f"tensor {NORM}", "needs", "span 144")),
    "a shape below 0": (lambda f: f.entry(NORM, shape=[-36]), (f"tensor {NORM}", "whole numbers from 0")),
    "a shape of fractions": (lambda f: f.entry(NORM, shape=[36.0]), (f"tensor {NORM}", "[36.0]")),
    "a shape of another size": (lambda f: f.entry(NORM, shape=[35]), (f"tensor {NORM}", "needs 140", "span 144")),
    "an unknown type": (lambda f: f.entry(NORM, dtype="F31"), (f"tensor {NORM}", "'F31' is unknown", "F32")),
    "a type that is not a text": (lambda f: f.entry(NORM, dtype=3), (f"tensor {NORM}", "3 is unknown")),
    "a type of integers": (
        lambda f: f.entry(NORM, dtype="I32"),
        (NORM, "I32", "expected float32, float16 or bfloat16"),
    ),
    "another shape": (
        lambda f: f.entry(UP, shape=[36, 64]),
        ("do not fit the configuration", UP, "has shape [36, 64], expected [64, 36]"),
    ),
    "one dimension more": (lambda f: f.entry(UP, shape=[64, 36, 1]), (UP, "[64, 36, 1], expected [64, 36]")),
    "a missing tensor": (lambda f: _drop(f, UP), ("missing tensor decoder.layers.1.feed_forward.up.weight [64, 36]",)),
    "an unknown tensor": (lambda f: _add(f, "extra.weight"), ("unknown tensor extra.weight",)),
    "a misnamed tensor": (
        lambda f: _rename(f, UP, UP + "s"),
        ("unknown tensor " + UP + "s", "missing tensor decoder.layers.1.feed_forward.up.weight"),
    ),
    "a layer too many": (lambda f: f.config({"num_hidden_layers": 1}), ("layers.1", "not part of this model")),
    "a layer too few": (lambda f: f.config({"num_hidden_layers": 3}), ("missing tensor decoder.layers.2",)),
}


@pytest.mark.parametrize("what", _FILES)
def test_damaged_files(what: str, tmp_path: Path) -> None:
    break_, words = _FILES[what]
    folder = Folder("llama", tmp_path)
    break_(folder)
    fails(lapwing.CheckpointError, lambda: lapwing.load(folder.path), *words)


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        ("../model.safetensors", ("'../model.safetensors'", "plain *.safetensors file name")),
        ("/etc/passwd", ("'/etc/passwd'", "plain")),
        ("..\\x.safetensors", ("plain",)),
        ("x\0.safetensors", ("plain",)),
        ("x.bin", ("'x.bin'", "plain")),
        ("nosuch.safetensors", ("nosuch.safetensors", "missing", "download it")),
        (3, ("lacks a weight_map",)),
        (None, ("lacks a weight_map",)),
    ],
    ids=str,
)
def test_shards(shard: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    folder = Folder("bert-sharded", tmp_path)
    path = folder.path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = shard
    path.write_text(json.dumps(index))
    fails(lapwing.CheckpointError, lambda: lapwing.load(folder.path), *words)


_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)


@pytest.mark.parametrize("key", _SIZES)
@pytest.mark.parametrize("value", [0, -1, 1.5, "x", [], {}, True, 2**40, 10**30], ids=str)
def test_absurd_sizes(key: str, value: Any, tmp_path: Path) -> None:
    """Refused by name, or (a head of another size) because no tensor fits; before any memory is allocated."""
    folder = Folder("llama", tmp_path)
    folder.config({key: value})
    with pytest.raises((lapwing.CheckpointError, lapwing.SpecError)) as caught:
        lapwing.load(folder.path)
    assert key in str(caught.value) and repr(value) in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model_type": "llamma"}, lapwing.CheckpointError, ("'llamma' is not supported", "nearest", "llama")),
        ({"model_type": "robertta"}, lapwing.CheckpointError, ("'robertta' is not supported", "roberta")),
        ({"model_type": None}, lapwing.CheckpointError, ("not supported",)),
        ({"model_type": 3}, lapwing.CheckpointError, ("not supported",)),
        ({"hidden_act": "x"}, lapwing.CheckpointError, ("hidden_act is 'x'", "expected one of relu")),
        ({"rms_norm_eps": "x"}, lapwing.CheckpointError, ("rms_norm_eps is 'x'", "finite number")),
        ({"rms_norm_eps": 5}, lapwing.SpecError, ("eps is 5", "0 to 1")),
        ({"attention_bias": 3}, lapwing.CheckpointError, ("attention_bias is 3", "true or false")),
        ({"num_key_value_heads": 5}, lapwing.SpecError, ("heads is 6", "a multiple of kv_heads, 5")),
        ({"num_key_value_heads": 3}, lapwing.CheckpointError, ("k_proj", "has shape [12, 36], expected [18, 36]")),
        ({"rms_norm_eps": None, "vocab_size": None}, lapwing.CheckpointError, ("lacks vocab_size",)),
        ({"model_type": "stable-diffusion"}, lapwing.CheckpointError, ("not supported: image generation",)),
        ({"rope_parameters": 3}, lapwing.CheckpointError, ("rope_parameters",)),
        ({"rope_parameters": {"rope_theta": "x"}}, lapwing.CheckpointError, ("rope_theta is 'x'",)),
        ({"rope_parameters": {"rope_type": "x"}}, lapwing.CheckpointError, ("'x'",)),
        ({"tie_word_embeddings": "x"}, lapwing.CheckpointError, ("tie_word_embeddings is 'x'",)),
        ({"architectures": 3}, lapwing.CheckpointError, ("architectures",)),
    ],
    ids=str,
)
def test_absurd_configurations(
    changes: dict[str, Any], kind: type[Exception], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = Folder("llama", tmp_path)
    folder.config(changes)
    fails(kind, lambda: lapwing.load(folder.path), *words)


# -- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("weights", ["f32", "bf16", "q8", "q4"])
def test_weights_that_are_no_numbers(value: float, weights: str, tmp_path: Path) -> None:
    """In a matrix or a norm: refused while loading or computing, never part of a result."""
    for name in (UP, NORM):
        folder = Folder("llama", tmp_path / name)
        folder.tensor(name, lambda array: array.__setitem__(1, value))

        def call(folder: Folder = folder) -> None:
            with lapwing.load(folder.path, weights=weights) as generator:
                generator.logits([1, 2, 3])

        with pytest.raises((lapwing.CheckpointError, lapwing.NumericalError)) as caught:
            call()
        assert re.search(r"\b(nan|inf)\b", str(caught.value), re.IGNORECASE), caught.value


@pytest.mark.parametrize(
    ("name", "tensor", "call"),
    [
        ("llama", UP, lambda m: m.generate("the", max_tokens=2)),
        ("llama", UP, lambda m: list(m.stream("the", max_tokens=2))),
        ("llama", UP, lambda m: m.generate("the", max_tokens=2, beams=2)),
        ("llama", UP, lambda m: m.score("the cat")),
        ("llama", UP, lambda m: m.hidden_states([1, 2])),
        ("bert-seqcls", "bert.encoder.layer.0.output.dense.weight", lambda m: m.classify("the")),
        ("bert-seqcls", "bert.encoder.layer.0.output.dense.weight", lambda m: m("the")),
        ("bert-sentence", "encoder.layer.0.output.dense.weight", lambda m: m.embed("the")),
        ("marian", "model.encoder.layers.0.fc1.weight", lambda m: m.translate("the", max_tokens=2)),
        ("marian", "model.encoder.layers.0.fc1.weight", lambda m: m.encode([[3, 0]])),
    ],
)
def test_states_beyond_f32(name: str, tensor: str, call: Callable[[Any], Any], tmp_path: Path) -> None:
    """Finite weights that are too large for their inputs."""
    folder = Folder(name, tmp_path)
    folder.tensor(tensor, lambda array: np.copyto(array, np.where(np.arange(array.size) % 3, 3e38, -3e38)))
    with lapwing.load(folder.path) as broken:
        fails(lapwing.NumericalError, lambda: call(broken), "f32")


def test_keys_beyond_f16_name_the_type_that_holds_them(tmp_path: Path) -> None:
    """Finite in f32 and in 8 bits, whose scales have a wider range."""
    folder = Folder("llama", tmp_path)
    for name, factor in (("k", 1e8), ("q", 1e-8)):
        folder.tensor(
            f"model.layers.0.self_attn.{name}_proj.weight", lambda array, by=factor: np.multiply(array, by, array)
        )
    for kv in ("f32", "q8"):
        with lapwing.load(folder.path, kv_cache=kv) as model:
            assert np.isfinite(model.logits([1, 2, 3])).all()
    with lapwing.load(folder.path, kv_cache="f16") as model:
        for call in (model.logits, lambda ids: model.generate_ids(ids, max_tokens=2)):
            fails(lapwing.NumericalError, lambda call=call: call([1, 2, 3]), 'kv_cache="f32"')


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("llama", lambda m: m.generate("the")),
        ("llama", lambda m: m.logits([1])),
        ("llama", lambda m: list(m.stream("the"))),
        ("bert-seqcls", lambda m: m.classify("the")),
        ("marian", lambda m: m.translate("the")),
        ("marian", lambda m: m.info()),
    ],
)
def test_a_closed_model_says_so(name: str, call: Callable[[Any], Any]) -> None:
    closed = lapwing.load(GOLDEN / name)
    closed.close()
    closed.close()
    fails(lapwing.ModelClosedError, lambda: call(closed), name, "is closed: load it again")
