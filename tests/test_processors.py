"""Logits processors and sampling filters against recordings of transformers' processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lapwing import _core
from lapwing.models.generation_config import Defaults
from lapwing.models.options import resolve

RECORDED = json.loads((Path(__file__).parent / "golden" / "processors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: f"{case['name']} {case['vector']}")
def test_logits_and_draws_are_those_of_transformers(case: dict[str, Any]) -> None:
    settings = {"top_k": 0, "do_sample": case["sample"], **case["options"]}
    defaults = Defaults.read(settings, {}, encoder_decoder=False)
    request = resolve(defaults, {}, encode=lambda text: [], where="test")
    logits = np.array(RECORDED["vectors"][case["vector"]], np.float32)
    changed, probabilities = _core.process_logits(
        logits,
        json.dumps(request.core),
        RECORDED["ids"],
        RECORDED["prompt"],
        case["options"].get("max_length", 1000),
        RECORDED["source"],
    )
    if case["sample"]:
        expected = np.array(case["expected"])
        if len(set(logits)) < len(logits):
            # The choice among equal tokens is unspecified.
            probabilities, expected = np.sort(probabilities), np.sort(expected)
        assert list(probabilities > 0) == list(expected > 0)
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    else:
        expected = np.array([-np.inf if value is None else value for value in case["expected"]])
        # Each is a product or a sum of two or three float32 numbers.
        np.testing.assert_allclose(changed, expected, rtol=4e-7, atol=4e-7)


def test_recorded_options_change_something() -> None:
    for case in RECORDED["cases"]:
        idle = case["name"].endswith(("reached", "later", "beyond", "8"))
        if not case["sample"] and not idle:
            assert case["expected"] != RECORDED["vectors"][case["vector"]], case["name"]
