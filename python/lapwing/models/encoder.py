"""Encoders: hidden states, embeddings and task heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import ContextLengthError, OptionError, short_repr
from ..progress import Callback
from ..results import Answer, Classification, EncoderOutput, Fill, Ranked, Tag
from ..tokenizer import Encoding
from . import arguments, tasks
from .arguments import flag, id_lists, is_text, is_text_or_pair, one_or_many, optional_flag, optional_text, whole
from .base import DEFAULT_BATCH_TOKENS, BaseModel, IdList, ragged, split_rows
from .options import id_list
from .pooling import EmbeddingPipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TextOrPair = str | tuple[str, str]


class TextEncoder(BaseModel):
    """An encoder, or a decoder used as one: embeddings, classification, tagging, question answering, ranking
    and mask filling.

    For an encoder-decoder with a task head, hidden states and attentions are those of the encoder; the head
    reads the decoder, whose input is its start token and the same tokens.

    The head of a checkpoint determines which tasks it supports; the others raise OptionError. Each method
    takes one item or a list and returns the same shape.
    """

    kind: ClassVar[str] = "encoder"

    @property
    def _stack(self) -> Any:
        return self.spec.encoder or self.spec.decoder

    # -- text level ----------------------------------------------------------------------------------

    def __call__(
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

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate: bool | None = None,
        max_tokens: int | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Floats:
        """Embeddings as the checkpoint's sentence-transformers files specify: float32 [n, dim], or [dim] for
        one text.

        Args:
            normalize: scales to unit length; None follows the checkpoint.
            prompt: prepended to each text; ``prompt_name`` selects one of the checkpoint's prompts.
            truncate: True truncates texts that are too long, False raises ContextLengthError; None truncates
                only if the checkpoint sets a bound (``max_seq_length`` of sentence-transformers).
            max_tokens: maximum length of a text in tokens, instead of the checkpoint's bound.
            truncate_dim: keeps the first dimensions only (Kusupati et al. 2022, Matryoshka), before
                normalization; None follows the checkpoint.
        """
        return EmbeddingPipeline.of(self).embed(
            texts,
            normalize=normalize,
            prompt=prompt,
            prompt_name=prompt_name,
            truncate=truncate,
            max_tokens=max_tokens,
            truncate_dim=truncate_dim,
            batch_tokens=batch_tokens,
            progress=progress,
        )

    def classify(
        self,
        text: TextOrPair | Sequence[TextOrPair],
        *,
        top_k: int | None = None,
        scores: str = "auto",
        truncate: bool = False,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Classification | list[Classification]:
        """The labels of a text or pair.

        Args:
            top_k: number of labels to return; None returns all.
            scores: "softmax" (exclusive labels), "sigmoid" (independent labels), "none" (raw logits), or
                "auto": as ``problem_type`` of config.json specifies.
            truncate: truncates texts that are too long.
        """
        self._require_head("classify", per_token=False)
        items, single = one_or_many(text, is_text_or_pair, "text")
        flag("truncate", truncate)
        if top_k is not None:
            whole("top_k", top_k)
        encodings = [self._encode(item, truncate=truncate) for item in items]
        labels = tasks.labels(self.config, self._outputs)
        how = tasks.score_function(self.config, scores, len(labels))

        def run(batch: list[Encoding]) -> list[Classification]:
            return [tasks.classification(row, labels, how, top_k) for row in self._head(batch)]

        results = self._map(encodings, len, run, batch_tokens=batch_tokens, progress=progress, what="classifying")
        return results[0] if single else results

    def tag(
        self,
        text: str | Sequence[str],
        *,
        aggregation: str = "simple",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Tag] | list[list[Tag]]:
        """Labelled spans of a text, such as names, with their character offsets.

        Args:
            aggregation: "none" (each token), "simple" (joins adjacent tokens of one label), or "first",
                "average" or "max" (labels words by their tokens, then joins adjacent words).
            ignore_labels: labels to omit.
            stride: reads a long text in windows that overlap by this many tokens.
        """
        self._require_head("tag", per_token=True)
        tasks.check_aggregation(aggregation)
        items, single = one_or_many(text, is_text, "text")
        ignored = frozenset(arguments.texts("ignore_labels", ignore_labels))
        if stride is not None:
            whole("stride", stride, 0)
        limit = self.max_length
        labels = tasks.labels(self.config, self._outputs)
        windows: list[tuple[int, Encoding]] = []
        for index, item in enumerate(items):
            encoding = self.tokenizer.encoding(item)
            windows += [(index, part) for part in tasks.windows(encoding, limit, stride)]

        def run(batch: list[tuple[int, Encoding]]) -> list[Floats]:
            return self._head([encoding for _, encoding in batch])

        rows = self._map(
            windows,
            lambda window: len(window[1]),
            run,
            batch_tokens=batch_tokens,
            progress=progress,
            what="tagging",
        )
        results: list[list[Tag]] = []
        for index, item in enumerate(items):
            parts = [
                (encoding, logits) for (owner, encoding), logits in zip(windows, rows, strict=True) if owner == index
            ]
            results.append(tasks.tags(self.tokenizer, item, parts, labels, aggregation, ignored))
        return results[0] if single else results

    def answer(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = 1,
        allow_no_answer: bool = False,
        max_answer_tokens: int = 15,
        window: int = 384,
        stride: int = 128,
        align_to_words: bool = True,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Answer | list[Answer]:
        """The span of a context that answers a question.

        Args:
            question: one question, or a list; one question or one context is combined with every item of the
                other.
            top_k: number of answers: the best one and ``top_k - 1`` ``alternatives``.
            allow_no_answer: allows "no answer" as an empty text.
            window: maximum tokens per pass; a longer context is read in windows that overlap by ``stride``
                tokens.
            align_to_words: extends a span to whole words.
        """
        self._require_head("answer", per_token=True)
        if self._outputs != 2:
            raise OptionError(f"answer needs a head with 2 outputs, this checkpoint's has {self._outputs}")
        questions, single_question = one_or_many(question, is_text, "question")
        contexts, single_context = one_or_many(context, is_text, "context")
        single = single_question and single_context
        if single_context and not single_question:
            contexts = contexts * len(questions)
        if single_question and not single_context:
            questions = questions * len(contexts)
        if len(questions) != len(contexts):
            raise OptionError(
                f"there are {len(questions)} questions and {len(contexts)} contexts: expected equal numbers"
            )
        for name, value, least in (
            ("top_k", top_k, 1),
            ("max_answer_tokens", max_answer_tokens, 1),
            ("stride", stride, 0),
        ):
            whole(name, value, least)
        flag("allow_no_answer", allow_no_answer)
        flag("align_to_words", align_to_words)
        reader = tasks.Reader(self.tokenizer, self.max_length, window, stride)
        pieces: list[tuple[int, Encoding]] = []
        for index, (ask, text) in enumerate(zip(questions, contexts, strict=True)):
            pieces += [(index, part) for part in reader.windows(ask, text)]

        def run(batch: list[tuple[int, Encoding]]) -> list[Floats]:
            return self._head([encoding for _, encoding in batch])

        rows = self._map(
            pieces,
            lambda piece: len(piece[1]),
            run,
            batch_tokens=batch_tokens,
            progress=progress,
            what="answering",
        )
        results = []
        for index, text in enumerate(contexts):
            parts = [
                (encoding, logits) for (owner, encoding), logits in zip(pieces, rows, strict=True) if owner == index
            ]
            results.append(
                reader.answer(
                    text,
                    parts,
                    top_k=top_k,
                    allow_no_answer=allow_no_answer,
                    max_answer_tokens=max_answer_tokens,
                    align_to_words=align_to_words,
                )
            )
        return results[0] if single else results

    def fill_mask(
        self,
        text: str | Sequence[str],
        *,
        top_k: int = 5,
        targets: Sequence[str] | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> Any:
        """Candidates for each mask token in a text, best first: a list for one mask, a list of lists for
        several.

        ``targets`` restricts the candidates to these tokens.
        """
        if self.spec.language_head is None:
            raise OptionError(f"{self._parts.identity} has no language head: fill_mask needs a masked language model")
        mask = self.tokenizer.mask_token
        mask_id = self.tokenizer.mask_token_id
        if mask is None or mask_id is None:
            raise OptionError(f"{self._parts.identity} has no mask token in its tokenizer files: fill_mask needs one")
        whole("top_k", top_k)
        words = None if targets is None else arguments.texts("targets", targets)
        items, single = one_or_many(text, is_text, "text")
        for index, item in enumerate(items):
            if mask not in item:
                raise OptionError(f"text {index} has no mask: expected {mask} in it")
        encodings = [self._encode(item) for item in items]
        limited = None if words is None else [tasks.target_id(self.tokenizer, word) for word in words]

        def run(batch: list[Encoding]) -> list[Any]:
            flat, starts, segments = self._arrays(batch)
            logits = self.core.logits(flat, starts, segments)
            return [
                tasks.fills(
                    self.tokenizer,
                    batch[index].ids,
                    logits[starts[index] : starts[index + 1]],
                    mask_id,
                    top_k,
                    limited,
                )
                for index in range(len(batch))
            ]

        results: list[list[Fill] | list[list[Fill]]] = self._map(
            encodings,
            len,
            run,
            batch_tokens=self._logit_tokens(batch_tokens),
            progress=progress,
            what="filling",
        )
        return results[0] if single else results

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        scores: str = "auto",
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        truncate: bool | None = None,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        progress: bool | Callback | None = None,
    ) -> list[Ranked]:
        """The documents sorted by relevance to a query, best first.

        A checkpoint with a one-output head scores each pair (cross-encoder); an embedding model compares
        embeddings, with its prompts "query" and "document" if it has them.

        Args:
            top_k: number of documents to return.
            scores: for a cross-encoder, "sigmoid" or "none" (raw logits); "auto" follows the checkpoint and
                defaults to the sigmoid.
        """
        if not is_text(query):
            raise OptionError(f"query is {short_repr(query)}: expected one text")
        texts, single = one_or_many(documents, is_text, "documents")
        if single:
            raise OptionError("documents is one text: expected a list")
        if top_k is not None:
            whole("top_k", top_k)
        optional_flag("truncate", truncate)
        prompts = {"query_prompt": query_prompt, "document_prompt": document_prompt}
        named = [name for name, prompt in prompts.items() if optional_text(name, prompt) is not None]
        if self.spec.head is not None:
            if named:
                raise OptionError(f"{named[0]} is set: a cross-encoder has no prompts")
            values = self._cross_scores(query, texts, scores, truncate, batch_tokens, progress)
        else:
            if not isinstance(scores, str) or scores != "auto":
                raise OptionError(f"scores is {short_repr(scores)}: an embedding model always uses its own similarity")
            values = tasks.bi_scores(
                EmbeddingPipeline.of(self),
                query,
                texts,
                query_prompt,
                document_prompt,
                truncate=truncate,
                batch_tokens=batch_tokens,
                progress=progress,
            )
        order = sorted(range(len(texts)), key=lambda index: (-values[index], index))
        return [Ranked(index=index, score=values[index], text=texts[index]) for index in order[:top_k]]

    def _cross_scores(
        self,
        query: str,
        texts: list[str],
        scores: str,
        truncate: bool | None,
        batch_tokens: int,
        progress: bool | Callback | None,
    ) -> list[float]:
        self._require_head("rank", per_token=False)
        if self._outputs != 1:
            raise OptionError(f"rank needs a head with one output, this checkpoint's has {self._outputs}: use classify")
        how = tasks.rank_function(self._parts.folder, self.config, scores)
        encodings = [self._encode((query, text), truncate=bool(truncate)) for text in texts]

        def run(batch: list[Encoding]) -> list[float]:
            return [float(tasks.apply(row, how)[0]) for row in self._head(batch)]

        return self._map(encodings, len, run, batch_tokens=batch_tokens, progress=progress, what="ranking")

    # -- token level ---------------------------------------------------------------------------------

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

    # -- internals -----------------------------------------------------------------------------------

    @property
    def _outputs(self) -> int:
        head = self.spec.head
        return 0 if head is None or not head.layers else head.layers[-1].outputs

    def _require_head(self, where: str, *, per_token: bool) -> None:
        head = self.spec.head
        if head is None:
            raise OptionError(
                f"{self._parts.identity} ({self._parts.architecture}) has no task head: {where} needs one"
            )
        if (head.pool == "none") != per_token:
            kind = "each token" if head.pool == "none" else "whole texts"
            raise OptionError(f"the head of {self._parts.identity} is for {kind}: it does not support {where}")

    def _encode(self, item: TextOrPair, truncate: bool = False) -> Encoding:
        text, pair = (item, None) if isinstance(item, str) else item
        encoding = self.tokenizer.encoding(text, pair)
        limit = self.max_length
        if not encoding.ids:
            raise OptionError("a text is empty and the tokenizer adds no special tokens: expected some text")
        if limit is not None and len(encoding) > limit:
            if not truncate:
                raise ContextLengthError(
                    f"a text has {len(encoding)} tokens: expected at most {limit}, the length of this model; "
                    "truncate=True shortens it, if the method has that option"
                )
            encoding = tasks.truncated(encoding, limit)
        return encoding

    def _arrays(self, batch: Sequence[Encoding]) -> tuple[Any, Any, Any]:
        flat, starts = ragged([encoding.ids for encoding in batch])
        stack = self._stack
        segments = None
        if stack is not None and stack.stem.segments > 1:
            segments = ragged([encoding.type_ids for encoding in batch])[0]
        return flat, starts, segments

    def _head(self, batch: Sequence[Encoding]) -> list[Floats]:
        return self._read_head([encoding.ids for encoding in batch], self._arrays(batch)[2])

    def _read_head(self, ids: Sequence[IdList], segments: Any) -> list[Floats]:
        head, padding = self.spec.head, self.config.get("pad_token_id")
        assert head is not None  # checked by every caller
        if head.pool == "last" and segments is None:
            # The head reads the last token that is not padding.
            ids = [one[: _content(one, padding)] for one in ids]
        flat, starts = ragged(ids)
        if self.spec.encoder is None or self.spec.decoder is None:
            found = self.core.head(flat, starts, segments)
        else:
            targets, ends = ragged([self._target(one, whole=head.pool == "none") for one in ids])
            found = self.core.decoder_head(flat, starts, targets, ends)
        return split_rows(found, starts) if head.pool == "none" else list(found)

    def _target(self, ids: IdList, whole: bool) -> list[int]:
        """The decoder's input for an encoder-decoder: its start token and the text without the last token.

        A text-level head reads the state at the last end token, which later tokens cannot change.
        """
        ends = id_list(self.config.get("eos_token_id"), "eos_token_id")
        max_id = self.spec.decoder.stem.vocab_size - 1 if self.spec.decoder is not None else 0
        start = self.config.optional_size("decoder_start_token_id", minimum=0, maximum=max_id)
        if start is None or self._parts.architecture == "mbart":
            start = ids[-1]  # mBART: the language token
        length = len(ids)
        if not whole:
            places = [place for place, token in enumerate(ids, 1) if token in ends]
            if not places:
                raise OptionError(f"ids have no end token {ends}, whose state the head reads: expected one")
            length = places[-1]
        return [start, *ids[: length - 1]]

    def _lists(self, ids: Any, segment_ids: Any) -> tuple[Any, Any, Any]:
        lists, _ = id_lists(ids)
        return self._checked(lists, None if segment_ids is None else id_lists(segment_ids, "segment_ids")[0])

    def _checked(self, lists: Sequence[Any], segment_lists: Sequence[Any] | None) -> tuple[Any, Any, Any]:
        """Concatenated ids, sequence offsets, and segments if the model has any."""
        stack = self._stack
        checked = [self._check_ids(sequence, stack.stem.vocab_size, self.max_length) for sequence in lists]
        flat, starts = ragged(checked)
        if segment_lists is None:
            return flat, starts, None
        kinds = [self._check_ids(part, max(stack.stem.segments, 1), None, "segment_ids") for part in segment_lists]
        if [len(part) for part in kinds] != [len(part) for part in checked]:
            raise OptionError("segment_ids and ids differ in length: expected one segment per token")
        return flat, starts, ragged(kinds)[0] if stack.stem.segments else None


def _content(ids: IdList, padding: Any) -> int:
    """The length of a sequence without trailing padding, at least 1."""
    length = len(ids)
    while length > 1 and ids[length - 1] == padding:
        length -= 1
    return length
