"""pytorch_model.bin: equal to the same checkpoint as safetensors, and nothing in it is run.

``LAPWING_PICKLES`` is the number of hostile files (3,000).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lapwing
from lapwing.checkpoint import read_safetensors
from lapwing.checkpoint.pytorch import read_pytorch

from . import pickles
from .refusals import GOLDEN, fails

FILES = GOLDEN / "pytorch"
COUNT = int(os.environ.get("LAPWING_PICKLES", "3000"))
SECONDS = 20
"""Bound of one file; on a quiet machine it takes milliseconds."""


@pytest.mark.parametrize("name", ["zip", "zip-protocol-4", "zip-plain", "sequence", "sequence-protocol-4"])
def test_files_of_pytorch_hold_what_their_safetensors_hold(name: str) -> None:
    found, same = read_pytorch(FILES / f"{name}.bin"), read_safetensors(FILES / "same.safetensors")
    assert sorted(found) == sorted(same)
    for key, tensor in same.items():
        assert (found[key].shape, found[key].dtype) == (tensor.shape, tensor.dtype), key
        if tensor.dtype.startswith(("float", "bfloat")):
            np.testing.assert_array_equal(found[key].read(), tensor.read(), err_msg=key)
        else:
            fails(lapwing.CheckpointError, found[key].read, key, tensor.dtype, "expected one of F32, F16, BF16, F64")
    assert found["tied"] is found["tied again"]
    np.testing.assert_array_equal(found["transposed"].read(), found["tied"].read().T)


def test_types_without_a_storage_are_named() -> None:
    found = read_pytorch(FILES / "untyped.bin")
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "float8": "F8_E4M3",
        "uint16": "U16",
        "weight": "float32",
    }
    np.testing.assert_array_equal(found["weight"].read(), [1, 1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("module", ("'torch.nn.modules.linear.Linear'", "is not run", "save_pretrained")),
        ("training", ("holds a dict under 'state_dict'",)),
        ("script", ("TorchScript",)),
    ],
)
def test_other_files_of_pytorch_are_named(name: str, words: tuple[str, ...]) -> None:
    fails(lapwing.CheckpointError, lambda: read_pytorch(FILES / f"{name}.bin"), f"{name}.bin", *words)


def converted(name: str, folder: Path, *, old: bool = False, shards: int = 1) -> Path:
    """A golden checkpoint with its weights as PyTorch writes them."""
    folder = folder / f"{name}-{old}-{shards}"
    ignored = shutil.ignore_patterns("expected*", "*.safetensors", "*.index.json")
    shutil.copytree(GOLDEN / name, folder, ignore=ignored)
    arrays = {}
    for file in sorted((GOLDEN / name).glob("model*.safetensors")):
        for key, tensor in read_safetensors(file).items():
            codes = {"I64": np.int64}
            arrays[key] = tensor.read() if tensor.dtype not in codes else load_file(file)[key]
    names = sorted(arrays)
    if shards == 1:
        pickles.write(folder / "pytorch_model.bin", arrays, old)
        return folder
    index: dict[str, str] = {}
    for i in range(shards):
        file_name = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        pickles.write(folder / file_name, {key: arrays[key] for key in names[i::shards]}, old)
        index |= dict.fromkeys(names[i::shards], file_name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@pytest.mark.parametrize("name", ["llama", "llama-bf16", "llama-f16", "gpt2", "bloom"])
@pytest.mark.parametrize(("old", "shards"), [(False, 1), (True, 1), (False, 3), (True, 2)])
def test_decoders_are_equal_to_their_safetensors(name: str, old: bool, shards: int, tmp_path: Path) -> None:
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    for weights in ("stored", "q8"):
        with lapwing.load(GOLDEN / name, weights=weights) as model:  # type: ignore[arg-type]
            want = model.logits(ids)
        with lapwing.load(converted(name, tmp_path / weights, old=old, shards=shards), weights=weights) as model:  # type: ignore[arg-type]
            np.testing.assert_array_equal(model.logits(ids), want)


@pytest.mark.parametrize("name", ["bert-sharded", "bert-mlm", "xlm-roberta-rerank", "t5-encoder"])
def test_encoders_are_equal_to_their_safetensors(name: str, tmp_path: Path) -> None:
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    with lapwing.load(GOLDEN / name) as model, lapwing.load(converted(name, tmp_path, shards=2)) as same:
        np.testing.assert_array_equal(same.encode(ids), model.encode(ids))


@pytest.mark.parametrize("old", [False, True])
def test_translation_is_equal(old: bool, tmp_path: Path) -> None:
    with lapwing.load("lapwing/tiny-en-de") as model:
        want = model.translate("A dog runs in the snow.").text
    folder = tmp_path / "tiny"
    shutil.copytree(Path(lapwing.__file__).parent / "builtin" / "tiny-en-de", folder)
    stored = {key: tensor.read() for key, tensor in read_safetensors(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    pickles.write(folder / "pytorch_model.bin", stored, old)
    with lapwing.load(folder) as model:
        assert model.translate("A dog runs in the snow.").text == want


def test_packed_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAPWING_CACHE", str(tmp_path / "cache"))
    folder, ids = converted("llama", tmp_path), [3, 1, 4]
    with lapwing.load(folder, weights="q8", packed_cache=True) as model:
        want = model.logits(ids)
    assert list((tmp_path / "cache").glob("*.packed"))
    with lapwing.load(folder, weights="q8", packed_cache=True) as model:
        np.testing.assert_array_equal(model.logits(ids), want)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    folder = converted("llama", tmp_path)
    shutil.copy(GOLDEN / "llama" / "model.safetensors", folder)
    (folder / "pytorch_model.bin").write_bytes(b"damaged")
    (folder / "training_args.bin").write_bytes(b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00xtR.")
    with lapwing.load(folder) as model:
        assert model.logits([1, 2]).shape[0] == 2


def test_a_shard_is_a_plain_name(tmp_path: Path) -> None:
    folder = converted("llama", tmp_path, shards=2)
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    for name in ("../x.bin", "x.safetensors", "nosuch.bin"):
        content["weight_map"][next(iter(content["weight_map"]))] = name
        index.write_text(json.dumps(content))
        fails(lapwing.CheckpointError, lambda: lapwing.load(folder), name, "shard")


SIX = np.arange(6, dtype=np.float32)


def view(tmp_path: Path, *tensors: bytes, old: bool = False) -> Any:
    pickle = pickles.dictionary({f"t{i}": tensor for i, tensor in enumerate(tensors)})
    file = tmp_path / "pytorch_model.bin"
    stored = {"0": SIX.tobytes()}
    file.write_bytes(pickles.sequence(pickle, {"0": (6, stored["0"])}) if old else pickles.zipped(pickle, stored))
    return read_pytorch(file)


def test_views_of_one_storage(tmp_path: Path) -> None:
    stored = pickles.storage("Float", "0", 6)
    found = view(tmp_path, pickles.tensor(stored, 0, (3, 2), (1, 3)), pickles.tensor(stored, 1, (2,), (3,)))
    np.testing.assert_array_equal(found["t0"].read(), SIX.reshape(2, 3).T)
    np.testing.assert_array_equal(found["t1"].read(), [1, 4])


def test_an_old_storage_may_be_a_part_of_another(tmp_path: Path) -> None:
    part = pickles.text("1") + pickles.whole(2) + pickles.whole(3) + b"\x87"
    stored = pickles.storage("Float", "0", 6, part)
    found = view(tmp_path, pickles.tensor(stored, 1, (2,), (1,)), old=True)
    np.testing.assert_array_equal(found["t0"].read(), [3, 4])
    outside = pickles.tensor(stored, 2, (2,), (1,))
    fails(lapwing.CheckpointError, lambda: view(tmp_path, outside, old=True), "leaves its storage of 3")


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "words"),
    [
        ((1000,), (0,), 0, ("tensor t0", "repeats elements", "[1000] of 6", "contiguous()")),
        ((6,), (1,), 1, ("leaves its storage of 6",)),
        ((2, 3), (4, 1), 0, ("leaves its storage of 6",)),
        ((2**61, 2**61), (0, 0), 0, ("repeats elements",)),
        ((2,), (-1,), 3, ("without whole sizes",)),
        ((2, 3), (1,), 0, ("2 sizes and 1 strides",)),
        ((1,) * 9, (1,) * 9, 0, ("at most 8",)),
    ],
)
def test_views_outside_their_storage(
    shape: Any, strides: Any, offset: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    made = pickles.tensor(pickles.storage("Float", "0", 6), offset, shape, strides)
    fails(lapwing.CheckpointError, lambda: view(tmp_path, made), "pytorch_model.bin", *words)


def test_a_long_name_makes_a_short_message(tmp_path: Path) -> None:
    made = pickles.tensor(pickles.storage("Float", "0", 6), 6, (1,), (1,))
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickles.zipped(pickles.dictionary({"x" * 1_000_000: made}), {"0": SIX.tobytes()}))
    with pytest.raises(lapwing.CheckpointError, match="leaves its storage") as caught:
        read_pytorch(file)
    assert len(str(caught.value)) < 1000


def test_overlapping_views_are_bounded(tmp_path: Path) -> None:
    """A small file could otherwise fill the memory with copies of its numbers."""
    stored = pickles.storage("Float", "0", 4000)
    items = {f"t{i}": pickles.tensor(stored, i, (3000,), (1,)) for i in range(100)}
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickles.zipped(pickles.dictionary(items), {"0": bytes(16000)}))
    fails(lapwing.CheckpointError, lambda: read_pytorch(file), "overlap", "1200000 bytes")


def test_damaged_archives(tmp_path: Path) -> None:
    pickle, stored = pickles.described(pickles.GOOD)
    file = tmp_path / "pytorch_model.bin"
    good = pickles.zipped(pickle, stored)
    deep = pickles.zipped(pickle, {**stored, "0": bytes(24)}, zipfile.ZIP_DEFLATED)
    for raw, words in (
        (deep, ("compressed",)),
        (good[:-30], ("zip archive is damaged or truncated",)),
        (pickles.zipped(pickle, stored, byteorder=b"big"), ("big-endian",)),
        (pickles.zipped(pickle, {**stored, "0": bytes(20)}), ("tensor a", "6 elements of F32, but 20 bytes")),
        (pickles.zipped(pickle, {"1": stored["1"]}), ("tensor a", "storage '0' is missing")),
        (pickles.zipped(b"", stored), ("ends within 0 bytes",)),
        (b"\x80\x02K\x01.", ("pickle of another program",)),
        (b"\x1f\x8bxxxx", ("it begins with",)),
        (b"", ("it begins with b''",)),
        (b"GGUF" + bytes(99), ("GGUF",)),
        (b"version https://git-lfs.github.com/spec/v1\n", ("Git LFS pointer",)),
        (b"<!DOCTYPE html>", ("web page",)),
    ):
        file.write_bytes(raw)
        fails(lapwing.CheckpointError, lambda: read_pytorch(file), "pytorch_model.bin", *words)


def test_numbers_of_another_byte_order_are_refused(tmp_path: Path) -> None:
    pickle, stored = pickles.described({"a": SIX}, b"N")
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(pickles.sequence(pickle, {"0": (6, stored["0"])}, pickles.MACHINE.replace(b"\x88", b"\x89")))
    fails(lapwing.CheckpointError, lambda: read_pytorch(file), "not marked as little-endian")


EVENTS: list[str] | None = None
"""Audit events while it is a list."""


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if EVENTS is not None and event not in ("open", "mmap.__new__"):
        EVENTS.append(f"{event} {arguments!r:.80}")


def read(file: Path) -> str:
    """The outcome of opening a file and reading all its tensors, and the audit events that it caused."""
    global EVENTS
    EVENTS = []
    try:
        for tensor in read_pytorch(file).values():
            if tensor.dtype in ("float32", "float16", "bfloat16"):
                assert tensor.read().shape == tensor.shape
        outcome = "read"
    except lapwing.CheckpointError as error:
        outcome = "refused"
        assert str(error).startswith(str(file)) and len(str(error)) < 1500
    finally:
        events, EVENTS = EVENTS, None
    assert not events, events
    return outcome


@pytest.mark.timeout(600)
def test_hostile_files_run_nothing(tmp_path: Path) -> None:
    sys.addaudithook(audit)
    "".encode("cp437")  # zipfile reads names with it: imported here, before imports are watched
    sentinel, file = tmp_path / "sentinel", tmp_path / "pytorch_model.bin"
    outcomes: Counter[str] = Counter()
    for seed in range(COUNT):
        random_ = random.Random(seed)
        evil = seed % 2 == 0
        file.write_bytes(pickles.made(random_, f"touch {sentinel}") if evil else pickles.changed(random_))
        start = time.monotonic()
        outcome = read(file)
        assert time.monotonic() - start < SECONDS, seed
        assert not (evil and outcome == "read"), seed
        outcomes[f"{outcome} {'made' if evil else 'changed'}"] += 1
    assert not sentinel.exists()
    assert outcomes["refused made"] == COUNT - COUNT // 2, outcomes
    assert outcomes["read changed"] and outcomes["refused changed"] > COUNT // 4, outcomes


BOMBS = """
import resource, sys
from lapwing import CheckpointError
from lapwing.checkpoint.pytorch import read_pytorch

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
for file in map(__import__("pathlib").Path, sys.argv[1:]):
    try:
        read_pytorch(file)
    except CheckpointError:
        continue
    sys.exit(f"{file} was read")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory in use from /proc")
@pytest.mark.timeout(300)
def test_bombs_need_little_time_and_memory(tmp_path: Path) -> None:
    bombs = (
        b"}" * 3_000_000,
        b"]\x94" * 1_500_000,
        b"(" * 3_000_000,
        b")" + b"\x85" * 900_000 + b".",
        b"]q\x00" + b"(" + b"h\x00" * 900_000 + b"e.",
        b"X" + (15 << 20).to_bytes(4, "little") + "\U0001f986".encode() * (15 << 18) + b".",
        b"N." + bytes(40 << 20),
        b"\x8b\xff\xff\xff\x7f",
        b"c" + b"x" * 10_000_000,
    )
    files = [tmp_path / f"{i}.bin" for i in range(len(bombs))]
    for file, raw in zip(files, bombs, strict=True):
        file.write_bytes(pickles.zipped(b"\x80\x02" + raw, {}))
    command = [sys.executable, "-c", BOMBS, *map(str, files)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=200).stderr == ""


def test_a_directory_of_an_archive_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.comment = b"x"
        for i in range(200):
            archive.writestr(f"archive/{'x' * 60_000}{i}", b"")
    fails(lapwing.CheckpointError, lambda: read_pytorch(file), "directory", "at most 8388608")
