"""Folders, files and addresses of other kinds: what was found is named, with the way out."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

import lapwing
from lapwing import hub

from . import pickles
from .refusals import GOLDEN, Folder, fails

_FOLDERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "empty": ((), ("is empty", "config.json")),
    "GGUF": (("model.Q4_K_M.gguf",), ("model.Q4_K_M.gguf is a GGUF file", "weights='q8' or 'q4'")),
    "GGUF with config.json": (("config.json", "model.gguf"), ("model.gguf is a GGUF file",)),
    "CTranslate2": (("config.json", "model.bin", "shared_vocabulary.json"), ("conversion for CTranslate2",)),
    "CTranslate2 with two": (("model.bin", "source_vocabulary.txt"), ("conversion for CTranslate2",)),
    "ONNX": (("config.json", "onnx/model_quantized.onnx"), ("onnx/model_quantized.onnx is a model of ONNX",)),
    "OpenVINO": (("config.json", "openvino_model.xml", "openvino_model.bin"), ("a model of OpenVINO",)),
    "TensorFlow": (("config.json", "tf_model.h5"), ("tf_model.h5", "TensorFlow", "from_tf=True")),
    "TensorFlow 1": (("bert_config.json", "bert_model.ckpt.index"), ("TensorFlow",)),
    "Flax": (("config.json", "flax_model.msgpack"), ("Flax", "from_flax=True")),
    "rust-bert": (("config.json", "rust_model.ot"), ("rust-bert",)),
    "MLX": (("config.json", "weights.npz"), ("MLX",)),
    "original release": (("params.json", "consolidated.00.pth"), ("layout of their original release", "-hf")),
    "diffusers": (("model_index.json",), ("diffusers",)),
    "NeMo": (("model.nemo",), ("NeMo",)),
    "training": (("config.json", "model.pt"), ("model.pt", "training program", "pytorch_model.bin")),
    "no config": (("model.safetensors",), ("has model.safetensors, but no config.json", "download it")),
    "one deeper": (("checkpoint-10/config.json", "checkpoint-20/config.json"), ("checkpoint-10, checkpoint-20",)),
    "cache": (("models--someone--small/refs/main",), ("cache of the hub", "'someone/small'")),
    "variant": (("config.json", "model.fp16.safetensors"), ("model.fp16.safetensors", "call it model.safetensors")),
    "old variant": (("config.json", "pytorch_model.fp16.bin"), ("call it pytorch_model.bin",)),
}


@pytest.mark.parametrize("what", _FOLDERS)
def test_folders_are_recognized(what: str, tmp_path: Path) -> None:
    names, words = _FOLDERS[what]
    for name in names:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"model_type": "llama"}' if file.name == "config.json" else "{}")
    fails(lapwing.CheckpointError, lambda: lapwing.load(tmp_path), str(tmp_path), *words)


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    text = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "someone/base"})
    (tmp_path / "adapter_config.json").write_text(text)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    words = ("an adapter (LORA) for 'someone/base'", "merge_and_unload", "save_pretrained")
    fails(lapwing.CheckpointError, lambda: lapwing.load(tmp_path), *words)


def test_modules_without_a_transformer_are_named(tmp_path: Path) -> None:
    module = {"idx": 0, "name": "0", "path": "", "type": "someones_package.models.BagOfWords"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    (tmp_path / "model.safetensors").write_bytes(b"")
    words = ("someones_package.BagOfWords", "code of another package", "expected classes of sentence_transformers")
    fails(lapwing.CheckpointError, lambda: lapwing.load(tmp_path), *words)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, ("by 'gptq' (4 bits)",)),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, ("by 'awq' (4 bits)",)),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, ("bitsandbytes' (8 bits)",)),
        ({"quantization_config": {"quant_method": "fp8"}}, ("by 'fp8'",)),
        ({"quantization_config": {"load_in_4bit": True}}, ("(4 bits)",)),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, ("'compressed-tensors'",)),
        ({"quantization": {"group_size": 64, "bits": 4}}, ("by 'mlx' (4 bits)",)),
    ],
)
def test_quantized_checkpoints_are_named(config: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    folder = Folder("llama", tmp_path)
    folder.config(config)
    fails(lapwing.CheckpointError, lambda: lapwing.load(folder.path), "config.json", "quantized", "'q4'", *words)


@pytest.mark.parametrize("value", [None, {}])
def test_an_empty_quantization_is_none(value: Any, tmp_path: Path) -> None:
    folder = Folder("llama", tmp_path)
    folder.config({"quantization_config": value})
    lapwing.load(folder.path).close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.gguf", ("is a file", "GGUF")),
        ("model.onnx", ("is a file", "ONNX")),
        ("model.safetensors", ("give its folder",)),
        ("pytorch_model.bin", ("give its folder",)),
        ("notes.txt", ("is a file", "expected the folder")),
    ],
)
def test_files_in_place_of_folders(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    fails(lapwing.CheckpointError, lambda: lapwing.load(tmp_path / name), name, *words)


def test_a_misspelt_folder_is_corrected(tmp_path: Path) -> None:
    (tmp_path / "my-llama").mkdir()
    path = str(tmp_path / "my-lama")
    fails(lapwing.CheckpointError, lambda: lapwing.load(path), path, "there is", str(tmp_path / "my-llama"))


def test_a_misspelt_folder_that_could_be_a_repository_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "my-llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def missing(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    fails(lapwing.CheckpointError, lambda: lapwing.load("models/my-lama"), "there is 'models/my-llama'", "hub")


def test_snapshots_of_the_cache_are_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "models--someone--small"
    fails_ = lambda *words: fails(lapwing.CheckpointError, lambda: lapwing.load(folder), *words)  # noqa: E731
    (folder / "snapshots").mkdir(parents=True)
    fails_("0 snapshots", "'someone/small'")
    shutil.copytree(GOLDEN / "llama", folder / "snapshots" / "abc")
    with lapwing.load(folder) as model:
        want = model.logits([1, 2])
    shutil.copytree(GOLDEN / "qwen2", folder / "snapshots" / "abd")
    fails_("2 snapshots", "give one of them", "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    with lapwing.load(folder) as model:
        np.testing.assert_array_equal(model.logits([1, 2]), want)


class FakeHub:
    """A hub with one repository, whose files are those of a folder."""

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.cache, self.asked = folder, cache, []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository, revision=None: self.names())

    def names(self) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def download(
        self, repository: str, *, revision: str | None, allow_patterns: Any, ignore_patterns: Any, **_: Any
    ) -> str:
        self.asked.append((repository, revision))
        for name in self.names():
            wanted = any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)
            if wanted and not any(fnmatch.fnmatch(name, pattern) for pattern in ignore_patterns):
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / name, self.cache / name)
        self.cache.mkdir(exist_ok=True)
        return str(self.cache)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    (tmp_path / "repository").mkdir()
    return FakeHub(tmp_path / "repository", tmp_path / "cache", monkeypatch)


def test_pickled_weights_are_fetched_only_without_safetensors(fake: FakeHub) -> None:
    (fake.folder / "config.json").write_text("{}")
    (fake.folder / "model.safetensors").write_bytes(b"")
    for name in ("pytorch_model.bin", "training_args.bin", "2_Dense/pytorch_model.bin", "2_Dense/config.json"):
        (fake.folder / name).parent.mkdir(exist_ok=True)
        (fake.folder / name).write_bytes(b"{}")
    hub.find("someone/small")
    got = {path.relative_to(fake.cache).as_posix() for path in fake.cache.rglob("*") if path.is_file()}
    assert got == {"config.json", "model.safetensors", "2_Dense/config.json", "2_Dense/pytorch_model.bin"}


def test_pickled_weights_of_the_hub_are_loaded(fake: FakeHub) -> None:
    shutil.copytree(GOLDEN / "llama", fake.folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    stored = lapwing.checkpoint.read_safetensors(GOLDEN / "llama" / "model.safetensors")
    pickles.write(fake.folder / "pytorch_model.bin", {name: tensor.read() for name, tensor in stored.items()})
    with lapwing.load("someone/small") as model, lapwing.load(GOLDEN / "llama") as same:
        np.testing.assert_array_equal(model.logits([1, 2, 3]), same.logits([1, 2, 3]))
    assert len(fake.asked) == 2


def test_a_repository_of_another_kind_is_named(fake: FakeHub) -> None:
    (fake.folder / "model-q4.gguf").write_bytes(b"GGUF")
    fails(lapwing.CheckpointError, lambda: lapwing.load("someone/small"), "someone/small", "model-q4.gguf is a GGUF")


@pytest.mark.parametrize(
    ("text", "revision", "asked"),
    [
        ("https://huggingface.co/someone/small", None, ("someone/small", None)),
        ("https://huggingface.co/someone/small/", "v2", ("someone/small", "v2")),
        ("huggingface.co/someone/small/tree/v2", None, ("someone/small", "v2")),
        ("https://hf.co/someone/small/tree/refs%2Fpr%2F1", None, ("someone/small", "refs/pr/1")),
        ("https://huggingface.co/someone/small/blob/main/config.json", None, ("someone/small", "main")),
        ("https://huggingface.co/someone/small?library=transformers", None, ("someone/small", None)),
        ("https://mirror.example/someone/small/tree/main", "main", ("someone/small", "main")),
    ],
)
def test_addresses_of_the_hub(
    text: str, revision: str | None, asked: tuple[str, str | None], fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    (fake.folder / "config.json").write_text("{}")
    (fake.folder / "model.safetensors").write_bytes(b"")
    _, identity = hub.find(text, revision=revision)
    assert fake.asked == [asked]
    assert identity == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://example.com/someone/small", ("not a page of the hub",)),
        ("https://huggingface.co/someone", ("not the page of a model",)),
        ("https://huggingface.co/datasets/someone/text", ("not the page of a model",)),
        ("https://huggingface.co/someone/small/tree/main/onnx", ("folder within a repository", "'someone/small'")),
        ("ftp://huggingface.co/someone/small", ("not a page of the hub",)),
        ("https://huggingface.co/../..", ("not a hub id",)),
        ("https://[", ("not a page of the hub",)),
    ],
)
def test_other_addresses_are_refused(text: str, words: tuple[str, ...], fake: FakeHub) -> None:
    fails(lapwing.CheckpointError, lambda: hub.find(text), *words)
    assert not fake.asked


def test_an_address_and_a_revision_must_agree(fake: FakeHub) -> None:
    text = "https://huggingface.co/someone/small/tree/v2"
    fails(lapwing.OptionError, lambda: hub.find(text, revision="v1"), "'v1'", "'v2'", "remove one")
