"""Explanations of decoders: the tokens of a prompt and their continuation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ...errors import OptionError
from ...explain import Explanation, LogitLens
from ...progress import Callback
from ...tokenizer import Encoding
from .. import rollouts
from ..arguments import is_text, one_or_many, optional_text, whole
from ..base import DEFAULT_BATCH_TOKENS, BaseModel, ragged
from ..explaining import Options, Subject, explained, lens, logprobs, token_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]


class PromptExplainer(BaseModel):
    """Explains a continuation."""

    generate_ids: Any

    @overload
    def explain(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: str,
        target: str | None = None,
        *,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        max_tokens: int = 16,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Explanation: ...
    @overload
    def explain(
        self,
        text: Sequence[str],
        target: str | None = None,
        *,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        max_tokens: int = 16,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Explanation]: ...
    def explain(
        self,
        text: str | Sequence[str],
        target: str | None = None,
        *,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        max_tokens: int = 16,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Explanation | list[Explanation]:
        """The contribution of each token of a prompt to the log-probability of each token of its continuation.

        The continuation is fed as it is (teacher forcing) after the prompt without some of its tokens.

        Args:
            target: the continuation, whose tokens follow those of the prompt; None is the greedy one.
            method: "occlusion" removes tokens one by one; "shapley" removes many together, and its scores sum to the
                difference to a prompt without tokens; "rollout" follows the attention alone.
            removal: "delete" (also "auto") shortens the prompt; "mask" or "unk" replaces tokens by that token. Special
                tokens are kept.
            samples: orders of the tokens drawn for Shapley values, an even number. All coalitions are evaluated if they
                are no more.
            seed: of the samples.
            max_tokens: maximum length of a greedy continuation.

        Raises:
            OptionError: a prompt or a continuation has no tokens.
            ContextLengthError: they are longer than the model, or than rollout can hold.
        """
        options = Options(method, removal, samples, seed, batch_tokens, progress).checked()
        optional_text("target", target)
        whole("max_tokens", max_tokens)
        items, single = one_or_many(text, is_text, "text")
        found = [self._explain_prompt(item, target, max_tokens, options) for item in items]
        return found[0] if single else found

    def _explain_prompt(self, text: str, target: str | None, max_tokens: int, options: Options) -> Explanation:
        encoding = self.tokenizer.encoding(text)
        prompt = self._checked_prompt(encoding)
        if target is None:
            room = max_tokens if self.max_length is None else min(max_tokens, self.max_length - len(prompt))
            following = self.generate_ids(prompt, max_tokens=room, temperature=0) if room > 0 else []
            name = self.tokenizer.decode(following)
            if not following:
                raise OptionError("the model generates nothing after the text: expected a target to explain")
        else:
            name = target
            following = self.tokenizer.encode(target, add_special_tokens=False)
            if not following:
                raise OptionError("target is empty: expected a continuation")
        # The last token is not fed.
        self._check_ids([*prompt, *following[:-1]], self._vocabulary, self.max_length, "the text with its target")

        def evaluate(inputs: list[Encoding], places: list[list[int]]) -> Values:
            def run(batch: list[list[int]]) -> list[Values]:
                flat, starts = ragged([[*ids, *following[:-1]] for ids in batch])
                states = self.core.encode(flat, starts)
                ends = starts[1:, None] - len(following) + np.arange(len(following))
                values = logprobs(self, states[ends.ravel()], following * len(batch))
                return list(values.reshape(len(batch), -1))

            values: list[Values] = self._map(
                [one.ids for one in inputs],
                lambda ids: len(ids) + len(following),
                run,
                batch_tokens=options.batch_tokens,
                progress=None,
                what="explaining",
            )
            return np.stack(values)

        def rollout() -> Values:
            stack = self.spec.decoder
            assert stack is not None
            shares = rollouts.of_stack(self.core, stack, [*prompt, *following[:-1]])
            return shares[len(prompt) - 1 :, : len(prompt)]

        fixed = [bool(special) for special in encoding.special]
        subject = Subject((text,), encoding, fixed, name, evaluate, rollout, following)
        return explained(self, subject, options, masks=False)

    def logit_lens(self, text: str, *, top: int = 5) -> LogitLens:
        """The next tokens that the model would predict at each position if it ended after each layer (nostalgebraist
        2020): the final norm and the language head, applied to the hidden states of all layers.

        Args:
            top: number of tokens for each position and layer.

        Raises:
            OptionError: the text has no tokens.
            ContextLengthError: the text is longer than the model.
        """
        (item,), _ = one_or_many([text], is_text, "text")
        encoding = self.tokenizer.encoding(item)
        states = self.core.hidden_states(*ragged([self._checked_prompt(encoding)]))
        parts = [None if s else part for part, s in zip(encoding.sequences, encoding.special, strict=True)]
        return lens(self, states, token_texts(self, (item,), encoding, parts), top)

    @property
    def _vocabulary(self) -> int:
        stack = self.spec.decoder
        return 0 if stack is None else stack.stem.vocab_size

    def _checked_prompt(self, encoding: Encoding) -> list[int]:
        if not encoding.ids:
            raise OptionError("text is empty: expected at least one token")
        return self._check_ids(encoding.ids, self._vocabulary, self.max_length, "text")
