"""Settings of tokenizer_config.json that override tokenizer.json.

transformers builds the tokenizer of a known class from the vocabulary of tokenizer.json and the settings of
tokenizer_config.json; only the class ``PreTrainedTokenizerFast`` (``TokenizersBackend``) and classes that it does
not know use tokenizer.json as it stands. `class_name` finds the class, `apply` changes the backend. Components
that no setting of the class describes, such as a pattern of its own, stay as the file has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, short_repr

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

Json = dict[str, Any]

BY_MODEL = {
    "albert": "Albert",
    "bart": "Roberta",
    "bert": "Bert",
    "blenderbot": "Blenderbot",
    "blenderbot-small": "BlenderbotSmall",
    "camembert": "Camembert",
    "codegen": "GPT2",
    "cohere": "Cohere",
    "cohere2": "Cohere",
    "data2vec-text": "Roberta",
    "deberta": "Deberta",
    "deberta-v2": "DebertaV2",
    "distilbert": "Bert",
    "electra": "Bert",
    "esm": "Esm",
    "gemma": "Gemma",
    "gemma2": "Gemma",
    "gemma3": "Gemma",
    "gemma3_text": "Gemma",
    "gpt2": "GPT2",
    "gpt_neo": "GPT2",
    "gpt_neox": "GPTNeoX",
    "gptj": "GPT2",
    "gte": "XLMRoberta",
    "jina_embeddings_v3": "XLMRoberta",
    "m2m_100": "M2M100",
    "mbart": "MBart",
    "megatron-bert": "Bert",
    "mpnet": "MPNet",
    "mpt": "GPTNeoX",
    "mt5": "T5",
    "nomic_bert": "Bert",
    "olmo": "GPTNeoX",
    "opt": "GPT2",
    "pegasus": "Pegasus",
    "phi": "GPT2",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
    "qwen3_moe": "Qwen2",
    "roberta": "Roberta",
    "roformer": "RoFormer",
    "starcoder2": "GPT2",
    "t5": "T5",
    "umt5": "T5",
    "xlm-roberta": "XLMRoberta",
    "xlm-roberta-xl": "XLMRoberta",
}
"""The tokenizer class of a family whose configuration names none."""

_AS_IT_STANDS = (
    *("ernie4_5", "glm", "glm4", "gpt_bigcode", "granite", "ministral", "ministral3", "mistral", "mistral3"),
    *("mixtral", "modernbert", "nemotron", "olmo2", "olmo3", "persimmon", "phi3", "stablelm", "umt5"),
    "xlm-roberta-xl",
)
"""Families whose tokenizer.json counts whatever class is named."""

_ALIASES = {
    **dict.fromkeys(("ConvBert", "DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert"), "Bert"),
    **dict.fromkeys(("Bart", "LED", "Longformer"), "Roberta"),
}


def short_name(config: Mapping[str, Any]) -> str:
    """``tokenizer_class`` without its ending; empty for classes that use the file as it stands."""
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    name = _ALIASES.get(name, name)
    return "" if name in ("PreTrained", "TokenizersBackend") else name


def class_name(config: Mapping[str, Any], model_type: str, byte_level: bool) -> str:
    """The class that transformers uses for a folder with tokenizer.json; empty if the file counts as it stands.

    ``byte_level`` says whether tokenizer.json has a component of that type.
    """
    name = short_name(config)
    if model_type in _AS_IT_STANDS:
        return ""
    if model_type == "qwen2":  # some of its checkpoints name LlamaTokenizer
        return "Qwen2"
    # Checkpoints of Llama 3 and its relatives name the class of Llama 2.
    return "" if name == "Llama" and byte_level else name


def _state(component: Any) -> Json | None:
    return None if component is None else json.loads(component.__getstate__())


def _steps(component: Json | None, key: str) -> list[Json]:
    """The elements of a sequence, or the component itself."""
    if component is None:
        return []
    return list(component[key]) if component.get("type") == "Sequence" else [component]


class Parts:
    """The components of a backend as JSON; `store` writes those that were changed."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.normalizer = _state(backend.normalizer)
        self.pre_tokenizer = _state(backend.pre_tokenizer)
        self.decoder = _state(backend.decoder)
        self._before = json.dumps([self.normalizer, self.pre_tokenizer, self.decoder])

    def of_type(self, kind: str) -> list[Json]:
        """The elements of this type in the normalizer, the pre-tokenizer and the decoder."""
        found = _steps(self.normalizer, "normalizers") + _steps(self.pre_tokenizer, "pretokenizers")
        found += _steps(self.decoder, "decoders")
        return [step for step in found if step.get("type") == kind]

    def store(self) -> None:
        parts = {"normalizer": self.normalizer, "pre_tokenizer": self.pre_tokenizer, "decoder": self.decoder}
        if json.dumps(list(parts.values())) == self._before:
            return
        empty: Json = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
        model = {"type": "BPE", "vocab": {}, "merges": []}
        made = type(self.backend).from_str(json.dumps({**empty, "post_processor": None, **parts, "model": model}))
        self.backend.normalizer = made.normalizer
        self.backend.pre_tokenizer = made.pre_tokenizer
        self.backend.decoder = made.decoder


def flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """A setting that is true or false."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"tokenizer_config.json has {key} {short_repr(value)}: expected true or false")
    return value


def bert_normalizer(config: Mapping[str, Any], chinese: bool | None = None) -> Json:
    """BERT's normalizer with the settings of a configuration."""
    strip = config.get("strip_accents")
    if strip is not None and not isinstance(strip, bool):
        raise CheckpointError(
            f"tokenizer_config.json has strip_accents {short_repr(strip)}: expected true, false or null"
        )
    split = flag(config, "tokenize_chinese_chars", True) if chinese is None else chinese
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": split,
        "strip_accents": strip,
        "lowercase": flag(config, "do_lower_case", True),
    }


def _bert(parts: Parts, config: Mapping[str, Any]) -> None:
    wanted = bert_normalizer(config)
    found = parts.of_type("BertNormalizer")
    for step in found:
        step.update(wanted)
    if not found and parts.normalizer is None:
        parts.normalizer = wanted


def _roformer(parts: Parts, config: Mapping[str, Any]) -> None:
    for step in parts.of_type("BertNormalizer"):
        step.update(bert_normalizer(config, chinese=step.get("handle_chinese_chars", False)))


def _byte_level(default: bool) -> Callable[[Parts, Mapping[str, Any]], None]:
    def change(parts: Parts, config: Mapping[str, Any]) -> None:
        prefix = flag(config, "add_prefix_space", default)
        for step in _steps(parts.pre_tokenizer, "pretokenizers"):
            if step.get("type") == "ByteLevel":
                step["add_prefix_space"] = prefix

    return change


def _metaspace(parts: Parts, config: Mapping[str, Any], without: str = "never") -> None:
    if config.get("add_prefix_space") is not None:
        scheme = "always" if flag(config, "add_prefix_space", True) else without
        for step in parts.of_type("Metaspace"):
            step["prepend_scheme"] = scheme


def _switch(steps: list[Json], config: Mapping[str, Any], key: str, wanted: Sequence[Json], off: bool = False) -> None:
    """Adds the steps ``wanted`` in front, or takes them out, if ``key`` is set and the steps differ from it."""
    kinds = [step["type"] for step in wanted]
    present = any(step["type"] in kinds for step in steps)
    value = flag(config, key, present != off) != off
    if value and not present:
        steps[:0] = [dict(step) for step in wanted]
    elif present and not value:
        steps[:] = [step for step in steps if step["type"] not in kinds]


def _albert(parts: Parts, config: Mapping[str, Any]) -> None:
    steps = _steps(parts.normalizer, "normalizers")
    quotes = [step for step in steps if step["type"] == "Replace"]
    rest = [step for step in steps if step["type"] != "Replace"]
    _switch(rest, config, "do_lower_case", [{"type": "Lowercase"}])
    _switch(rest, config, "keep_accents", [{"type": "NFKD"}, {"type": "StripAccents"}], off=True)
    if quotes + rest != steps:
        parts.normalizer = {"type": "Sequence", "normalizers": quotes + rest}
    _metaspace(parts, config)


def _deberta_v2(parts: Parts, config: Mapping[str, Any]) -> None:
    steps, cut = _steps(parts.normalizer, "normalizers"), _steps(parts.pre_tokenizer, "pretokenizers")
    before = [*steps], [*cut]
    _switch(steps, config, "do_lower_case", [{"type": "Lowercase"}])
    _switch(cut, config, "split_by_punct", [{"type": "Punctuation", "behavior": "Isolated"}])
    if steps != before[0]:
        parts.normalizer = {"type": "Sequence", "normalizers": steps}
    if cut != before[1]:
        parts.pre_tokenizer = {"type": "Sequence", "pretokenizers": cut}
    _metaspace(parts, config, without="first")


