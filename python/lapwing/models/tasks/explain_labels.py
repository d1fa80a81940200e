"""Explanations of encoders: labels of texts and filled masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ...errors import OptionError
from ...explain import Explanation, LogitLens
from ...progress import Callback
from ...tokenizer import Encoding
from .. import rollouts
from ..arguments import is_text_or_pair, one_or_many
from ..base import DEFAULT_BATCH_TOKENS, ragged
from ..explaining import Options, Subject, explained, lens, logprobs, target_index, token_name, token_texts
from ..heads import HeadModel, TextOrPair, labels
from ..probabilities import log_softmax
from .classification import score_function
from .filling import target_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]


class LabelExplainer(HeadModel):
    """Explains a label, or the token filled into a mask."""

    @overload
    def explain(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: TextOrPair,
        target: str | None = None,
        *,
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
        text: Sequence[TextOrPair],
        target: str | None = None,
        *,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Explanation]: ...
    def explain(
        self,
        text: TextOrPair | Sequence[TextOrPair],
        target: str | None = None,
        *,
        method: str = "occlusion",
        removal: str = "auto",
        samples: int = 16,
        seed: int = 0,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Explanation | list[Explanation]:
        """The contribution of each token of a text or pair to a label, or to the token filled into its mask.

        The value explained is the log-probability of the target; for independent labels and single outputs the raw
        logit.

        Args:
            target: a label, or a token for the mask; None is the best one.
            method: "occlusion" removes tokens one by one; "shapley" removes many together, and its scores sum to the
                difference to a text without tokens; "rollout" follows the attention alone, whatever the target.
            removal: "mask" or "unk" replaces tokens by that token, "delete" shortens the text; "auto" masks if the
                tokenizer has a mask token, else deletes. Special tokens are kept.
            samples: orders of the tokens drawn for Shapley values, an even number. All coalitions are evaluated if they
                are no more.
            seed: of the samples.

        Raises:
            OptionError: the model has no head for texts and no language head; a text has no tokens.
            ContextLengthError: a text is longer than the model, or than rollout can hold.
        """
        options = Options(method, removal, samples, seed, batch_tokens, progress).checked()
        items, single = one_or_many(text, is_text_or_pair, "text")
        if self.spec.head is not None:
            self._require_head("explain", per_token=False)
            found = [self._explain_label(item, target, options) for item in items]
        elif self.spec.language_head is not None and self.spec.encoder is not None:
            found = [self._explain_mask(item, target, options) for item in items]
        else:
            raise OptionError(f"{self._parts.identity} has no head: explain needs a classifier or a language head")
        return found[0] if single else found

    def _explain_label(self, item: TextOrPair, target: str | None, options: Options) -> Explanation:
        encoding = self._encode(item)
        names = labels(self.config, self._outputs)
        softmax = score_function(self.config, "auto", len(names)) == "softmax"
        chosen = target_index(names, target, int(np.argmax(self._head([encoding])[0])))

        def evaluate(inputs: list[Encoding], places: list[list[int]]) -> Values:
            rows = self._map(
                inputs, len, self._head, batch_tokens=options.batch_tokens, progress=None, what="explaining"
            )
            found = [log_softmax(row) if softmax else row.astype(np.float64) for row in rows]
            return np.array([[row[chosen]] for row in found])

        def rollout() -> Values:
            head = self.spec.head
            if head is None or (self.spec.encoder is not None and self.spec.decoder is not None):
                raise OptionError(
                    "method is 'rollout', but the head of an encoder-decoder reads both stacks: use 'occlusion' or 'shapley'"
                )
            shares = self._rollout(encoding)
            # Other poolings read all tokens; those that are concatenated count alike.
            rows = {"first": shares[0], "last": shares[-1]}
            pooled: Values = np.mean([rows.get(pool, shares.mean(axis=0)) for pool in head.pool], axis=0, keepdims=True)
            return pooled

        fixed = [bool(special) for special in encoding.special]
        subject = Subject(_pair(item), encoding, fixed, names[chosen], evaluate, rollout)
        return explained(self, subject, options, masks=True)

    def _explain_mask(self, item: TextOrPair, target: str | None, options: Options) -> Explanation:
        encoding, mask = self._encode(item), self.tokenizer.mask_token_id
        masks = [place for place, index in enumerate(encoding.ids) if index == mask]
        if len(masks) != 1:
            raise OptionError(
                f"text has {len(masks)} mask tokens: expected one, {self.tokenizer.mask_token}, whose filling is explained"
            )
        place = masks[0]
        if target is None:
            filled = int(np.argmax(self._mask_states([encoding], [place])[1][0]))
        else:
            filled = target_id(self.tokenizer, target)

        def evaluate(inputs: list[Encoding], places: list[list[int]]) -> Values:
            def run(batch: list[tuple[Encoding, int]]) -> list[float]:
                states, _ = self._mask_states([one for one, _ in batch], [at for _, at in batch], logits=False)
                return list(map(float, logprobs(self, states, [filled] * len(batch))))

            pairs = [(one, kept.index(place)) for one, kept in zip(inputs, places, strict=True)]
            values = self._map(
                pairs, lambda p: len(p[0]), run, batch_tokens=options.batch_tokens, progress=None, what="explaining"
            )
            return np.array(values)[:, None]

        fixed = [bool(special) or at == place for at, special in enumerate(encoding.special)]
        name = token_name(self, filled)
        rows = slice(place, place + 1)
        subject = Subject(_pair(item), encoding, fixed, name, evaluate, lambda: self._rollout(encoding)[rows])
        return explained(self, subject, options, masks=True)

    def logit_lens(self, text: TextOrPair, *, top: int = 5) -> LogitLens:
        """The tokens that a masked language model would predict at each position if it ended after each layer
        (nostalgebraist 2020): the final norm and the language head, applied to the hidden states of all layers.

        Raises:
            OptionError: the model has no language head.
        """
        if self.spec.language_head is None:
            raise OptionError(f"{self._parts.identity} has no language head: logit_lens needs one")
        (item,), _ = one_or_many([text], is_text_or_pair, "text")
        encoding = self._encode(item)
        parts = [None if s else part for part, s in zip(encoding.sequences, encoding.special, strict=True)]
        states = self.core.hidden_states(*self._arrays([encoding]))
        return lens(self, states, token_texts(self, _pair(item), encoding, parts), top)

    def _rollout(self, encoding: Encoding) -> Values:
        segments = self._arrays([encoding])[2]
        return rollouts.of_stack(self.core, self._stack, encoding.ids, segments)

    def _mask_states(self, inputs: list[Encoding], places: Sequence[int], logits: bool = True) -> tuple[Any, Any]:
        """The final states of one token of each input, and their logits."""
        starts = ragged([one.ids for one in inputs])[1]
        states = self.core.encode(*self._arrays(inputs))[starts[:-1] + np.array(places)]
        return states, self.core.state_logits(states, True) if logits else None


def _pair(item: TextOrPair) -> tuple[str, ...]:
    return (item,) if isinstance(item, str) else item
