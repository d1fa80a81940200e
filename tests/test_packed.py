"""Packed weights on disk: the same model from mapped memory, used only for the checkpoint they were made from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing import packed
from lapwing.checkpoint import Checkpoint, open_checkpoint

from .checkpoints import large_decoder

GOLDEN = Path(__file__).parent / "golden"
IDS = [1, 2, 3, 4]
BODY = "the checksum of .* is wrong.*: packing the weights again"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(packed.VARIABLE, str(tmp_path / "cache"))
    shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    return tmp_path / "model"


def logits(folder: Path, **options: Any) -> Any:
    with lapwing.load(folder, **{"packed_cache": True, **options}) as model:
        return model.logits(IDS), model.info()


@pytest.mark.parametrize("weights", ["f32", "bf16", "q8", "q4"])
def test_a_second_load_gives_the_same_bits(weights: str, folder: Path) -> None:
    want, facts = logits(folder, weights=weights, packed_cache=False)
    assert not packed.sizes()
    first, _ = logits(folder, weights=weights)
    ((path, size),) = packed.sizes().items()
    before = path.stat().st_mtime_ns
    second, again = logits(folder, weights=weights)
    assert path.stat().st_mtime_ns == before and size == path.stat().st_size
    assert np.array_equal(first, want) and np.array_equal(second, want)
    assert again == facts


def test_each_weight_type_has_its_file_and_activations_share_it(folder: Path) -> None:
    logits(folder, weights="q8")
    want, _ = logits(folder, weights="q8", activations="int8", packed_cache=False)
    got, _ = logits(folder, weights="q8", activations="int8")
    assert np.array_equal(got, want) and len(packed.sizes()) == 1
    logits(folder, weights="q4")
    assert len(packed.sizes()) == 2


def test_a_changed_checkpoint_replaces_its_file(folder: Path) -> None:
    logits(folder, weights="q8")
    (path,) = packed.sizes()
    before = path.stat().st_mtime_ns
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, weights.stat().st_mtime_ns + 1))
    logits(folder, weights="q8")
    assert list(packed.sizes()) == [path] and path.stat().st_mtime_ns != before


def write_like(file: Path, content: bytes | bytearray) -> None:
    """Replaces a file by another of the same size and mtime, as a copy or an archive may do."""
    times = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_checkpoint_copied_over_with_its_time_is_packed_anew(folder: Path) -> None:
    before, _ = logits(folder, weights="q8")
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    other = np.frombuffer(content[start:], "<f4") * np.float32(0.5)
    write_like(file, content[:start] + other.tobytes())
    want, _ = logits(folder, weights="q8", packed_cache=False)
    assert not np.array_equal(want, before)
    assert np.array_equal(logits(folder, weights="q8")[0], want)


def key(checkpoint: Checkpoint) -> str:
    entry = packed.entry(checkpoint, "{}", {}, "q8", "1")
    assert entry is not None
    return entry.key


@pytest.mark.parametrize("size", [0, 4095, 4096, 100_000, 1 << 20])
def test_a_file_is_known_by_its_times_and_by_its_content(size: int, folder: Path) -> None:
    """Each field alone detects a change: a file system may lack one, and samples may miss the changed byte."""
    file = folder / "model.safetensors"
    content = bytearray(size)
    file.write_bytes(content)
    checkpoint = replace(open_checkpoint(GOLDEN / "llama"), files=(file,), stats=(file.stat(),))
    before = key(checkpoint)
    assert key(checkpoint) == before
    if sys.platform != "win32":
        while file.stat().st_ctime_ns == checkpoint.stats[0].st_ctime_ns:  # resolution of the file system's clock
            write_like(file, content)
        assert key(replace(checkpoint, stats=(file.stat(),))) != before
    for place in (0, size // 2, size - 1) if 0 < size <= 64 * 4096 else (0, size - 1) if size else ():
        content[place] ^= 1
        file.write_bytes(content)
        assert key(checkpoint) != before, place
        content[place] ^= 1


def test_a_checkpoint_that_is_changed_while_it_loads_is_not_known_as_the_new_one(folder: Path) -> None:
    file = folder / "model.safetensors"
    opened = open_checkpoint(folder)
    (folder / "new").write_bytes(file.read_bytes())
    (folder / "new").replace(file)
    assert key(opened) != key(open_checkpoint(folder))


def test_what_changes_no_weights_keeps_the_file(folder: Path) -> None:
    logits(folder, weights="q8")
    (path,) = packed.sizes()
    before = path.stat().st_mtime_ns
    (folder / "README.md").write_text("read, and written beside")
    (folder / "model.safetensors").read_bytes()
    link = folder.parent / "link"
    link.symlink_to(folder)
    logits(link, weights="q8")
    assert list(packed.sizes()) == [path] and path.stat().st_mtime_ns == before


@pytest.mark.parametrize("cut", [0, 4, 12, 40, 5000, -1])
def test_files_that_were_cut_off_are_made_anew(cut: int, folder: Path) -> None:
    want, _ = logits(folder, weights="q8")
    (path,) = packed.sizes()
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:cut])
    assert np.array_equal(logits(folder, weights="q8")[0], want)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("seed", range(20))
def test_files_whose_header_was_changed_are_made_anew(seed: int, folder: Path) -> None:
    want, _ = logits(folder, weights="q8")
    (path,) = packed.sizes()
    whole = bytearray(path.read_bytes())
    length = int.from_bytes(whole[8:16], "little")
    generator = np.random.default_rng(seed)
    for at in generator.integers(0, 24 + length, 4):
        whole[at] = int(generator.integers(32, 127))
    path.unlink()
    path.write_bytes(whole)
    assert np.array_equal(logits(folder, weights="q8")[0], want)


@pytest.mark.parametrize("magic", [b"lapwing\n", b"lapwing3", bytes(8)])
def test_files_of_another_form_are_made_anew(magic: bytes, folder: Path) -> None:
    want, _ = logits(folder, weights="q8")
    (path,) = packed.sizes()
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(magic + whole[8:])
    assert np.array_equal(logits(folder, weights="q8")[0], want)
    assert path.read_bytes() == whole


def places(path: Path) -> list[tuple[int, int]]:
    """The offsets of the tensors in a file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(16)[8:], "little")
        file.seek(24)
        tensors = json.loads(file.read(length))["tensors"]
    base = -(-(24 + length) // 4096) * 4096
    return [(base + entry["offset"], base + entry["offset"] + entry["length"]) for entry in tensors]


@pytest.mark.parametrize("damage", ["4,000 zeros", "a page of zeros", "zeros from there on", "one bit"])
@pytest.mark.parametrize("seed", range(5))
def test_damaged_weights_are_made_anew(seed: int, damage: str, folder: Path) -> None:
    want, _ = logits(folder, weights="q8")
    (path,) = packed.sizes()
    whole = path.read_bytes()
    generator = np.random.default_rng(seed)
    start, end = places(path)[generator.integers(len(places(path)))]
    at = int(generator.integers(start, end))
    content = bytearray(whole)
    if damage == "one bit":
        content[at] ^= 1 << int(generator.integers(8))
    else:
        at, to = {
            "4,000 zeros": (at, at + 4000),
            "a page of zeros": (at // 4096 * 4096, at // 4096 * 4096 + 4096),
            "zeros from there on": (at // 4096 * 4096, len(whole)),
        }[damage]
        content[at:to] = bytes(len(content[at:to]))
    assert content != whole
    path.unlink()
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=BODY):
        assert np.array_equal(logits(folder, weights="q8")[0], want)
    assert path.read_bytes() == whole
    assert np.array_equal(logits(folder, weights="q8")[0], want)


def test_a_mapped_model_outlives_its_file(folder: Path) -> None:
    want, _ = logits(folder, weights="q8")
    with lapwing.load(folder, weights="q8", packed_cache=True) as model:
        assert packed.clear() > 0 and not packed.sizes()
        assert np.array_equal(model.logits(IDS), want)


def test_small_models_are_not_kept_unless_asked(folder: Path) -> None:
    lapwing.load(folder, weights="q8").close()
    assert not packed.sizes()


def test_the_cache_can_be_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packed.VARIABLE, "off")
    monkeypatch.setattr("lapwing.loading.QUANTIZED_FROM", 1)
    for cache in (None, False):
        logits(folder, weights="q8", packed_cache=cache)
    assert packed.folder() is None and not packed.sizes()
    with pytest.raises(lapwing.OptionError, match=f"packed_cache is True.*{packed.VARIABLE} is off"):
        logits(folder, weights="q8")


def test_a_folder_that_cannot_be_written_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "config.json"
    monkeypatch.setenv(packed.VARIABLE, str(file / "below"))
    with pytest.warns(RuntimeWarning, match=packed.VARIABLE):
        logits(folder, weights="q8")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose file takes a while to write."""
    monkeypatch.setenv(packed.VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    return large_decoder(tmp_path / "model")


def left_whole(folder: Path, want: Any) -> None:
    """There is one file, and it is valid and used."""
    ((path, _),) = packed.sizes().items()
    before = path.stat().st_mtime_ns
    assert np.array_equal(logits(folder, weights="q8")[0], want)
    assert path.suffix == packed.SUFFIX and path.stat().st_mtime_ns == before


def test_many_threads_may_load_at_once(large: Path) -> None:
    want, _ = logits(large, weights="q8", packed_cache=False)
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            packed.clear()
            for one in [threads.submit(logits, large, weights="q8", threads=1) for _ in range(4)]:
                assert np.array_equal(one.result()[0], want)
            left_whole(large, want)


PROGRAM = """
import lapwing, sys, hashlib
model = lapwing.load(sys.argv[1], weights="q8", packed_cache=True)
print(hashlib.sha256(model.logits([1, 2, 3, 4]).tobytes()).hexdigest(), flush=True)
"""


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", program, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_many_processes_may_load_at_once(large: Path) -> None:
    want, _ = logits(large, weights="q8", packed_cache=False)
    for _ in range(2):
        packed.clear()
        several = [start(PROGRAM, large) for _ in range(4)]
        answers = {process.communicate(timeout=60)[0] for process in several}
        assert len(answers) == 1 and all(process.returncode == 0 for process in several)
        left_whole(large, want)


def mapping(process: int, path: Path) -> dict[str, int]:
    """Memory statistics of a mapped file in a process (Linux), in bytes, summed over its mappings."""
    found: dict[str, int] = {}
    counted = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counted = line.endswith(str(path))
        elif counted and line.endswith(" kB"):
            name, size = line[:-3].split(":")
            found[name] = found.get(name, 0) + 1024 * int(size)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the map of a process is Linux's")
def test_a_second_load_is_mapped_and_processes_share_it(large: Path) -> None:
    logits(large, weights="q8")
    ((path, size),) = packed.sizes().items()
    several = [start(f"{PROGRAM}\nsys.stdin.read()", large) for _ in range(2)]
    try:
        answers = {process.stdout.readline() for process in several if process.stdout is not None}
        assert len(answers) == 1
        for process in several:
            pages = mapping(process.pid, path)
            # All of it is resident, since each load reads it, shared by both, and nothing is copied.
            assert pages["Size"] >= size and pages["Rss"] >= 0.99 * size, pages
            assert pages["Shared_Clean"] + pages["Shared_Dirty"] == pages["Rss"], pages
            assert pages["Private_Clean"] == pages["Private_Dirty"] == pages["Anonymous"] == 0, pages
    finally:
        for process in several:
            process.communicate(timeout=60)


def test_what_killed_loads_left_is_removed_by_the_next_that_writes(folder: Path) -> None:
    root = packed.folder()
    assert root is not None
    root.mkdir()
    old, fresh, foreign = root / f"{'0' * 32}.1-0f.part", root / f"{'0' * 32}.2-0f.part", root / "film.mkv.part"
    for path in (old, fresh, foreign):
        path.write_bytes(b"half")
    for path in (old, foreign):
        os.utime(path, (1, 1))
    assert {old, fresh} == set(packed.sizes())
    logits(folder, weights="q8")
    assert not old.exists() and fresh.exists()
    packed.clear()
    assert foreign.exists() and not packed.sizes()


def test_the_command_shows_and_clears(folder: Path) -> None:
    logits(folder, weights="q8")

    def run(*words: str) -> Any:
        command = [sys.executable, "-m", "lapwing", *words, "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    shown = run("cache")
    assert run("info")["bytes in cache"] == shown["bytes"] == run("cache", "--clear")["freed"] > 0
    assert not packed.sizes()
