"""Finds and builds the tokenizer of a checkpoint folder.

Search order: ``tokenizer.json``; ``source.spm`` with ``vocab.json`` (Marian, in marian.py); a SentencePiece
model; ``vocab.txt`` (WordPiece); ``vocab.json`` with ``merges.txt`` (byte-level BPE).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..checkpoint import read_object
from ..errors import CheckpointError
from . import families, multilingual, sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

Result = TypeVar("Result")


def guarded(what: str, call: Callable[[], Result]) -> Result:
    """Runs ``call`` and converts any failure of the tokenizers library, including panics, to
    CheckpointError."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # pyo3's PanicException derives from BaseException
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what}: {error}") from error


_CLASSES = {
    "albert": "Albert",
    "bart": "Bart",
    "blenderbot": "Blenderbot",
    "blenderbot-small": "BlenderbotSmall",
    "camembert": "Camembert",
    "deberta-v2": "DebertaV2",
    "m2m_100": "M2M100",
    "mbart": "MBart",
    "mt5": "T5",
    "pegasus": "Pegasus",
    "roberta": "Roberta",
    "t5": "T5",
    "umt5": "T5",
    "xlm-roberta": "XLMRoberta",
    "xlm-roberta-xl": "XLMRoberta",
}


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; a missing class is filled in from config.json or the family."""
    config = read_object(folder / "tokenizer_config.json")
    if not config.get("tokenizer_class") and (folder / "config.json").is_file():
        model = read_object(folder / "config.json")
        family = _CLASSES.get(str(model.get("model_type")))
        name = model.get("tokenizer_class") or (f"{family}Tokenizer" if family else None)
        if isinstance(name, str):
            config["tokenizer_class"] = name
    return config


def read_text(path: Path) -> str:
    """The contents of a text file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def content(value: Any) -> str | None:
    """The text of a token, which is a string or an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Special tokens by name, from tokenizer_config.json, else from special_tokens_map.json."""
    found: dict[str, str] = {}
    fallback = read_object(folder / "special_tokens_map.json")
    for name in SPECIAL_NAMES:
        source = config if name in config else fallback
        text = content(source.get(name))
        if text is not None:
            found[name] = text
    return found


def build(folder: Path, config: dict[str, Any], specials: dict[str, str]) -> Backend:
    """The backend of a non-Marian folder, with added tokens and post-processor."""
    from tokenizers import Tokenizer as Backend

    path = folder / "tokenizer.json"
    if path.is_file():
        # Parsing in Python first would double the time for large vocabularies; the library validates the
        # file.
        backend = guarded(f"{path} cannot be read", lambda: Backend.from_file(str(path)))
        from_file = True
    else:
        description = _describe(folder, config, specials)
        backend = guarded(
            f"the tokenizer of {folder} cannot be built",
            lambda: Backend.from_str(json.dumps(description)),
        )
        from_file = False
    backend.no_truncation()
    backend.no_padding()
    guarded(
        f"the added tokens of {folder} cannot be read",
        lambda: _add_tokens(backend, folder, config, specials),
    )
    if multilingual.kind(config):
        guarded(
            f"the post-processor of {folder} cannot be built",
            lambda: _mark_language(backend, folder, config, specials, must=not from_file),
        )
    elif from_file:
        guarded(
            f"the post-processor of {folder} cannot be built",
            lambda: _update_post_processor(backend, config, specials),
        )
    if config.get("split_special_tokens"):
        backend.encode_special_tokens = True
    return backend


