"""The same answer, to the bit: at any thread count, alone or in a batch, on every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import lapwing

TEXTS = ["ROMEO:", "O, what a noble mind is here o'erthrown!", "Enter the King and his train. " * 12]


@pytest.mark.parametrize("weights", ["f32", "bf16", "f16"])
def test_logits_do_not_depend_on_threads_or_the_batch(weights: str) -> None:
    expected = None
    for threads in (1, 2, 3, 8):
        with lapwing.load("lapwing/tiny-shakespeare", weights=weights, threads=threads) as model:
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
model = lapwing.load("lapwing/tiny-shakespeare", weights="bf16")
logits = model.logits(model.tokenizer.encode("Enter the King and his train. " * 12))
print(model.info()["isa"] if isinstance(model.info(), dict) else model.info().isa, hashlib.sha256(logits.tobytes()).hexdigest())
"""


def test_logits_do_not_depend_on_the_instruction_set() -> None:
    digests = {}
    for isa in ("scalar", "avx2", "avx512", "neon"):
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


@pytest.mark.parametrize("weights", ["f32", "bf16"])
def test_cached_log_probabilities_equal_those_of_the_whole_sequence(weights: str) -> None:
    with lapwing.load("lapwing/tiny-shakespeare", weights=weights) as model:
        prompt = model.tokenizer.encode("ROMEO:")
        new = model.generate_ids([prompt], max_tokens=40, temperature=0, ignore_eos=True)[0]
        logits = model.logits([*prompt, *new])
        best = logits[len(prompt) - 1 : -1].argmax(axis=1)
        assert best.tolist() == list(new)
