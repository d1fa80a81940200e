"""Tokenizers of families without a tokenizer.json, built from a SentencePiece model, a word list or a merge
list. Each function returns a description in the format of `tokenizers`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, short_repr
from . import settings
from .sentencepiece import (
    CONTROL,
    NORMAL,
    SPACE,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    decoder_json,
    model_json,
    normalizer_json,
    pre_tokenizer_json,
)

Json = dict[str, Any]


def _template(single: str, pair: str, ids: Mapping[str, int]) -> Json:
    """The ``post_processor`` part, from patterns such as ``[CLS]:0 A:0 [SEP]:0``."""

    def part(word: str) -> Json:
        text, _, kind = word.rpartition(":")
        if text in ("A", "B"):
            return {"Sequence": {"id": text, "type_id": int(kind)}}
        return {"SpecialToken": {"id": text, "type_id": int(kind)}}

    parts = [part(word) for word in single.split()], [part(word) for word in pair.split()]
    used = {p["SpecialToken"]["id"] for words in parts for p in words if "SpecialToken" in p}
    return {
        "type": "TemplateProcessing",
        "single": parts[0],
        "pair": parts[1],
        "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in used},
    }


def added(texts: Mapping[str, int], special: bool) -> list[Json]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": index, "content": text, **flags, "special": special} for text, index in texts.items()]


def description(**parts: Any) -> Json:
    base: Json = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    base.update(dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder")))
    base.update(parts)
    base["added_tokens"].sort(key=lambda token: token["id"])
    return base


METASPACE: Json = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
"""Marks the beginnings of words, also at the start of the text; as a decoder, the reverse."""

WORDS: Json = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
"""Pre-tokenization into words, as in the unigram families."""


def charsmap(model: SentencePieceModel) -> list[Json]:
    full = normalizer_json(model, prefix=False)
    return [step for step in (full or {}).get("normalizers", []) if step["type"] == "Precompiled"]


def _sequence(steps: list[Json]) -> Json | None:
    return {"type": "Sequence", "normalizers": steps} if steps else None


def from_sentencepiece(
    path: Path,
    model: SentencePieceModel,
    config: Json,
    specials: dict[str, str],
) -> Json:
    """The tokenizer of a family with a SentencePiece model, selected by the class in its configuration."""
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    makers: dict[str, Callable[[SentencePieceModel, Json, dict[str, str]], Json]] = {
        "Llama": _llama,
        "CodeLlama": _llama,
        "Gemma": _llama,
        "": _llama,
        "PreTrained": _llama,
        "T5": _t5,
        "MT5": _t5,
        "XLMRoberta": _xlm_roberta,
        "Camembert": _camembert,
        "Albert": _albert,
        "DebertaV2": _deberta_v2,
        "Pegasus": _pegasus,
    }
    if name not in makers:
        elsewhere = {"M2M100", "MBart", "MBart50", "Marian", "Nllb"}
        known = ", ".join(sorted(f"{key}Tokenizer" for key in {*makers, *elsewhere} if key))
        raise CheckpointError(
            f"{path} is the model of a {name}Tokenizer, whose vocabulary has tokens that are not in this file: "
            f"expected a tokenizer.json next to it, or one of {known}"
        )
    return makers[name](model, config, specials)


def control_tokens(pieces: list[Piece]) -> list[Json]:
    special = {p.text: i for i, p in enumerate(pieces) if p.kind in (CONTROL, UNKNOWN)}
    plain = {p.text: i for i, p in enumerate(pieces) if p.kind == USER_DEFINED}
    return added(special, True) + added(plain, False)


def _llama(model: SentencePieceModel, config: Json, specials: dict[str, str]) -> Json:
    """Llama, Gemma and others that use the file unchanged."""
    gemma = str(config.get("tokenizer_class", "")).startswith("Gemma")
    add_bos = bool(config.get("add_bos_token", True)) and 0 <= model.bos_id < len(model.pieces)
    add_eos = bool(config.get("add_eos_token", False)) and 0 <= model.eos_id < len(model.pieces)
    ids = {piece.text: index for index, piece in reversed(list(enumerate(model.pieces)))}
    bos = specials.setdefault("bos_token", model.pieces[model.bos_id].text) if add_bos else ""
    eos = specials.setdefault("eos_token", model.pieces[model.eos_id].text) if add_eos else ""
    specials.setdefault("unk_token", model.unk_piece())
    for text in filter(None, (bos, eos)):
        if text not in ids:
            raise CheckpointError(f"the special token {text!r} is not in the SentencePiece model")
    single = " ".join(filter(None, (bos and f"{bos}:0", "A:0", eos and f"{eos}:0")))
    pair = " ".join(filter(None, (single, bos and f"{bos}:1", "B:1", eos and f"{eos}:1")))
    legacy = config.get("legacy", True) is not False or gemma
    return description(
        added_tokens=control_tokens(model.pieces),
        normalizer=normalizer_json(model, prefix=legacy),
        pre_tokenizer=None if legacy else pre_tokenizer_json(model),
        post_processor=_template(single, pair, ids) if bos or eos else None,
        decoder=decoder_json(model),
        model=model_json(model, model.pieces, model.unk_id),
    )


def _unigram(model: SentencePieceModel, who: str) -> None:
    if model.algorithm != UNIGRAM:
        raise CheckpointError(f"the SentencePiece model of {who} is a BPE model: expected a unigram model")


def _ids(pieces: list[Piece]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        ids.setdefault(piece.text, index)
    return ids


def require(ids: Mapping[str, int], *texts: str) -> None:
    missing = [text for text in texts if text not in ids]
    if missing:
        raise CheckpointError(f"the SentencePiece model lacks the tokens {', '.join(map(repr, missing))}")


def _t5(model: SentencePieceModel, config: Json, specials: dict[str, str]) -> Json:
    _unigram(model, "T5")
    extra = config.get("extra_ids", 100)
    if not isinstance(extra, int) or not 0 <= extra <= 10_000:
        raise CheckpointError(f"tokenizer_config.json has extra_ids {short_repr(extra)}: expected 0 to 10000")
    pieces = list(model.pieces)
    have = {piece.text for piece in pieces}
    # The sentinels follow the vocabulary in descending order.
    sentinels = [f"<extra_id_{index}>" for index in range(extra - 1, -1, -1)]
    pieces += [Piece(text, 0.0, CONTROL) for text in sentinels if text not in have]
    ids = _ids(pieces)
    require(ids, "</s>")
    specials.setdefault("eos_token", "</s>")
    specials.setdefault("pad_token", pieces[0].text)
    specials.setdefault("unk_token", model.unk_piece())
    return description(
        added_tokens=control_tokens(pieces),
        normalizer=_sequence(charsmap(model)),
        pre_tokenizer=WORDS,
        post_processor=_template("A:0 </s>:0", "A:0 </s>:0 B:0 </s>:0", ids),
        decoder=METASPACE,
        model=model_json(model, pieces, model.unk_id),
    )


def _xlm_roberta(model: SentencePieceModel, config: Json, specials: dict[str, str]) -> Json:
    _unigram(model, "XLM-RoBERTa")
    head = [Piece("<s>", 0.0, CONTROL), Piece("<pad>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    pieces = [*head, Piece("<unk>", 0.0, UNKNOWN), *model.pieces[3:], Piece("<mask>", 0.0, CONTROL)]
    return _roberta_like(model, pieces, 3, specials)


def _camembert(model: SentencePieceModel, config: Json, specials: dict[str, str]) -> Json:
    _unigram(model, "CamemBERT")
    head = [Piece("<s>NOTUSED", 0.0, CONTROL), Piece("<pad>", 0.0, CONTROL)]
    head += [
        Piece("</s>NOTUSED", 0.0, CONTROL),
        Piece("<unk>", 0.0, UNKNOWN),
        Piece("<unk>NOTUSED", -100.0, NORMAL),
    ]
    return _roberta_like(model, [*head, *model.pieces[1:], Piece("<mask>", 0.0, CONTROL)], 3, specials)


def _roberta_like(model: SentencePieceModel, pieces: list[Piece], unk_id: int, specials: dict[str, str]) -> Json:
    ids = _ids(pieces)
    require(ids, "<s>", "</s>", "<pad>", "<mask>")
    defaults = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    for name, text in {
        **defaults,
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "unk_token": "<unk>",
    }.items():
        specials.setdefault(name, text)
    added = control_tokens(pieces)
    for token in added:
        token["lstrip"] = token["content"] == "<mask>"
    return description(
        added_tokens=added,
        normalizer=_sequence(charsmap(model)),
        pre_tokenizer=WORDS,
        post_processor=_template("<s>:0 A:0 </s>:0", "<s>:0 A:0 </s>:0 </s>:0 B:0 </s>:0", ids),
        decoder=METASPACE,
        model=model_json(model, pieces, unk_id),
    )


def _cls_sep(specials: dict[str, str]) -> None:
    for name, text in {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}.items():
        specials.setdefault(name, text)


def _albert(model: SentencePieceModel, config: Json, specials: dict[str, str]) -> Json:
    _unigram(model, "ALBERT")
    steps: list[Json] = [
        {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
        {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
    ]
    if not config.get("keep_accents", False):
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if config.get("do_lower_case", True):
        steps.append({"type": "Lowercase"})
    ids = _ids(model.pieces)
    require(ids, "[CLS]", "[SEP]")
    _cls_sep(specials)
    return description(
        added_tokens=control_tokens(model.pieces),
        normalizer=_sequence(steps + charsmap(model)),
        pre_tokenizer=WORDS,
        post_processor=_template("[CLS]:0 A:0 [SEP]:0", "[CLS]:0 A:0 [SEP]:0 B:1 [SEP]:1", ids),
        decoder=METASPACE,
        model=model_json(model, model.pieces, model.unk_id),
    )


def _deberta_v2(model: SentencePieceModel, config: Json, specials: dict[str, str]) -> Json:
    _unigram(model, "DeBERTa")
    pieces = list(model.pieces)
    if "[MASK]" not in _ids(pieces):
        pieces.append(Piece("[MASK]", 0.0, CONTROL))
    steps: list[Json] = [{"type": "Lowercase"}] if config.get("do_lower_case", False) else []
    steps += [
        {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
        {"type": "NFC"},
        {"type": "Strip", "strip_left": False, "strip_right": True},
    ]
    cut: list[Json] = [{"type": "Punctuation", "behavior": "Isolated"}] if config.get("split_by_punct") else []
    ids = _ids(pieces)
    require(ids, "[CLS]", "[SEP]")
    _cls_sep(specials)
    return description(
        added_tokens=control_tokens(pieces),
        normalizer=_sequence(steps),
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*cut, METASPACE]},
        post_processor=_template("[CLS]:0 A:0 [SEP]:0", "[CLS]:0 A:0 [SEP]:0 B:1 [SEP]:1", ids),
        decoder=METASPACE,
        model=model_json(model, pieces, model.unk_id),
    )


def _pegasus(model: SentencePieceModel, config: Json, specials: dict[str, str]) -> Json:
    _unigram(model, "Pegasus")
    offset = config.get("offset", 103)
    if not isinstance(offset, int) or not 3 <= offset <= 10_000:
        raise CheckpointError(f"tokenizer_config.json has offset {short_repr(offset)}: expected 3 to 10000")
    head = [Piece(text, 0.0, CONTROL) for text in ("<pad>", "</s>", "<mask_1>", "<mask_2>")]
    head += [Piece(f"<unk_{index}>", 0.0, CONTROL) for index in range(2, offset)]
    # Piece i of the model has the id i + offset.
    pieces = [*head, *model.pieces[2:]]
    unk_id = offset + model.unk_id
    if not 0 <= unk_id < len(pieces):
        raise CheckpointError(
            f"the SentencePiece model of Pegasus has the unknown piece {model.unk_id}, which is out of range"
        )
    ids = _ids(pieces)
    for name, text in {"pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask_2>"}.items():
        specials.setdefault(name, text)
    steps = [*charsmap(model), {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    return description(
        added_tokens=control_tokens(pieces),
        normalizer=_sequence(steps),
        pre_tokenizer=METASPACE,
        post_processor=_template("A:0 </s>:0", "A:0 B:0 </s>:0", ids),
        decoder=METASPACE,
        model=model_json(model, pieces, unk_id),
    )


_WORD_LISTS = ("", "Bert", "DPRContextEncoder", "DPRQuestionEncoder", "DPRReader", "Ernie", "Esm", "MPNet", "Realm")


def from_word_list(path: Path, text: str, config: Json, specials: dict[str, str]) -> Json:
    """A ``vocab.txt``, one piece per line: BERT's and MPNet's word pieces, ESM's residues."""
    name = settings.short_name(config)
    if name not in _WORD_LISTS:
        known = ", ".join(f"{key}Tokenizer" for key in _WORD_LISTS if key)
        raise CheckpointError(
            f"{path} is the word list of a {name}Tokenizer, which cuts words by rules that are not in this file: "
            f"expected a tokenizer.json next to it, or one of {known}"
        )
    vocab: dict[str, int] = {}
    for index, line in enumerate(text.split("\n")):
        if line or index == 0:
            vocab[line.rstrip("\r")] = index
    for key, token in settings.defaults(name or "Bert").items():
        specials.setdefault(key, token)
    end = "eos_token" if name == "Esm" else "sep_token"
    missing = [specials[key] for key in ("unk_token", "cls_token", end) if specials[key] not in vocab]
    if missing:
        raise CheckpointError(f"{path} lacks the special tokens {', '.join(map(repr, missing))}")
    return (_esm if name == "Esm" else _word_pieces)(vocab, config, specials)


