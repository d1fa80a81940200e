"""Weight files that a reader must not mistake for other formats, and derived tensors."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

import lapwing
from lapwing.checkpoint import Config
from lapwing.checkpoint.safetensors import read_safetensors
from lapwing.checkpoint.tensor import Tensor


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_begins_like_another_format_is_read(tmp_path: Path, length: int) -> None:
    values = np.arange(6, dtype="<f4")
    text = json.dumps({"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode().ljust(length)
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + text + values.tobytes())
    np.testing.assert_array_equal(read_safetensors(file)["x"].read(), values.reshape(2, 3))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, -(10**400), True, "1"])
def test_a_number_is_finite(value: object) -> None:
    with pytest.raises(lapwing.CheckpointError, match=r"eps is .*: expected a finite number"):
        Config({"eps": value}).number("eps")


def test_stacked_tensors_are_rows_of_one() -> None:
    rows = [Tensor.constant(str(i), np.full(3, i, np.float32)) for i in range(2)]
    both = Tensor.stack(rows)
    assert both.shape == (2, 3)
    np.testing.assert_array_equal(both.read(), [[0, 0, 0], [1, 1, 1]])


def test_a_deeply_nested_value_is_refused_by_its_key() -> None:
    value: list[object] = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(lapwing.CheckpointError, match="hidden_size is a value of type list: expected a whole number"):
        Config({"hidden_size": value}).size("hidden_size")
