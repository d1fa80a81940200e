"""Encoders: hidden states, embeddings and task heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from ..errors import OptionError
from ..progress import Callback
from ..results import EncoderOutput
from ..tokenizer import Encoding
from . import arguments
from .arguments import flag, id_lists, is_text_or_pair, one_or_many
from .base import DEFAULT_BATCH_TOKENS, IdList, split_rows
from .heads import TextOrPair
from .tasks.answering import Answerer
from .tasks.classification import Classifier
from .tasks.embedding import Embedder
from .tasks.explain_labels import LabelExplainer
from .tasks.filling import MaskFiller
from .tasks.ranking import Ranker
from .tasks.tagging import Tagger

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class TextEncoder(Embedder, Classifier, Tagger, Answerer, MaskFiller, Ranker, LabelExplainer):
    """An encoder, or a decoder used as one: embeddings, classification, tagging, question answering, ranking
    and mask filling.

    For an encoder-decoder with a task head, hidden states and attentions are those of the encoder; the head
    reads the decoder, whose input is its start token and the same tokens.

    The head of a checkpoint determines which tasks it supports; the others raise OptionError. Each method
    takes one item or a list and returns the same shape.
    """

    kind: ClassVar[str] = "encoder"

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """The main task, with its options: that of `load` (`features` for "encode"), else that of the checkpoint's
        head, else `embed`, `embed_sparse` or `embed_tokens` for an embedding model, else `features`. `answer` and
        `rank` take two arguments."""
        return getattr(self, self._main())(*texts, **options)

    def _main(self) -> str:
        task = (self._parts.task or "").replace("-", "_")
        if task:
            return "features" if task == "encode" else task
        recipe = self._parts.recipe
        if recipe is not None and recipe.sparse is not None:
            return "embed_sparse"
        if recipe is not None and recipe.late is not None:
            return "embed_tokens"
        if self.spec.head is not None:
            found = self._head_task()
            return "classify" if found == "rank" and self.config.get("problem_type") else found
        if recipe is not None:
            return "embed"
        return "features" if self.spec.language_head is None else "fill_mask"

    @overload
    def features(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        text: TextOrPair,
        *,
        hidden_states: bool = False,
        attentions: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> EncoderOutput: ...
    @overload
    def features(
        self,
        text: Sequence[TextOrPair],
        *,
        hidden_states: bool = False,
        attentions: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[EncoderOutput]: ...
    def features(
        self,
        text: TextOrPair | Sequence[TextOrPair],
        *,
        hidden_states: bool = False,
        attentions: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> EncoderOutput | list[EncoderOutput]:
        """Final hidden states of a text or a pair of texts, including special tokens.

        ``hidden_states`` and ``attentions`` add those of all layers.
        """
        items, single = one_or_many(text, is_text_or_pair, "text")
        flag("hidden_states", hidden_states)
        flag("attentions", attentions)
        encodings = [self._encode(item) for item in items]

        def run(batch: list[Encoding]) -> list[EncoderOutput]:
            flat, starts, segments = self._arrays(batch)
            core = self.core
            layers = core.hidden_states(flat, starts, segments) if hidden_states else None
            last = core.encode(flat, starts, segments) if layers is None else layers[-1]
            pooled = core.pooled(flat, starts, segments) if self.spec.pooler is not None else None
            found = []
            for index, encoding in enumerate(batch):
                rows = slice(int(starts[index]), int(starts[index + 1]))
                maps = None
                if attentions:
                    part = None if segments is None else segments[rows]
                    maps = tuple(core.attentions(flat[rows], layer, part) for layer in range(len(self._stack.layers)))
                found.append(
                    EncoderOutput(
                        ids=tuple(encoding.ids),
                        last_hidden_state=last[rows],
                        pooler_output=None if pooled is None else pooled[index],
                        hidden_states=None if layers is None else tuple(layer[rows] for layer in layers),
                        attentions=maps,
                    )
                )
            return found

        results = self._map(encodings, len, run, batch_tokens=batch_tokens, progress=progress, what="encoding")
        return results[0] if single else results

    # -- token level ---------------------------------------------------------------------------------

    @overload
    def encode(self, ids: Sequence[int], segment_ids: IdList | None = None) -> Floats: ...
    @overload
    def encode(self, ids: Sequence[IdList], segment_ids: Sequence[IdList] | None = None) -> list[Floats]: ...
    @overload
    def encode(self, ids: NDArray[np.integer[Any]], segment_ids: IdList | None = None) -> Floats | list[Floats]: ...
    def encode(
        self, ids: IdList | Sequence[IdList], segment_ids: IdList | Sequence[IdList] | None = None
    ) -> Floats | list[Floats]:
        """Final hidden states of one sequence, float32 [tokens, hidden], or a list of them for a list of
        sequences."""
        lists, single = id_lists(ids)
        kinds = None if segment_ids is None else id_lists(segment_ids, "segment_ids")[0]
        flat, starts, segments = self._checked(lists, kinds)
        states = split_rows(self.core.encode(flat, starts, segments), starts)
        return states[0] if single else states

    def hidden_states(self, ids: IdList, segment_ids: IdList | None = None) -> list[Floats]:
        """Hidden states of all layers for one sequence: the embedding, then each layer's output, the last
        after the final norm; float32 [tokens, hidden] each."""
        flat, starts, segments = self._checked([ids], None if segment_ids is None else [segment_ids])
        return self.core.hidden_states(flat, starts, segments)

    def pooled(self, ids: Sequence[IdList], segment_ids: Sequence[IdList] | None = None) -> Floats:
        """The pooler's output, float32 [n, hidden]."""
        if self.spec.pooler is None:
            raise OptionError(f"{self._parts.identity} has no pooler: use encode or embed")
        flat, starts, segments = self._lists(ids, segment_ids)
        return self.core.pooled(flat, starts, segments)

    def head_logits(self, ids: Sequence[IdList], segment_ids: Sequence[IdList] | None = None) -> list[Floats]:
        """The output of the head for each sequence: [outputs], or [tokens, outputs] for a token-level head.

        For a masked language model, the logits over the vocabulary, [tokens, vocab].
        """
        flat, starts, segments = self._lists(ids, segment_ids)
        if self.spec.head is None:
            if self.spec.language_head is None:
                raise OptionError(f"{self._parts.identity} has no head: use encode")
            return split_rows(self.core.logits(flat, starts, segments), starts)
        return self._read_head([list(map(int, flat[a:b])) for a, b in pairwise(starts)], segments)

    def attentions(self, ids: IdList, layer: int, segment_ids: IdList | None = None) -> Floats:
        """Attention probabilities of one layer for one sequence, float32 [heads, tokens, tokens]."""
        flat, _, segments = self._checked([ids], None if segment_ids is None else [segment_ids])
        return self.core.attentions(flat, arguments.layer(layer, self._stack.layers), segments)
