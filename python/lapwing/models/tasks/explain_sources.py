"""Explanations of encoder-decoders: the tokens of a source and those of its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ...errors import OptionError
from ...explain import Explanation, LogitLens
from ...progress import Callback
from ...tokenizer import Encoding
from .. import rollouts
from ..arguments import is_text, one_or_many, optional_text
from ..base import DEFAULT_BATCH_TOKENS, ragged, split_rows
from ..explaining import Options, Subject, explained, lens, token_name
from ..probabilities import logprobs_of
from ..text_to_text import TextToText

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]


class SourceExplainer(TextToText):
    """Explains a translation, or another target."""

    translate: Any
    generate: Any

    @overload
    def explain(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: str,
        target: str | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        text: Sequence[str],
        target: str | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Explanation]: ...
    def explain(
        self,
        text: str | Sequence[str],
        target: str | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Explanation | list[Explanation]:
        """The contribution of each token of a source to the log-probability of each token of its target.

        Args:
            target: the translation to explain; None is the model's own.
            source_lang: the language of the text, as for `translate`.
            target_lang: the language of the target.
            method: "occlusion" removes tokens one by one; "shapley" removes many together, and its scores sum to the
                difference to a source without tokens; "rollout" follows the attention alone.
            removal: "delete" (also "auto") shortens the source; "mask" or "unk" replaces tokens by that token. Special
                tokens, languages and prefixes are kept.
            samples: orders of the tokens drawn for Shapley values, an even number. All coalitions are evaluated if they
                are no more.
            seed: of the samples.

        Raises:
            OptionError: a text has no tokens, or a language that the checkpoint lacks.
            ContextLengthError: a text is longer than the model, or than rollout can hold.
        """
        options = Options(method, removal, samples, seed, batch_tokens, progress).checked()
        optional_text("target", target)
        items, single = one_or_many(text, is_text, "text")
        found = [self._explain_source(item, target, source_lang, target_lang, options) for item in items]
        return found[0] if single else found

    def _explain_source(
        self, text: str, target: str | None, source_lang: str | None, target_lang: str | None, options: Options
    ) -> Explanation:
        direction, start, first = self._teacher(source_lang, target_lang)
        source = self._source(text, direction)
        encoding = _without_prefix(self.tokenizer.encoding(direction.prefix + text), len(direction.prefix), source)
        if target is None:
            own = self._own(text, source_lang, target_lang)
            ids, name = list(own.ids), own.text
            if not ids:
                raise OptionError("the model generates nothing for the text: expected a target to explain")
        else:
            ids, name = self._target_ids(target, first), target
        fed = [*start, *ids[:-1]]

        def evaluate(inputs: list[Encoding], places: list[list[int]]) -> Values:
            def run(batch: list[list[int]]) -> list[Values]:
                flat, starts = ragged([fed] * len(batch))
                rows = split_rows(self.core.decoder_logits(*ragged(batch), flat, starts), starts)
                return [logprobs_of(part[len(start) - 1 :], ids) for part in rows]

            values: list[Values] = self._map(
                [one.ids for one in inputs],
                lambda source: len(source) + len(fed),
                run,
                batch_tokens=self._logit_tokens(options.batch_tokens),
                progress=None,
                what="explaining",
            )
            return np.stack(values)

        def rollout() -> Values:
            return rollouts.of_pair(self.core, self.spec, source, fed)[1][len(start) - 1 :]

        fixed = [bool(special) for special in encoding.special]
        subject = Subject((text,), encoding, fixed, name, evaluate, rollout, ids)
        return explained(self, subject, options, masks=False)

    def _own(self, text: str, source_lang: str | None, target_lang: str | None) -> Any:
        """The model's own target."""
        if source_lang is not None or target_lang is not None:
            return self.translate(text, source_lang=source_lang, target_lang=target_lang)
        return self(text)  # type: ignore[operator]  # the main task of the model

    def logit_lens(
        self,
        text: str,
        target: str | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        top: int = 5,
    ) -> LogitLens:
        """The next tokens that the decoder would predict at each position of the target if it ended after each layer
        (nostalgebraist 2020): the final norm and the language head, applied to the hidden states of all layers.

        Args:
            target: the translation; None is the model's own.
            source_lang: the language of the text, as for `translate`.
            target_lang: the language of the target.
            top: number of tokens for each position and layer.
        """
        (item,), _ = one_or_many([text], is_text, "text")
        optional_text("target", target)
        direction, start, first = self._teacher(source_lang, target_lang)
        source = self._source(item, direction)
        ids = list(self._own(item, source_lang, target_lang).ids) if target is None else self._target_ids(target, first)
        fed = [*start, *ids[:-1]]
        states = self.core.decoder_hidden_states(*ragged([source]), *ragged([fed]))
        names = tuple(token_name(self, index) for index in fed)
        return lens(self, states, names, top)


def _without_prefix(encoding: Encoding, length: int, ids: list[int]) -> Encoding:
    """The encoding with these ids and with offsets behind a prefix, whose tokens count as special."""
    inside = [end > length for _, end in encoding.offsets]
    return replace(
        encoding,
        ids=list(ids),
        offsets=[
            (max(start - length, 0), end - length) if kept else (0, 0)
            for (start, end), kept in zip(encoding.offsets, inside, strict=True)
        ],
        special=[int(bool(special) or not kept) for special, kept in zip(encoding.special, inside, strict=True)],
    )
