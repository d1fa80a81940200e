"""What the tasks of an encoder-decoder share: sources and languages as tokens, and the options of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..architectures import family
from ..errors import CheckpointError, OptionError
from . import directions, engine
from .arguments import is_text, one_or_many, optional_text
from .base import BaseModel, IdList, LoadedParts, stack_length
from .directions import Direction
from .generation_config import Defaults, id_list
from .options import Request, resolve


class TextToText(BaseModel):
    """A model with an encoder and a decoder."""

    def __init__(self, parts: LoadedParts) -> None:
        super().__init__(parts)
        self._defaults = Defaults.read(parts.generation, parts.config, encoder_decoder=True)

    @property
    def max_source_length(self) -> int | None:
        """The maximum source length in tokens."""
        stack = self.spec.encoder
        return None if stack is None else stack_length(stack)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages to translate into, as the checkpoint spells them; empty if it states none.

        `translate` also takes other spellings and English names.
        """
        return directions.known(self.tokenizer, self.config)

    def _main(self) -> str:
        task = self._parts.task
        if task in ("translate", "summarize", "generate"):
            return task
        settings = self.config.get("task_specific_params")
        if isinstance(settings, Mapping) and list(settings) == ["summarization"]:
            return "summarize"
        in_words = family(self.config).languages == "words"
        return "generate" if in_words or not self.languages else "translate"

    def _vocab(self, stack: Any) -> int:
        return 0 if stack is None else int(stack.stem.vocab_size)

    def _check_source(self, ids: IdList) -> list[int]:
        return self._check_ids(ids, self._vocab(self.spec.encoder), self.max_source_length, "source")

    def _pair(self, source_ids: IdList, target_ids: IdList) -> tuple[list[int], list[int]]:
        target = self._check_ids(target_ids, self._vocab(self.spec.decoder), self.max_length, "target_ids")
        return self._check_source(source_ids), target

    def _source(self, text: str, direction: Direction) -> list[int]:
        ids = direction.encode(self.tokenizer, text)
        if not ids:
            raise OptionError("a text is empty and the tokenizer adds no special tokens: expected some text")
        return self._check_source(ids)

    def _teacher(self, source_lang: str | None, target_lang: str | None) -> tuple[Direction, list[int], list[int]]:
        """The direction, the decoder's start tokens, and the forced first tokens of a given target."""
        task: Mapping[str, Any] = {}
        direction = Direction()
        if source_lang is not None or target_lang is not None or self._main() == "translate":
            task = self._task("translation", source_lang, target_lang)
            direction = self._direction(source_lang, target_lang, task)
        core = self._resolve(direction.options({}), "score", task).core
        first = [] if core["forced_bos_token_id"] is None else [core["forced_bos_token_id"]]
        return direction, self._start_ids() if direction.start is None else [direction.start], first

    def _target_ids(self, target: str, first: Sequence[int]) -> list[int]:
        """The forced first tokens, the text and the end token."""
        plain = self.tokenizer.encoding(target, add_special_tokens=False, target=True).ids
        ids = [*first, *plain, *self._defaults.end_ids[:1]]
        return self._check_ids(ids, self._vocab(self.spec.decoder), self.max_length, "target")

    def _start_ids(self) -> list[int]:
        for value in (
            self._defaults.get("decoder_start_token_id"),
            self._defaults.get("bos_token_id"),
        ):
            ids = id_list(value, "decoder_start_token_id")
            if ids:
                return ids[:1]
        default = self.config.get("pad_token_id")
        if not isinstance(default, int):
            raise CheckpointError(
                f"{self._parts.identity} has no decoder_start_token_id in generation_config.json or config.json"
            )
        return [default]

    def _resolve(self, options: Mapping[str, Any], where: str, task: Mapping[str, Any]) -> Request:
        def forbidden(text: str) -> list[list[int]]:
            return [self.tokenizer.encoding(text, add_special_tokens=False, target=True).ids]

        values = {
            **self._defaults.values,
            **{key: value for key, value in task.items() if key != "prefix"},
        }
        request = resolve(replace(self._defaults, values=values), options, encode=forbidden, where=where)
        return request

    def _task(self, task: str, source: str | None = None, target: str | None = None) -> Mapping[str, Any]:
        optional_text("source_lang", source)
        optional_text("target_lang", target)
        return directions.task_settings(self.config, task, source, target)

    def _direction(self, source: str | None, target: str | None, task: Mapping[str, Any]) -> Direction:
        in_words = family(self.config).languages == "words"
        return directions.choose(
            self.tokenizer, self._defaults.values, task, in_words=in_words, source=source, target=target
        )

    def _prefixes(self, value: Any, count: int) -> list[list[int]]:
        """The ids of the beginning of each translation."""
        texts, single = one_or_many(value, is_text, "target_prefix")
        if not single and len(texts) != count:
            raise OptionError(f"target_prefix has {len(texts)} items for {count} texts: expected one for each")
        found = [self.tokenizer.encoding(text, add_special_tokens=False, target=True).ids for text in texts]
        return found * count if single else found

    def _job(
        self,
        sources: Sequence[Sequence[int]],
        request: Request,
        direction: Direction,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> engine.GenerationJob:
        start = self._start_ids() if direction.start is None else [direction.start]
        prompts = [start for _ in sources]
        if prefixes is not None:
            # The forced token, such as the language, stands before the prefix.
            first = request.core["forced_bos_token_id"]
            start = start if first is None else [*start, first]
            request = replace(request, core={**request.core, "forced_bos_token_id": None})
            prompts = [[*start, *prefix] for prefix in prefixes]
        return engine.GenerationJob(
            self.core, lambda: self.tokenizer, prompts, request, self.max_length, sources, prefixes
        )