_MAX_RESIDUES = 10_000
"""Maximum number of ESM's tokens, which become one pattern; published lists have 33."""


def _esm(vocab: dict[str, int], config: Json, specials: dict[str, str]) -> Json:
    """ESM: every token of the list is cut out wherever it occurs, and what is between two of them is unknown."""
    unk, cls, eos = (specials[name] for name in ("unk_token", "cls_token", "eos_token"))
    if len(vocab) > _MAX_RESIDUES:
        raise CheckpointError(
            f"the word list of an EsmTokenizer has {len(vocab)} tokens: expected at most {_MAX_RESIDUES}"
        )
    longest_first = sorted(filter(None, vocab), key=len, reverse=True)
    tokens = "|".join(re.sub(r"([^\w\s])", r"\\\1", token) for token in longest_first)
    cut = {"type": "Split", "pattern": {"Regex": tokens}, "behavior": "Isolated", "invert": False}
    special = {token: vocab[token] for token in specials.values() if token in vocab}
    return description(
        added_tokens=added(special, True),
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, cut]},
        post_processor=_template(f"{cls}:0 A:0 {eos}:0", f"{cls}:0 A:0 {eos}:0 B:0 {eos}:0", vocab),
        model={"type": "WordLevel", "vocab": vocab, "unk_token": unk},
    )


