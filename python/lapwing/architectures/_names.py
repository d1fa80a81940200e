"""From a checkpoint's tensor names to the names of the spec, strictly in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..checkpoint import Tensor

Names = Mapping[str, str]
"""Spec name to checkpoint name, both without ``.weight`` and ``.bias``; ``{i}`` stands for a layer's number, ``{e}``
for an expert's."""

LEGACY = {"gamma": "weight", "beta": "bias"}
"""TensorFlow's names for the tensors of a norm, in old BERT checkpoints."""


class Renamed(dict[str, Tensor]):
    """Tensors by spec name, and the unused names of the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.unused: list[str] = []


def rename(
    tensors: Mapping[str, Tensor], names: Names, *, ignore: Iterable[str] = (), prefixes: Iterable[str] = ()
) -> Renamed:
    """Gives each tensor its spec name.

    Args:
        tensors: a checkpoint's tensors.
        names: the table; a spec name that ends in ".weight" or ".bias" names one tensor.
        ignore: patterns of names that are known and not needed (masks, unused heads).
        prefixes: parts that may stand before every name, or may be missing (``model.``, ``bert.``).
    """
    prefix = "|".join(re.escape(p) for p in prefixes)
    patterns = []
    for ours, theirs in names.items():
        suffix = "" if ours.endswith((".weight", ".bias")) else r"\.(weight|bias|gamma|beta)"
        body = re.escape(theirs).replace(r"\{i\}", r"(?P<i>\d{1,4})").replace(r"\{e\}", r"(?P<e>\d{1,4})")
        patterns.append((re.compile(f"(?:{prefix})?{body}{suffix}"), ours, bool(suffix)))
    unwanted = [re.compile(f"(?:{prefix})?(?:{pattern})") for pattern in ignore]
    out = Renamed()
    for name, tensor in tensors.items():
        for pattern, ours, suffixed in patterns:
            if match := pattern.fullmatch(name):
                target = ours
                for key, number in match.groupdict().items():
                    target = target.replace(f"{{{key}}}", str(int(number)))
                if suffixed:
                    last = name.rsplit(".", 1)[1]
                    target = f"{target}.{LEGACY.get(last, last)}"
                out[target] = tensor
                break
        else:
            if not any(pattern.fullmatch(name) for pattern in unwanted):
                out.unused.append(name)
    return out


def cut(tensors: dict[str, Tensor], fused: str, parts: Mapping[str, int], layers: int) -> None:
    """Replaces the fused linear ``fused`` of every layer by its parts, cut along the output rows.

    ``parts`` are spec names and numbers of rows; all names hold ``{i}``.
    """
    for i in range(layers):
        for suffix in ("weight", "bias"):
            tensor = tensors.pop(f"{fused.replace('{i}', str(i))}.{suffix}", None)
            if tensor is None:
                continue
            if tensor.shape and tensor.shape[0] != sum(parts.values()):
                # Left whole, so that the check of shapes reports it.
                tensors[f"{fused.replace('{i}', str(i))}.{suffix}"] = tensor
                continue
            for part, piece in zip(parts, tensor.split(*parts.values()), strict=True):
                tensors[f"{part.replace('{i}', str(i))}.{suffix}"] = piece


def cut_heads(tensors: dict[str, Tensor], fused: str, parts: Mapping[str, int], groups: int, layers: int) -> None:
    """Replaces the fused linear ``fused`` of every layer by its ``parts``, whose rows lie group by group beside each
    other.

    A group is a head, or several with the keys and values that they share. All names hold ``{i}``; each part has its
    number of rows in a group.
    """
    for i in range(layers):
        for suffix in ("weight", "bias"):
            name = f"{fused.replace('{i}', str(i))}.{suffix}"
            tensor = tensors.get(name)
            # One of another shape is left whole, so that the check of shapes reports it.
            shares = groups * sum(parts.values())
            if tensor is None or not tensor.shape or tensor.shape[0] % shares:
                continue
            sizes = [share * (tensor.shape[0] // shares) for share in parts.values()]
            for which, part in enumerate(parts):
                tensors[f"{part.replace('{i}', str(i))}.{suffix}"] = tensor.heads(groups, sizes, which)
            del tensors[name]


def tie(tensors: dict[str, Tensor], target: str, source: str) -> None:
    """Lets ``target`` be ``source`` unless it is stored itself."""
    if target not in tensors and source in tensors:
        tensors[target] = tensors[source]


def share(tensors: dict[str, Tensor], target: str, source: str, layers: int) -> None:
    """Lets the tensors of ``target`` be those of ``source`` in every layer; both names hold ``{i}``."""
    for i in range(layers):
        for suffix in ("weight", "bias"):
            tie(tensors, f"{target}.{suffix}".replace("{i}", str(i)), f"{source}.{suffix}".replace("{i}", str(i)))


def plus_one(tensors: dict[str, Tensor]) -> None:
    """Adds one to the weights of all norms: they are stored as the difference from it."""
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensors[name] = tensor.plus_one()
