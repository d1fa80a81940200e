"""The twin of a checkpoint, for the guide: ``twin("lapwing/tiny-en-de")``."""

from __future__ import annotations

from pathlib import Path

import lapwing
from lapwing.architectures import describe
from lapwing.checkpoint import open_checkpoint
from lapwing.checkpoint.tensor import to_f32

from .model import Twin


def twin(model: str | Path) -> Twin:
    """The NumPy twin of a built-in model or of a folder."""
    name = str(model)
    folder = Path(lapwing.__file__).parent / "builtin" / name.removeprefix("lapwing/")
    spec, tensors, _ = describe(open_checkpoint(folder if name.startswith("lapwing/") else Path(name)))
    return Twin(spec, {name: to_f32(tensor.read(), tensor.dtype) for name, tensor in tensors.items()})