def _describe(folder: Path, config: dict[str, Any], specials: dict[str, str]) -> dict[str, Any]:
    for name in (
        "tokenizer.model",
        "spiece.model",
        "spm.model",
        "sentencepiece.bpe.model",
        "sentencepiece.model",
    ):
        path = folder / name
        if path.is_file():
            ids = folder / "vocab.json"
            vocab = read_object(ids) if ids.is_file() else None
            if multilingual.kind(config):
                return multilingual.from_sentencepiece(path, sentencepiece.read(path), config, specials, vocab)
            return families.from_sentencepiece(path, sentencepiece.read(path), config, specials)
    if (folder / "vocab.txt").is_file():
        return families.from_wordpiece(folder / "vocab.txt", read_text(folder / "vocab.txt"), config, specials)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return families.from_byte_level(
            folder,
            read_object(folder / "vocab.json"),
            read_text(folder / "merges.txt"),
            config,
            specials,
        )
    raise CheckpointError(
        f"{folder} has no tokenizer: expected tokenizer.json, a SentencePiece model (.spm or .model), vocab.txt, "
        "or vocab.json with merges.txt"
    )


def _add_tokens(backend: Backend, folder: Path, config: dict[str, Any], specials: dict[str, str]) -> None:
    """Adds missing tokens of tokenizer_config.json, added_tokens.json and the special tokens to the backend,
    at their ids."""
    from tokenizers import AddedToken

    have = {token.content for token in backend.get_added_tokens_decoder().values()}
    wanted: dict[int, AddedToken] = {}
    decoder = config.get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        text = content(entry)
        if text is None or not str(key).isdigit() or text in have:
            continue
        flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "special")}
        normalized = bool(entry.get("normalized", not flags["special"]))
        wanted[int(key)] = AddedToken(text, normalized=normalized, **flags)
    for text, index in read_object(folder / "added_tokens.json").items():
        if text not in have and isinstance(index, int) and index not in wanted:
            wanted[index] = AddedToken(text, normalized=False, special=text in specials.values())
    for index, token in sorted(wanted.items()):
        known = backend.token_to_id(token.content)
        backend.add_tokens([token])
        got = backend.token_to_id(token.content)
        if known is None and got != index:
            raise CheckpointError(
                f"the added token {token.content!r} of {folder} should have id {index}, but the vocabulary assigns "
                f"{got}: ids between {got} and {index} are missing"
            )
    have |= {token.content for token in wanted.values()}
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    texts = list(specials.values())
    texts += [text for entry in (extra if isinstance(extra, list) else []) if (text := content(entry))]
    missing = [
        AddedToken(text, special=True, normalized=False)
        for text in dict.fromkeys(texts)
        if text not in have and backend.token_to_id(text) is not None
    ]
    if missing:
        backend.add_special_tokens(missing)


def _mark_language(
    backend: Backend, folder: Path, config: dict[str, Any], specials: dict[str, str], must: bool
) -> None:
    """Makes the language codes of the class special tokens, and adds the configured language at the position
    that the class specifies, overriding tokenizer.json."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    have = {token.content for token in backend.get_added_tokens_decoder().values()}
    codes = [text for text in multilingual.languages(config) if text not in have and backend.token_to_id(text)]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in codes])
    template = multilingual.template(config, specials, lambda text: backend.token_to_id(text))
    if template is not None:
        backend.post_processor = TemplateProcessing(**template)
    elif must:
        token = multilingual.source_token(config)
        raise CheckpointError(f"the vocabulary of {folder} lacks {token!r}, the language of tokenizer_config.json")


_BOS_CLASSES = ("Llama", "CodeLlama", "Gemma", "Cohere", "GPTNeoX")


def _update_post_processor(backend: Backend, config: dict[str, Any], specials: dict[str, str]) -> None:
    """Applies ``add_bos_token`` and ``add_eos_token`` of the configuration, which override the post-processor
    of tokenizer.json."""
    add_bos, add_eos = config.get("add_bos_token"), config.get("add_eos_token")
    if add_bos is None and add_eos is None:
        return
    name = str(config.get("tokenizer_class", ""))
    known = name.removesuffix("Fast").removesuffix("Tokenizer") in _BOS_CLASSES
    if not (add_bos or add_eos or known):
        return
    template = families.bos_eos_template(specials, bool(add_bos), bool(add_eos), lambda text: backend.token_to_id(text))
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(**template)
