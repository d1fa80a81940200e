"""Bit-identical results for any number of threads, alone or in a batch, on every instruction set."""

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

GOLDEN = Path(__file__).parent / "golden"
TYPES = [
    {"weights": "f32"},
    {"weights": "bf16"},
    {"weights": "bf16", "activations": "bf16"},
    {"weights": "f16"},
    {"weights": "q8"},
    {"weights": "q8", "activations": "int8"},
    {"weights": "q4"},
    {"weights": "q8", "kv_cache": "q8"},
    {"weights": "q8", "kv_cache": "f32"},
]
TEXTS = ["ROMEO:", "O, what a noble mind is here o'erthrown!", "Enter the King and his train. " * 12]


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_logits_do_not_depend_on_threads_or_the_batch(types: dict[str, Any]) -> None:
    expected = None
    for threads in (1, 2, 3, 8):
        with lapwing.load("lapwing/tiny-shakespeare", threads=threads, **types) as model:
            ids = [model.tokenizer.encode(text) for text in TEXTS]
            logits = [model.logits(one) for one in ids]
            alone = [model.generate_ids([one], max_tokens=12, temperature=0)[0] for one in ids]
            together = model.generate_ids(ids, max_tokens=12, temperature=0)
            assert together == alone
            if expected is None:
                expected = logits
            assert all(np.array_equal(a, b) for a, b in zip(expected, logits, strict=True))


def test_hidden_states_of_a_batch_equal_those_of_singles() -> None:
    with lapwing.load("lapwing/tiny-en-de", weights="f32") as model:
        ids = [model.tokenizer.encode(text) for text in ("A dog runs.", "Two men are talking.", "A")]
        batch = model.encode(ids)
        for one, states in zip(ids, batch, strict=True):
            assert np.array_equal(model.encode([one])[0], states)


PROGRAM = """
import hashlib, json, lapwing, sys
from lapwing.models.base import ragged

folder, disentangled, types = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def digest(*results):
    found = hashlib.sha256()
    for result in results:
        found.update(result.tobytes() if hasattr(result, "tobytes") else repr(result).encode())
    return found.hexdigest()

def generation(model, prompts):
    options = {"max_tokens": 6, "ignore_eos": True}
    greedy = model.generate_ids(prompts, temperature=0, **options)
    drawn = model.generate_ids(prompts, temperature=0.8, seed=1, top_p=0.9, **options)
    return digest(*(model.logits(ids) for ids in prompts), greedy, drawn)

found = {}
for one in types:
    with lapwing.load("lapwing/tiny-shakespeare", **one) as model:
        found[f"wide {one}"] = generation(model, [model.tokenizer.encode("ROMEO:"), [7, 8, 9]])
        isa = model.info().isa
    with lapwing.load(folder, **one) as model:
        found[f"long {one}"] = generation(model, [[i * i % 397 for i in range(length)] for length in (300, 5, 33)])
for weights in ("f32", "q8"):
    with lapwing.load("lapwing/tiny-en-de", weights=weights) as model:
        ids = [model.tokenizer.encode(text) for text in ("A dog runs.", "Two men.")]
        translations = [one.text for one in model.translate(["A dog runs.", "Two men."], beams=3, max_tokens=6)]
        found[f"translation {weights}"] = digest(*model.encode(ids), translations)
with lapwing.load(disentangled) as model:
    found["disentangled"] = digest(model.core.encode(*ragged([list(range(5, 45)), [5, 6, 7]]), None))
print(json.dumps([isa, found]))
"""


def test_results_do_not_depend_on_the_instruction_set(tmp_path: Path) -> None:
    """Logits and ids of batches, after few tokens and after enough that threads share them."""
    for path in (GOLDEN / "llama").iterdir():
        shutil.copy(path, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(GOLDEN / "deberta-v2-model"), json.dumps(TYPES)]
    results = {}
    for isa in ("scalar", "avx2", "avxvnni", "avx512", "neon", "dotprod", "i8mm"):
        environment = {**os.environ, "LAPWING_ISA": isa}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            used, results[isa] = json.loads(result.stdout)
            assert used == isa
        else:
            assert "is not available on this machine" in result.stderr
    assert "scalar" in results
    for found in results.values():
        assert found == results["scalar"]


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_log_probabilities_of_steps_equal_those_of_the_whole_text(types: dict[str, Any]) -> None:
    with lapwing.load("lapwing/tiny-shakespeare", **types) as model:
        prompt = model.tokenizer.encode("ROMEO:")
        seen = []

        def watch(_: Any, logits: Any) -> Any:
            seen.append(logits.copy())
            return logits

        new = model.generate_ids([prompt], max_tokens=40, temperature=0, ignore_eos=True, processor=watch)[0]
        logits = model.logits([*prompt, *new])[len(prompt) - 1 : -1]
        assert np.array_equal(seen, logits)
        assert logits.argmax(axis=1).tolist() == list(new)
