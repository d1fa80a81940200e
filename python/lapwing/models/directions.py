"""Languages of translation: how each family of models encodes the source and the target language."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, OptionError, short_repr
from ..tokenizer import Tokenizer, multilingual
from . import languages

_CODE = re.compile(r"__[a-z]{2,3}__|[a-z]{2,3}_[A-Z][A-Za-z]{1,3}")
"""A language code of M2M-100, NLLB or mBART."""


@dataclass(frozen=True)
class Direction:
    """The encoding of a text, and the first tokens of the decoder.

    ``prefix`` is prepended to the text; ``language`` is the token of the source language, which replaces the
    tokenizer's default; ``start`` is the decoder's start token, ``forced`` the token after it.
    """

    prefix: str = ""
    language: int | None = None
    forced: int | None = None
    start: int | None = None

    def encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """The ids of a source."""
        encoding = tokenizer.encoding(self.prefix + text)
        if self.language is None:
            return encoding.ids
        own = tokenizer.token_to_id(multilingual.source_token(tokenizer.config))
        # The text may contain a language token too: only the one that the tokenizer added counts.
        around = [
            place
            for place, (index, special) in enumerate(zip(encoding.ids, encoding.special, strict=True))
            if special and index == own
        ]
        if len(around) != 1:
            raise CheckpointError(
                f"the tokenizer of {tokenizer.folder} adds {len(around)} language tokens to a text: expected one"
            )
        ids = list(encoding.ids)
        ids[around[0]] = self.language
        return ids

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The option of generation that the target language sets."""
        if self.forced is None and self.start is None:
            return {}
        if given.get("forced_bos") is not None:
            raise OptionError("forced_bos and target_lang both set the first token: remove one of them")
        return {} if self.forced is None else {"forced_bos": self.forced}


def task_settings(config: Mapping[str, Any], task: str, source: str | None, target: str | None) -> Mapping[str, Any]:
    """The settings of a task, such as translation_en_to_de, in config.json of old checkpoints."""
    params = config.get("task_specific_params")
    if not isinstance(params, Mapping):
        return {}
    if task == "translation" and (source is not None or target is not None):
        for name, value in params.items():
            parts = str(name).split("_")
            if len(parts) != 4 or parts[0] != task or not isinstance(value, Mapping):
                continue
            requested = ((parts[1], source), (parts[3], target))
            if all(text is None or languages.same(own, text) for own, text in requested):
                return value
        return {}
    value = params.get(task)
    return value if isinstance(value, Mapping) else {}


def known(tokenizer: Tokenizer, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The languages that a checkpoint translates into, in its spelling; empty if it states none."""
    if multilingual.kind(tokenizer.config):
        texts = [tokenizer.id_to_token(index) or "" for index in sorted(tokenizer.special_ids)]
        return tuple(text for text in texts if _CODE.fullmatch(text))
    prefixes = [text[2:-2] for text in sorted(tokenizer.language_prefixes())]
    if prefixes:
        return tuple(prefixes)
    params = config.get("task_specific_params")
    named = [str(name).split("_") for name in params] if isinstance(params, Mapping) else []
    found = [parts[3] for parts in named if len(parts) == 4 and parts[0] == "translation"]
    own = tokenizer.config.get("tgt_lang") or tokenizer.config.get("target_lang")
    return tuple(dict.fromkeys([*found, *([str(own)] if own else [])]))


def choose(
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    task: Mapping[str, Any],
    *,
    in_words: bool,
    source: str | None,
    target: str | None,
) -> Direction:
    """The direction for ``source`` and ``target``; None uses the checkpoint's default.

    Args:
        tokenizer: that of the checkpoint.
        settings: its generation settings.
        task: the result of `task_settings`.
        in_words: the prompt names the languages in English (T5).
        source: the language of the texts.
        target: the language to translate into.

    Raises:
        OptionError: the checkpoint lacks a language, or needs one that was not given.
    """
    if multilingual.kind(tokenizer.config):
        return _by_token(tokenizer, settings, source, target)
    if in_words:
        return _in_words(source, target, task)
    own_source = tokenizer.config.get("src_lang") or tokenizer.config.get("source_lang")
    own_target = tokenizer.config.get("tgt_lang") or tokenizer.config.get("target_lang")
    codes = {text[2:-2]: text for text in sorted(tokenizer.language_prefixes())}
    if codes and (target is not None or own_target is None):
        if target is None:
            raise OptionError(
                f"target_lang is needed: this checkpoint translates into {languages.first_few(list(codes))}"
            )
        return Direction(prefix=codes[languages.code(target, list(codes), "target_lang")] + " ")
    for name, requested, own in (("source_lang", source, own_source), ("target_lang", target, own_target)):
        if requested is None:
            continue
        if own is None:
            raise OptionError(f"{name} is {short_repr(requested)}, but this checkpoint has no languages: remove it")
        if not languages.same(str(requested), str(own)):
            raise OptionError(
                f"{name} is {short_repr(requested)}: this checkpoint translates from {own_source} to {own_target}"
            )
    return Direction()


def _by_token(tokenizer: Tokenizer, settings: Mapping[str, Any], source: str | None, target: str | None) -> Direction:
    """Languages as special tokens. The first mBART models start the decoder with the language; all others
    force it as the second token."""
    texts = {index: tokenizer.id_to_token(index) or "" for index in sorted(tokenizer.special_ids)}
    codes = {text: index for index, text in texts.items() if _CODE.fullmatch(text)}
    starts = multilingual.kind(tokenizer.config) == "MBart"
    settled = settings.get("decoder_start_token_id" if starts else "forced_bos_token_id")
    if target is None and settled is None:
        target = tokenizer.config.get("tgt_lang")
    if target is None and settled is None:
        raise OptionError(f"target_lang is needed: this checkpoint translates into {languages.first_few(list(codes))}")
    source = source if source is not None else multilingual.source_token(tokenizer.config)
    language = codes[languages.code(source, list(codes), "source_lang")]
    wanted = None if target is None else codes[languages.code(target, list(codes), "target_lang")]
    return Direction(language=language, start=wanted if starts else None, forced=None if starts else wanted)


def _in_words(source: str | None, target: str | None, task: Mapping[str, Any]) -> Direction:
    """T5: a prefix in English names the task."""
    prefix = task.get("prefix")
    if isinstance(prefix, str):
        return Direction(prefix=prefix)
    if source is None and target is None:
        raise OptionError(
            "source_lang and target_lang are needed, since the prompt of this model names them; or use generate"
        )
    if source is None or target is None:
        raise OptionError("source_lang and target_lang must both be set: the prompt of this model names both")
    known: Sequence[str] = [language.name for language in languages.LANGUAGES]
    names = [languages.code(text, known, what) for what, text in (("source_lang", source), ("target_lang", target))]
    return Direction(prefix=f"translate {names[0]} to {names[1]}: ")
