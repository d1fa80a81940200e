"""What a module of a family may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from ..checkpoint import Config, Tensor
from ..spec import Model
from ._names import Renamed


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family. Each field is a name of its module, in capitals if it is a constant.

    Attributes:
        spec: the description of a configuration's model with the head of a task.
        tensors: the checkpoint's tensors by the names of the description.
        adjust: the description once the tensors are known, where it depends on them.
        defaults: values for keys that a configuration leaves out; a null stays null.
        bare_head: the head of the class without a head in its name (BertModel, BartModel): "text-to-text" where
            such checkpoints generate with the language head of their shared table.
        languages: how a text names its languages: by "tokens", or in "words" (``translate English to German: ``).
        head_start: the first decoder token of a task head: the "start token", or the "last token" of the text,
            which is its language.
    """

    spec: Callable[[Config, str], Model]
    tensors: Callable[[Config, Mapping[str, Tensor], str], Renamed]
    adjust: Callable[[Model, Mapping[str, Tensor]], Model] = lambda model, tensors: model
    defaults: Mapping[str, Any]
    bare_head: str = "features"
    languages: Literal["tokens", "words"] = "tokens"
    head_start: Literal["start token", "last token"] = "start token"

    @staticmethod
    def of(module: ModuleType) -> Family:
        """The family that a module describes."""
        found: dict[str, Any] = {"defaults": {}}
        for name in Family.__dataclass_fields__:
            for spelled in (name, name.upper()):
                if hasattr(module, spelled):
                    found[name] = getattr(module, spelled)
        return Family(**found)
