"""Encoder-decoders: translation, summarization, text to text."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from ..errors import OptionError
from ..progress import Callback, Progress
from ..results import Chunk, Hypothesis, Translation
from . import arguments, engine, sentences
from .arguments import flag, id_lists, is_text, one_or_many
from .base import IdList, ragged, split_rows
from .directions import Direction
from .feed import Feed
from .options import Request, spelled_out
from .tasks.explain_sources import SourceExplainer
from .tasks.scoring import TargetScorer
from .transcript import Finished

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from .options import GenerateOptions

    Floats = NDArray[np.float32]


class Seq2Seq(TargetScorer, SourceExplainer):
    """An encoder-decoder.

    Generation defaults are those of the checkpoint's generation_config.json; `GenerateOptions` lists the
    options of the generating methods. Each takes one text or a list and returns the same shape.
    """

    kind: ClassVar[str] = "encoder-decoder"

    # -- text level ----------------------------------------------------------------------------------

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """The main task: that of `load`, else `translate` if the checkpoint states its languages, else
        `summarize` if it has settings for summaries alone, else `generate`; with their options."""
        return getattr(self, self._main())(*texts, **options)

    @overload
    def translate(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        texts: str,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        target_prefix: str | Sequence[str] | None = None,
        split_sentences: bool = False,
        alignments: bool = False,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Translation: ...
    @overload
    def translate(
        self,
        texts: Sequence[str],
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        target_prefix: str | Sequence[str] | None = None,
        split_sentences: bool = False,
        alignments: bool = False,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Translation]: ...
    @overload
    def translate(
        self,
        texts: Iterator[str],
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        target_prefix: str | None = None,
        split_sentences: bool = False,
        alignments: bool = False,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Translation, None, None]: ...
    @spelled_out
    def translate(
        self,
        texts: str | Sequence[str] | Iterator[str],
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        target_prefix: str | Sequence[str] | None = None,
        split_sentences: bool = False,
        alignments: bool = False,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Translation | list[Translation] | Generator[Translation, None, None]:
        """Translates one text, a list, or an iterator.

        For an iterator the result is a generator, which yields in order, as texts end: they join the batch when
        others leave it, 128 at a time. Closing it stops the work.

        Args:
            source_lang: the language of the texts, for multilingual models: in the checkpoint's spelling, as
                a code, or in English.
            target_lang: the language to translate into.
            target_prefix: the beginning of the translation, or one for each text: the result continues it. The
                text includes it; ids, scores and log-probabilities are those of the new tokens.
            split_sentences: translates sentence by sentence and joins the results; the ids and scores then
                cover all sentences.
            alignments: adds ``alignment`` to every hypothesis: the attention of its tokens to those of the source.

        Raises:
            OptionError: an option that cannot be honoured, or a language that the checkpoint lacks.
            ContextLengthError: a text is longer than the model.
        """
        for name, given in (
            ("target_prefix", target_prefix is not None),
            ("alignments", flag("alignments", alignments)),
        ):
            if flag("split_sentences", split_sentences) and given:
                raise OptionError(f"{name} and split_sentences exclude each other: remove one of them")
        task = self._task("translation", source_lang, target_lang)
        direction = self._direction(source_lang, target_lang, task)
        request = self._resolve({**options, **direction.options(options)}, "translate", task)
        return self._texts(
            texts, direction, request, progress, "translating", split_sentences, target_prefix, alignments
        )

    @overload
    def summarize(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        texts: str,
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Translation: ...
    @overload
    def summarize(
        self,
        texts: Sequence[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Translation]: ...
    @overload
    def summarize(
        self,
        texts: Iterator[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Translation, None, None]: ...
    @spelled_out
    def summarize(
        self,
        texts: str | Sequence[str] | Iterator[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Translation | list[Translation] | Generator[Translation, None, None]:
        """Summarizes one text, a list, or (as `translate`) an iterator, with the checkpoint's prefix and settings
        for summaries if it has them."""
        task = self._task("summarization")
        prefix = task.get("prefix", self.config.get("prefix"))
        direction = Direction(prefix=prefix if isinstance(prefix, str) else "")
        request = self._resolve(options, "summarize", task)
        return self._texts(texts, direction, request, progress, "summarizing", False)

    @overload
    def generate(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        texts: str,
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Translation: ...
    @overload
    def generate(
        self,
        texts: Sequence[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Translation]: ...
    @overload
    def generate(
        self,
        texts: Iterator[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Translation, None, None]: ...
    @spelled_out
    def generate(
        self,
        texts: str | Sequence[str] | Iterator[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Translation | list[Translation] | Generator[Translation, None, None]:
        """Text to text, without a prefix; one text, a list, or (as `translate`) an iterator."""
        request = self._resolve(options, "generate", {})
        return self._texts(texts, Direction(), request, progress, "generating", False)

    @spelled_out
    def stream(
        self,
        texts: str | Sequence[str],
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Chunk, None, None]:
        """As `translate` if languages are given, else as `generate`, yielding the text as it is generated.

        A stream yields one text per source, so it is greedy or sampled: the checkpoint's beams are set to 1,
        and ``beams`` is refused.
        """
        items, _ = one_or_many(texts, is_text, "text")
        if options.get("beams") is None:
            options["beams"] = 1
        task: Mapping[str, Any] = {}
        direction = Direction()
        if source_lang is not None or target_lang is not None:
            task = self._task("translation", source_lang, target_lang)
            direction = self._direction(source_lang, target_lang, task)
        request = self._resolve({**options, **direction.options(options)}, "stream", task)
        if request.beams > 1 or request.samples > 1:
            name = "beams" if request.beams > 1 else "n"
            raise OptionError(
                f"{name} is set for stream, which yields one text per source: use generate, or set it to 1"
            )
        return engine.stream(self._job([self._source(text, direction) for text in items], request, direction))

    # -- token level ---------------------------------------------------------------------------------

    @overload
    def generate_ids(
        self,
        ids: Sequence[int],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Hypothesis]: ...
    @overload
    def generate_ids(
        self,
        ids: Sequence[IdList],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[list[Hypothesis]]: ...
    @overload
    def generate_ids(
        self,
        ids: NDArray[np.integer[Any]],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Hypothesis] | list[list[Hypothesis]]: ...
    @spelled_out
    def generate_ids(
        self,
        ids: Any,
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[list[Hypothesis]] | list[Hypothesis]:
        """The hypotheses of each list of source ids, best first; for a single list of ids, its hypotheses.

        Their ids are new tokens, without the decoder's start token.
        """
        lists, single = id_lists(ids)
        sources = [self._check_source(source) for source in lists]
        request = self._resolve(options, "generate_ids", {})
        results: list[list[Hypothesis]] = []
        with Progress(progress, len(sources), "generating") as bar:
            for found in self._run(sources, request, Direction(), bar):
                results.append([h.hypothesis(request) for h in found])
        return results[0] if single else results

    @overload
    def encode(self, ids: Sequence[int]) -> Floats: ...
    @overload
    def encode(self, ids: Sequence[IdList]) -> list[Floats]: ...
    @overload
    def encode(self, ids: NDArray[np.integer[Any]]) -> Floats | list[Floats]: ...
    def encode(self, ids: IdList | Sequence[IdList]) -> Floats | list[Floats]:
        """The encoder's final hidden states of one source, float32 [tokens, hidden], or a list of them for a
        list of sources."""
        lists, single = id_lists(ids)
        flat, starts = ragged([self._check_source(source) for source in lists])
        states = split_rows(self.core.encode(flat, starts), starts)
        return states[0] if single else states

    def hidden_states(self, source_ids: IdList, target_ids: IdList | None = None) -> list[Floats]:
        """Hidden states of all layers of the encoder, or with ``target_ids`` (the decoder's input) of the
        decoder: the embedding, then each layer's output, the last after the final norm; float32 [tokens,
        hidden] each."""
        if target_ids is None:
            return self.core.hidden_states(*ragged([self._check_source(source_ids)]))
        source, target = self._pair(source_ids, target_ids)
        return self.core.decoder_hidden_states(*ragged([source]), *ragged([target]))

    def decoder_logits(self, source_ids: IdList, target_ids: IdList) -> Floats:
        """Logits at every position of ``target_ids``, which begin with the start token: float32 [tokens,
        vocab]."""
        source, target = self._pair(source_ids, target_ids)
        return self.core.decoder_logits(*ragged([source]), *ragged([target]))

    def attentions(
        self,
        source_ids: IdList,
        layer: int,
        target_ids: IdList | None = None,
        *,
        cross: bool = False,
    ) -> Floats:
        """Attention probabilities of one layer: of the encoder, [heads, source, source]; with ``target_ids``,
        of the decoder, [heads, target, target]; with ``cross``, of its cross-attention, [heads, target,
        source]."""
        if target_ids is None:
            if flag("cross", cross):
                raise OptionError("cross is set without target_ids: expected the decoder's input")
            source = self._check_source(source_ids)
            return self.core.attentions(
                ragged([source])[0], arguments.layer(layer, self.spec.encoder.layers if self.spec.encoder else ())
            )
        source, target = self._pair(source_ids, target_ids)
        number = arguments.layer(layer, self.spec.decoder.layers if self.spec.decoder else ())
        return self.core.decoder_attentions(ragged([source])[0], ragged([target])[0], number, cross)

    # -- internals -----------------------------------------------------------------------------------

    def _run(
        self,
        sources: Sequence[Sequence[int]],
        request: Request,
        direction: Direction,
        bar: Progress,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Finished]]:
        # The engine admits them in this order: long ones first leave no long one alone at the end.
        order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
        kept = None if prefixes is None else [prefixes[index] for index in order]
        found = engine.run(self._job([sources[index] for index in order], request, direction, kept), bar.reports)
        results: list[list[Finished]] = [[] for _ in sources]
        for index, hypotheses in zip(order, found, strict=True):
            results[index] = hypotheses
        return results

    def _texts(
        self,
        texts: str | Sequence[str] | Iterator[str],
        direction: Direction,
        request: Request,
        progress: bool | Callback | None,
        what: str,
        split: bool,
        prefix: str | Sequence[str] | None = None,
        alignments: bool = False,
    ) -> Translation | list[Translation] | Generator[Translation, None, None]:
        """The result of one text, those of a list, or a generator of those of an iterator."""

        def pieces(text: str) -> list[tuple[str, str]]:
            return sentences.split(text) if split else [(text, "")]

        def result(text: str, found: Iterator[Translation]) -> Translation:
            return sentences.join([(next(found), space) for _, space in pieces(text)]) if split else next(found)

        if isinstance(texts, Iterator):
            Progress(progress, None, what)  # raises here, not at the first result
            if not (prefix is None or isinstance(prefix, str)):
                raise OptionError("target_prefix is a list, and the texts are an iterator: expected one text")
            own = None if prefix is None else self._prefixes(prefix, 1)

            def job(text: str) -> engine.GenerationJob:
                return self._job([self._source(body, direction) for body, _ in pieces(text)], request, direction, own)

            def finish(text: str, done: engine.Running) -> Translation:
                seconds = time.perf_counter() - done.began
                return result(text, self._translations(done.job, done.results(), alignments, seconds))

            return engine.flow(Feed(texts, is_text, "text"), job, finish, progress, what)
        items, single = one_or_many(texts, is_text, "text")
        prefixes = None if prefix is None else self._prefixes(prefix, len(items))
        flat = [self._source(body, direction) for text in items for body, _ in pieces(text)]
        began = time.perf_counter()
        with Progress(progress, len(flat), what) as bar:
            hypotheses = self._run(flat, request, direction, bar, prefixes)
        seconds = time.perf_counter() - began
        found = self._translations(self._job(flat, request, direction, prefixes), hypotheses, alignments, seconds)
        results = [result(text, found) for text in items]
        return results[0] if single else results

    def _translations(
        self, job: engine.GenerationJob, found: Sequence[Sequence[Finished]], alignments: bool, seconds: float
    ) -> Iterator[Translation]:
        """The results of the sources of a job."""
        for index, (source, prompt, several) in enumerate(zip(job.sources or (), job.prompts, found, strict=True)):
            if alignments:
                for one in several:
                    one.alignment = self._alignment(source, prompt, one.ids)
            yield self._translation(several, job.request, source, job.prefix(index), seconds)

    def _alignment(self, source: Sequence[int], prompt: Sequence[int], ids: Sequence[int]) -> Floats:
        """The cross-attention of the last layer at the positions before each new token, averaged over heads."""
        stack = self.spec.decoder
        assert stack is not None  # an encoder-decoder has one
        if not ids:
            return np.zeros((0, len(source)), np.float32)
        fed = ragged([[*prompt, *ids[:-1]]])[0]
        found = self.core.decoder_attentions(ragged([source])[0], fed, len(stack.layers) - 1, True)
        return np.ascontiguousarray(found.mean(axis=0)[len(prompt) - 1 :], np.float32)

    def _translation(
        self,
        hypotheses: Sequence[Finished],
        request: Request,
        source: Sequence[int],
        prefix: Sequence[int],
        seconds: float,
    ) -> Translation:
        def text(found: Finished) -> str:
            if found.text is not None:
                return found.text
            return self.tokenizer.decode([*prefix, *found.ids], skip_special_tokens=True)

        found = [one.hypothesis(request, text(one)) for one in hypotheses]
        best = found[0]
        return Translation(
            text=best.text or "",
            ids=best.ids,
            score=best.score,
            finish_reason=best.finish_reason,
            hypotheses=tuple(found),
            logprobs=best.logprobs,
            prompt_tokens=len(source),
            seconds=seconds,
        )