def _llama(parts: Parts, config: Mapping[str, Any]) -> None:
    """Marks the start of the text alone with ``legacy: false``, of no text without ``add_prefix_space``."""
    prefix = flag(config, "add_prefix_space", True)
    if prefix and flag(config, "legacy", True):
        return
    scheme = "first" if prefix else "never"
    parts.normalizer = None
    parts.pre_tokenizer = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
    steps = [step for step in _steps(parts.decoder, "decoders") if prefix or step["type"] != "Strip"]
    parts.decoder = {"type": "Sequence", "decoders": steps}


_CHANGES: dict[str, Callable[[Parts, Mapping[str, Any]], None]] = {
    "Albert": _albert,
    "Bert": _bert,
    "Blenderbot": _byte_level(True),
    "Camembert": _metaspace,
    "CodeGen": _byte_level(False),
    "Cohere": _byte_level(False),
    "Deberta": _byte_level(False),
    "DebertaV2": _deberta_v2,
    "GPT2": _byte_level(False),
    "GPTNeoX": _byte_level(False),
    "Llama": _llama,
    "MPNet": _bert,
    "Qwen2": _byte_level(False),
    "RoFormer": _roformer,
    "Roberta": _byte_level(False),
    "XLMRoberta": _metaspace,
}

_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_END = "<|endoftext|>"
_GPT2 = {"unk_token": _END, "bos_token": _END, "eos_token": _END}
_DEFAULTS: dict[str, dict[str, str]] = {
    "Albert": {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"},
    "Bert": _BERT,
    "Blenderbot": _ROBERTA,
    "Camembert": _ROBERTA,
    "CodeGen": _GPT2,
    "Deberta": {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]"},
    "DebertaV2": {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]"},
    "Esm": {
        "unk_token": "<unk>",
        "cls_token": "<cls>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "eos_token": "<eos>",
    },
    "GPT2": _GPT2,
    "GPTNeoX": {**_GPT2, "pad_token": "<|padding|>"},
    "Gemma": {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "Llama": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "MBart": _ROBERTA,
    "MPNet": {**_ROBERTA, "unk_token": "[UNK]"},
    "Nllb": _ROBERTA,
    "Pegasus": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask_2>"},
    "Qwen2": {"unk_token": _END, "eos_token": _END, "pad_token": _END},
    "RoFormer": _BERT,
    "Roberta": _ROBERTA,
    "T5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "XLMRoberta": _ROBERTA,
}

TAKES_SPACE_BEFORE_MASK = ("Blenderbot", "Camembert", "MBart", "MBart50", "MPNet", "Nllb")
"""Classes whose mask token takes the space before it, unless the configuration says otherwise."""


def defaults(name: str) -> dict[str, str]:
    """The special tokens of a class that its configuration need not name."""
    return _DEFAULTS.get(name, {})


def apply(backend: Backend, name: str, config: Mapping[str, Any]) -> None:
    """Changes the components of the backend as the class ``name`` and its settings say."""
    change = _CHANGES.get(name)
    if change is not None:
        parts = Parts(backend)
        change(parts, config)
        parts.store()


def post_processor(name: str, specials: Mapping[str, str]) -> tuple[list[str], list[str]] | None:
    """The templates of one text and of a pair where the class makes its own; else None.

    "$A" and "$B" are the texts, other words tokens, each with its segment.
    """
    cls, sep = f"{specials.get('cls_token')}:0", f"{specials.get('sep_token')}:0"
    bos, eos = f"{specials.get('bos_token')}:0", f"{specials.get('eos_token')}:0"
    if name in ("Bert", "RoFormer", "DebertaV2"):
        return [cls, "$A:0", sep], [cls, "$A:0", sep, "$B:1", f"{specials.get('sep_token')}:1"]
    if name == "Deberta":
        return [cls, "$A:0", sep], [cls, "$A:0", sep, sep, "$B:0", sep]
    if name in ("XLMRoberta", "Camembert"):
        return [bos, "$A:0", eos], [bos, "$A:0", eos, eos, "$B:0", eos]
    if name == "T5":
        return ["$A:0", eos], ["$A:0", eos, "$B:0", eos]
    if name == "Pegasus":
        return ["$A:0", eos], ["$A:0", "$B:0", eos]
    if name == "GPTNeoX":
        return ["$A:0"], ["$A:0", "$B:1"]
    return None
