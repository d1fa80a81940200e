"""Packed weights on disk: the same model, from memory that is mapped; used only for what they were made from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing import packed

GOLDEN = Path(__file__).parent / "golden"
IDS = [1, 2, 3, 4]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(packed.VARIABLE, str(tmp_path / "cache"))
    shutil.copytree(GOLDEN / "llama", tmp_path / "model")
    return tmp_path / "model"


def logits(folder: Path, **options: Any) -> Any:
    with lapwing.load(folder, **{"cache": True, **options}) as model:
        return model.logits(IDS), model.info()


@pytest.mark.parametrize("weights", ["f32", "bf16", "q8", "q4"])
def test_a_second_load_gives_the_same_bits(weights: str, folder: Path) -> None:
    want, facts = logits(folder, weights=weights, cache=False)
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
    want, _ = logits(folder, weights="q8", activations="int8", cache=False)
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


def test_a_mapped_model_outlives_its_file(folder: Path) -> None:
    want, _ = logits(folder, weights="q8")
    with lapwing.load(folder, weights="q8", cache=True) as model:
        assert packed.clear() > 0 and not packed.sizes()
        assert np.array_equal(model.logits(IDS), want)


def test_small_models_are_not_kept_unless_asked(folder: Path) -> None:
    lapwing.load(folder, weights="q8").close()
    assert not packed.sizes()


def test_the_cache_can_be_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packed.VARIABLE, "off")
    logits(folder, weights="q8")
    assert packed.folder() is None and not packed.sizes()


def test_a_folder_that_cannot_be_written_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "config.json"
    monkeypatch.setenv(packed.VARIABLE, str(file / "below"))
    with pytest.warns(RuntimeWarning, match=packed.VARIABLE):
        logits(folder, weights="q8")


def test_many_processes_may_load_at_once(folder: Path) -> None:
    program = (
        "import lapwing, sys, hashlib\n"
        "model = lapwing.load(sys.argv[1], weights='q8', cache=True)\n"
        "print(hashlib.sha256(model.logits([1, 2, 3, 4]).tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(folder)]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate(timeout=60)[0] for process in several}
    assert len(answers) == 1 and all(process.returncode == 0 for process in several)
    assert len(packed.sizes()) == 1


def test_the_command_shows_and_clears(folder: Path) -> None:
    logits(folder, weights="q8")

    def run(*words: str) -> Any:
        command = [sys.executable, "-m", "lapwing", *words, "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    shown = run("cache")
    assert run("info")["bytes in cache"] == shown["bytes"] == run("cache", "--clear")["freed"] > 0
    assert not packed.sizes()