def _word_pieces(vocab: dict[str, int], config: Json, specials: dict[str, str]) -> Json:
    unk, cls, sep = (specials[name] for name in ("unk_token", "cls_token", "sep_token"))
    pair = f"{cls}:0 A:0 {sep}:0 B:1 {sep}:1"
    if settings.short_name(config) == "MPNet":
        pair = f"{cls}:0 A:0 {sep}:0 {sep}:0 B:0 {sep}:0"
    special = {token: vocab[token] for token in specials.values() if token in vocab}
    return description(
        added_tokens=added(special, True),
        normalizer=settings.bert_normalizer(config),
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=_template(f"{cls}:0 A:0 {sep}:0", pair, vocab),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={
            "type": "WordPiece",
            "unk_token": unk,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    )


_GPT2_LIKE = (
    "GPT2",
    "Qwen2",
    "Roberta",
    "Bart",
    "Blenderbot",
    "CodeGen",
    "GPTNeoX",
    "Longformer",
    "Whisper",
    "OPT",
    "Deberta",
    "",
)
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def from_byte_level(folder: Path, vocab: Json, merges: str, config: Json, specials: dict[str, str]) -> Json:
    """Byte-level BPE from ``vocab.json`` and ``merges.txt`` (GPT-2, RoBERTa, BART, DeBERTa, Qwen2)."""
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    if name not in _GPT2_LIKE:
        known = ", ".join(f"{key}Tokenizer" for key in _GPT2_LIKE if key)
        raise CheckpointError(
            f"{folder} has vocab.json and merges.txt of a {name}Tokenizer, whose pre-tokenization is unknown: "
            f"expected a tokenizer.json next to them, or one of {known}"
        )
    ids = {text: index for text, index in vocab.items() if isinstance(index, int) and index >= 0}
    lines = [line for line in merges.split("\n") if line and not line.startswith("#version")]
    pairs = [line.rstrip("\r").split(" ") for line in lines]
    bad = next((pair for pair in pairs if len(pair) != 2), None)
    if bad is not None:
        raise CheckpointError(f"{folder / 'merges.txt'} has the line {' '.join(bad)!r}: expected two pieces")
    roberta = name in ("Roberta", "Bart", "Blenderbot", "Longformer")
    default = "<s> </s>" if roberta else "[CLS] [SEP]" if name == "Deberta" else "<|endoftext|> <|endoftext|>"
    if name != "Qwen2":
        specials.setdefault("bos_token", default.split()[0])
    specials.setdefault("eos_token", default.split()[1])
    prefix = bool(config.get("add_prefix_space", name == "Blenderbot"))
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": prefix,
        "trim_offsets": True,
        "use_regex": name != "Qwen2",
    }
    cut: Json = byte_level
    if name == "Qwen2":
        split = {
            "type": "Split",
            "pattern": {"Regex": _QWEN2_SPLIT},
            "behavior": "Isolated",
            "invert": False,
        }
        cut = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    post: Json = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    if roberta:
        for key, text in {
            "cls_token": "<s>",
            "sep_token": "</s>",
            "mask_token": "<mask>",
            "pad_token": "<pad>",
        }.items():
            specials.setdefault(key, text)
        require(ids, specials["cls_token"], specials["sep_token"])
        post = {
            "type": "RobertaProcessing",
            "sep": [specials["sep_token"], ids[specials["sep_token"]]],
            "cls": [specials["cls_token"], ids[specials["cls_token"]]],
            "trim_offsets": True,
            "add_prefix_space": prefix,
        }
        if name == "Blenderbot":  # no start token and no separator
            end = specials["eos_token"]
            post = _template(f"A:0 {end}:0", f"A:0 {end}:0 B:0 {end}:0", ids)
    elif name == "Deberta":
        for key, text in settings.defaults(name).items():
            specials.setdefault(key, text)
        cls, sep = specials["cls_token"], specials["sep_token"]
        require(ids, cls, sep)
        post = _template(f"{cls}:0 A:0 {sep}:0", f"{cls}:0 A:0 {sep}:0 {sep}:0 B:0 {sep}:0", ids)
    elif config.get("add_bos_token"):
        bos = specials["bos_token"]
        require(ids, bos)
        post = _template(f"{bos}:0 A:0", f"{bos}:0 A:0 {bos}:1 B:1", ids)
    special = {text: ids[text] for text in dict.fromkeys(specials.values()) if text in ids}
    return description(
        added_tokens=added(special, True),
        normalizer={"type": "NFC"} if name == "Qwen2" else None,
        pre_tokenizer=cut,
        post_processor=post,
        decoder={
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": pairs,
        },
    )
