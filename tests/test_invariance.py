"""The same answer, to the bit: at any thread count, alone or in a batch, on every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import lapwing

TYPES = [
    {"weights": "f32"},
    {"weights": "bf16"},
    {"weights": "bf16", "activations": "bf16"},
    {"weights": "f16"},
    {"weights": "q8"},
    {"weights": "q8", "activations": "int8"},
    {"weights": "q4"},
    {"weights": "q8", "kv": "q8"},
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
import hashlib, lapwing
digest = hashlib.sha256()
types = (("bf16", "int16"), ("bf16", "bf16"), ("q8", "int16"), ("q8", "int8"), ("q4", "int16"))
for weights, activations in types:
    model = lapwing.load("lapwing/tiny-shakespeare", weights=weights, activations=activations)
    digest.update(model.logits(model.tokenizer.encode("Enter the King and his train. " * 12)).tobytes())
print(model.info().isa, digest.hexdigest())
"""


def test_logits_do_not_depend_on_the_instruction_set() -> None:
    digests = {}
    for isa in ("scalar", "avx2", "avxvnni", "avx512", "neon", "dotprod", "i8mm"):
        environment = {**os.environ, "LAPWING_ISA": isa}
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode == 0:
            used, digest = result.stdout.split()
            assert used == isa
            digests[isa] = digest
        else:
            assert "is not available on this machine" in result.stderr
    assert "scalar" in digests
    assert len(set(digests.values())) == 1


@pytest.mark.parametrize("types", TYPES, ids=str)
def test_cached_log_probabilities_equal_those_of_the_whole_sequence(types: dict[str, Any]) -> None:
    with lapwing.load("lapwing/tiny-shakespeare", **types) as model:
        prompt = model.tokenizer.encode("ROMEO:")
        new = model.generate_ids([prompt], max_tokens=40, temperature=0, ignore_eos=True)[0]
        logits = model.logits([*prompt, *new])
        best = logits[len(prompt) - 1 : -1].argmax(axis=1)
        assert best.tolist() == list(new)
