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
from . import families, multilingual, sentencepiece, settings

if TYPE_CHECKING:
    from tokenizers import AddedToken
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


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; a missing class is filled in from config.json or the family."""
    config = read_object(folder / "tokenizer_config.json")
    if not config.get("tokenizer_class") and (folder / "config.json").is_file():
        model = read_object(folder / "config.json")
        family = settings.BY_MODEL.get(str(model.get("model_type")))
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
    """Special tokens by name. tokenizer_config.json counts before special_tokens_map.json if it lists the added
    tokens, else after it, as in transformers."""
    found: dict[str, str] = {}
    legacy = read_object(folder / "special_tokens_map.json")
    first, second = (config, legacy) if "added_tokens_decoder" in config else (legacy, config)
    for name in SPECIAL_NAMES:
        text = content((first if name in first else second).get(name))
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
    if from_file and backend.truncation:
        config.setdefault("truncation_side", backend.truncation.get("direction"))
    backend.no_truncation()
    backend.no_padding()
    name = _class_of(folder, config, backend) if from_file else ""
    for key, text in settings.defaults(name).items():
        if key not in specials and key not in config:
            specials[key] = text
    guarded(f"the settings of {folder} cannot be applied", lambda: settings.apply(backend, name, config))
    backend = guarded(f"{path} cannot be read", lambda: _without_special(backend, config, specials))
    guarded(
        f"the added tokens of {folder} cannot be read",
        lambda: _add_tokens(backend, folder, config, specials, name),
    )
    if multilingual.kind(config):
        guarded(
            f"the post-processor of {folder} cannot be built",
            lambda: _mark_language(backend, folder, config, specials, must=not from_file),
        )
    elif from_file:
        guarded(
            f"the post-processor of {folder} cannot be built",
            lambda: _post_process(backend, config, specials, name),
        )
    if config.get("split_special_tokens"):
        backend.encode_special_tokens = True
    return backend


def _class_of(folder: Path, config: dict[str, Any], backend: Backend) -> str:
    path = folder / "config.json"
    model_type = str(read_object(path).get("model_type")) if path.is_file() else ""
    parts = (backend.pre_tokenizer, backend.decoder)
    return settings.class_name(config, model_type, any("ByteLevel" in str(part) for part in parts))


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
        return families.from_word_list(folder / "vocab.txt", read_text(folder / "vocab.txt"), config, specials)
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


def _add_tokens(backend: Backend, folder: Path, config: dict[str, Any], specials: dict[str, str], name: str) -> None:
    """Adds the tokens of tokenizer_config.json, added_tokens.json and the special tokens to the backend.

    ``added_tokens_decoder`` of tokenizer_config.json replaces the flags in tokenizer.json; added_tokens.json
    counts only where neither lists a token.
    """
    from tokenizers import AddedToken

    have = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    names = set(specials.values()) | set(_extra_tokens(config))
    wanted: dict[int, AddedToken] = {}
    decoder = config.get("added_tokens_decoder")
    for key, entry in (decoder if isinstance(decoder, dict) else {}).items():
        text = content(entry)
        if text is None or not str(key).isdigit():
            continue
        token = _token(text, entry if isinstance(entry, dict) else {})
        if name == "Qwen2" and text in names:  # the class adds its special tokens again, without flags
            token = _token(text, {"special": True})
        if text not in have or _flags(have[text]) != _flags(token):
            wanted[int(key)] = token
    listed = {token.content for token in wanted.values()} | set(have)
    for text, index in ({} if decoder else read_object(folder / "added_tokens.json")).items():
        if text not in listed and isinstance(index, int) and index not in wanted:
            wanted[index] = AddedToken(text, normalized=text not in names, special=text in names)
    for index, token in sorted(wanted.items()):
        known = backend.token_to_id(token.content)
        if token.content in specials.values():
            token.special = True
        backend.add_tokens([token])
        got = backend.token_to_id(token.content)
        if known is None and got != index:
            raise CheckpointError(
                f"the added token {token.content!r} of {folder} should have id {index}, but the vocabulary assigns "
                f"{got}: ids between {got} and {index} are missing"
            )
    have |= {token.content: token for token in wanted.values()}
    for key, value in [*((key, config.get(key)) for key in specials), *_extra_tokens(config).items()]:
        text = specials.get(key) or content(value)
        if text is None or text in have:
            continue
        flags = dict(value) if isinstance(value, dict) else {}
        if key == "mask_token" and name in settings.TAKES_SPACE_BEFORE_MASK:
            flags.setdefault("lstrip", True)
        have[text] = _token(text, {**flags, "special": True})
        backend.add_tokens([have[text]])


def _without_special(backend: Backend, config: dict[str, Any], specials: dict[str, str]) -> Backend:
    """The backend, rebuilt if tokenizer_config.json says that a special token of tokenizer.json is none: the
    library never takes that flag back."""
    decoder = config.get("added_tokens_decoder")
    entries = decoder.values() if isinstance(decoder, dict) else ()
    plain = {
        content(entry)
        for entry in entries
        if isinstance(entry, dict) and entry.get("special") is False and content(entry) not in specials.values()
    }
    added = backend.get_added_tokens_decoder().values()
    if not any(token.special and token.content in plain for token in added):
        return backend
    description = json.loads(backend.to_str())
    for token in description["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in plain
    return type(backend).from_str(json.dumps(description))


def _token(text: str, entry: dict[str, Any]) -> AddedToken:
    from tokenizers import AddedToken

    flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "special")}
    return AddedToken(text, normalized=bool(entry.get("normalized", not flags["special"])), **flags)


def _flags(token: AddedToken) -> tuple[bool, ...]:
    return token.lstrip, token.rstrip, token.single_word, token.special, token.normalized


def _extra_tokens(config: dict[str, Any]) -> dict[str, Any]:
    """Special tokens besides the named ones: a list, a mapping of names, and keys such as ``image_token``."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    found: dict[str, Any] = {}
    entries = extra.values() if isinstance(extra, dict) else extra if isinstance(extra, list) else []
    for entry in entries:
        text = content(entry)
        if text is not None:
            found[text] = entry
    for key, value in config.items():
        if key.endswith("_token") and key not in SPECIAL_NAMES and isinstance(value, str):
            found[value] = value
    return found


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


def _post_process(backend: Backend, config: dict[str, Any], specials: dict[str, str], name: str) -> None:
    """Replaces the post-processor of tokenizer.json where the class has its own.

    ``add_bos_token`` and ``add_eos_token`` count only without a tokenizer.json, as in transformers: its
    post-processor already contains them.
    """
    from tokenizers.processors import RobertaProcessing, TemplateProcessing

    if name in ("Roberta", "MPNet"):
        sep, cls = specials.get("sep_token"), specials.get("cls_token")
        sep_id, cls_id = (None if text is None else backend.token_to_id(text) for text in (sep, cls))
        if sep is not None and cls is not None and sep_id is not None and cls_id is not None:
            trim = name == "MPNet" or settings.flag(config, "trim_offsets", True)
            prefix = name == "Roberta" and settings.flag(config, "add_prefix_space", False)
            backend.post_processor = RobertaProcessing((sep, sep_id), (cls, cls_id), trim, prefix)
        return
    templates = settings.post_processor(name, specials)
    if templates is None:
        return
    words = dict.fromkeys(word[:-2] for words in templates for word in words if not word.startswith("$"))
    ids = {word: backend.token_to_id(word) for word in words}
    if None not in ids.values():
        single, pair = templates
        backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=list(ids.items()))
