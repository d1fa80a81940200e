"""Shared by tests of refusals: loaded models, the check of an error, copies of checkpoints to damage."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing

GOLDEN = Path(__file__).parent / "golden"


@cache
def model(name: str) -> Any:
    return lapwing.load(GOLDEN / name, threads=1)


def fails(kind: type[Exception], call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(lapwing.Error) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"


class Folder:
    """A copy of a checkpoint whose files can be changed."""

    def __init__(self, name: str, path: Path) -> None:
        self.path = path / name
        shutil.copytree(GOLDEN / name, self.path, ignore=shutil.ignore_patterns("expected*", "config.v4.json"))

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    def config(self, changes: Mapping[str, Any]) -> None:
        path = self.path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def read(self) -> tuple[dict[str, Any], bytes]:
        raw = self.weights.read_bytes()
        (size,) = struct.unpack("<Q", raw[:8])
        return json.loads(raw[8 : 8 + size]), raw[8 + size :]

    def write(self, header: Any, data: bytes) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.weights.write_bytes(struct.pack("<Q", len(text)) + text + data)

    def entry(self, name: str, **changes: Any) -> None:
        header, data = self.read()
        header[name] = {**header[name], **changes}
        self.write(header, data)

    def tensor(self, name: str, change: Callable[[Any], None]) -> None:
        header, data = self.read()
        start, stop = header[name]["data_offsets"]
        array = np.frombuffer(data[start:stop], np.float32).copy()
        change(array)
        self.write(header, data[:start] + array.tobytes() + data[stop:])
