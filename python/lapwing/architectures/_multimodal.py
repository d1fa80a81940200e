"""Models of images and text: only their language model, whose configuration is ``text_config``. Tensors of other parts
are left out, and images are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..checkpoint import Config, Tensor
from ..spec import Model
from . import complete, family
from ._family import Family
from ._names import Renamed

_LANGUAGE = re.compile(r"(?:model\.)?language_model\.(?:model\.)?(.*)")
_OTHERS = re.compile(r"(?:model\.)?(?:vision_tower|vision_model|multi_modal_projector)\..*")


def _inner(config: Config, task: str) -> tuple[Family, Config, str]:
    """Family, configuration and task of the language model."""
    text = config.section("text_config")
    if text.model_type not in ("gemma3_text", "ministral3", "mistral"):
        raise text.wrong("model_type", "gemma3_text, ministral3 or mistral")
    # The outer configuration decides; by default tables are tied.
    text = complete(text.with_values(tie_word_embeddings=config.flag("tie_word_embeddings", default=True)))
    return family(text), text, "generation" if task == "text-to-text" else task


def spec(config: Config, task: str) -> Model:
    module, text, task = _inner(config, task)
    return module.spec(text, task)


def tensors(config: Config, checkpoint: Mapping[str, Tensor], task: str) -> Renamed:
    module, text, task = _inner(config, task)
    parts = {name: tensor for name, tensor in checkpoint.items() if not _OTHERS.fullmatch(name)}
    names = {name: match[1] if (match := _LANGUAGE.fullmatch(name)) else name for name in parts}
    return module.tensors(text, {names[name]: tensor for name, tensor in parts.items()}, task)
