"""Decoders: text generation, chat, scores."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from ..errors import OptionError
from ..progress import Callback, Progress
from ..results import Chunk, Generation, Hypothesis
from ..tokenizer import template
from . import arguments, engine
from .arguments import flag, id_lists, is_text, one_or_many
from .base import IdList, LoadedParts, ragged, split_rows
from .feed import Feed
from .generation_config import Defaults
from .options import Request, resolve, spelled_out
from .tasks.embedding import Embedder
from .tasks.explain_prompts import PromptExplainer
from .tasks.scoring import Scorer
from .transcript import Finished

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from .options import GenerateOptions, SingleOptions

    Floats = NDArray[np.float32]

Messages = Sequence[Mapping[str, Any]]


class TextGenerator(Embedder, Scorer, PromptExplainer):
    """A decoder with a language head.

    Generation defaults are those of the checkpoint's generation_config.json; `GenerateOptions` lists the
    options of the generating methods. Each takes one prompt or a list and returns the same shape; a list is
    decoded as a batch, with the same results as one by one.
    """

    kind: ClassVar[str] = "decoder"

    def __init__(self, parts: LoadedParts) -> None:
        super().__init__(parts)
        self._defaults = Defaults.read(parts.generation, parts.config, encoder_decoder=False)

    @property
    def _vocab_size(self) -> int:
        stack = self.spec.decoder
        return 0 if stack is None else stack.stem.vocab_size

    # -- text level ----------------------------------------------------------------------------------

    def __call__(self, text: Any, **options: Any) -> Any:
        """The main task, with its options: `chat` for messages, `score` if loaded for it, else `generate`; a model
        loaded with ``task="chat"`` takes a text as the message of a user."""
        task = self._parts.task
        if _is_messages(text):
            return self.chat(text, **options)
        if task == "chat" and is_text(text):
            return self.chat([{"role": "user", "content": text}], **options)
        if task == "chat":
            texts, _ = one_or_many(text, is_text, "text")
            return self.chat([[{"role": "user", "content": one}] for one in texts], **options)
        return self.score(text, **options) if task == "score" else self.generate(text, **options)

    @overload
    def generate(  # type: ignore[overload-overlap]  # str is also a sequence of str
        self,
        prompt: str,
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: Sequence[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation]: ...
    @overload
    def generate(
        self,
        prompt: Iterator[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Generation, None, None]: ...
    @spelled_out
    def generate(
        self,
        prompt: str | Sequence[str] | Iterator[str],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation | list[Generation] | Generator[Generation, None, None]:
        """Continues one prompt, a list, or an iterator.

        For an iterator the result is a generator, which yields in order, as prompts end: they join the batch when
        others leave it, 128 at a time. Closing it stops the work.

        Raises:
            OptionError: an option that cannot be honoured.
            ContextLengthError: the prompt and ``max_tokens`` do not fit into the model.
        """
        request = self._resolve(options, "generate")
        if isinstance(prompt, Iterator):
            return self._flow(prompt, request, progress)
        prompts, single = one_or_many(prompt, is_text, "prompt")
        results = self._generate([self._prompt(text) for text in prompts], request, progress)
        return results[0] if single else results

    @spelled_out
    def stream(self, prompt: str | Sequence[str], **options: Unpack[GenerateOptions]) -> Generator[Chunk, None, None]:
        """Continues one prompt or a list, yielding the text as it is generated; ``index`` of a chunk is its
        prompt.

        Closing the iterator stops the generation immediately.
        """
        prompts, _ = one_or_many(prompt, is_text, "prompt")
        request = self._resolve(options, "stream", streaming=True)
        return engine.stream(self._job([self._prompt(text) for text in prompts], request))

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        allow_control_tokens: bool = False,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...
    @overload
    def chat(
        self,
        messages: Sequence[Messages],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        allow_control_tokens: bool = False,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation]: ...
    @spelled_out
    def chat(
        self,
        messages: Messages | Sequence[Messages],
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        allow_control_tokens: bool = False,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation | list[Generation]:
        """The assistant's answer to one conversation or a list.

        Args:
            messages: objects with ``role`` and ``content``, or a list of such lists.
            tools: JSON schemas or functions, for templates that support tools.
            documents: objects with ``title`` and ``text``, for retrieval templates.
            chat_template: name or text of a template.
            template_variables: additional variables of the template, such as ``enable_thinking``.
            continue_final_message: continues the last message instead of starting a new one.
            allow_control_tokens: makes control tokens in messages effective.
        """
        listed = isinstance(messages, list | tuple) and bool(messages)
        many = listed and isinstance(messages[0], list | tuple)
        conversations: Any = messages if many else [messages]
        request = self._resolve(options, "chat")
        prompts = [
            self._conversation(
                conversation,
                tools=tools,
                documents=documents,
                chat_template=chat_template,
                variables=template_variables,
                continue_final_message=continue_final_message,
                allow_control_tokens=allow_control_tokens,
            )
            for conversation in conversations
        ]
        results = self._generate(prompts, request, progress)
        return results if many else results[0]

    @spelled_out
    def stream_chat(
        self,
        messages: Messages,
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        allow_control_tokens: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Generator[Chunk, None, None]:
        """As `chat` for one conversation, yielding the answer as it is generated."""
        request = self._resolve(options, "stream_chat", streaming=True)
        prompt = self._conversation(
            messages,
            tools=tools,
            documents=documents,
            chat_template=chat_template,
            variables=template_variables,
            continue_final_message=continue_final_message,
            allow_control_tokens=allow_control_tokens,
        )
        return engine.stream(self._job([prompt], request))

    # -- token level ---------------------------------------------------------------------------------

    @overload
    def generate_ids(
        self,
        ids: Sequence[int],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[SingleOptions],
    ) -> list[int]: ...
    @overload
    def generate_ids(
        self,
        ids: Sequence[IdList],
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[SingleOptions],
    ) -> list[list[int]]: ...
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
    ) -> Any: ...
    @spelled_out
    def generate_ids(
        self,
        ids: Any,
        *,
        progress: bool | Callback | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any:
        """The new ids of each list of prompt ids, as a list of lists; for a single list of ids, one list.

        With ``num_hypotheses`` or ``n``, a list of `Hypothesis` per prompt instead of the ids.
        """
        prompts, single = id_lists(ids)
        request = self._resolve(options, "generate_ids")
        limit = self.max_length
        checked = [self._check_ids(prompt, self._vocab_size, limit) for prompt in prompts]
        several = options.get("num_hypotheses") is not None or options.get("n") is not None
        with Progress(progress, len(checked), "generating") as bar:
            results = engine.run(self._job(checked, request), bar.reports)
        found: list[Any] = []
        for hypotheses in results:
            if several:
                found.append([h.hypothesis(request) for h in hypotheses])
            else:
                found.append(list(hypotheses[0].ids))
        return found[0] if single else found

    def logits(self, ids: IdList) -> Floats:
        """Logits at every position of one sequence, float32 [tokens, vocab]."""
        checked = self._check_ids(ids, self._vocab_size, self.max_length)
        return self.core.logits(*ragged([checked]))

    @overload
    def encode(self, ids: Sequence[int]) -> Floats: ...
    @overload
    def encode(self, ids: Sequence[IdList]) -> list[Floats]: ...
    @overload
    def encode(self, ids: NDArray[np.integer[Any]]) -> Floats | list[Floats]: ...
    def encode(self, ids: IdList | Sequence[IdList]) -> Floats | list[Floats]:
        """Final hidden states of one sequence, float32 [tokens, hidden], or a list of them for a list of
        sequences."""
        lists, single = id_lists(ids)
        flat, starts = ragged([self._check_ids(one, self._vocab_size, self.max_length) for one in lists])
        states = split_rows(self.core.encode(flat, starts), starts)
        return states[0] if single else states

    def hidden_states(self, ids: IdList) -> list[Floats]:
        """Hidden states of all layers for one sequence: the embedding, then each layer's output, the last
        after the final norm; float32 [tokens, hidden] each."""
        checked = self._check_ids(ids, self._vocab_size, self.max_length)
        return self.core.hidden_states(*ragged([checked]))

    def attentions(self, ids: IdList, layer: int) -> Floats:
        """Attention probabilities of one layer, float32 [heads, tokens, tokens]."""
        checked = self._check_ids(ids, self._vocab_size, self.max_length)
        return self.core.attentions(ragged([checked])[0], self._layer(layer))

    # -- internals -----------------------------------------------------------------------------------

    def _layer(self, layer: int) -> int:
        stack = self.spec.decoder
        return arguments.layer(layer, () if stack is None else stack.layers)

    def _resolve(self, options: Mapping[str, Any], where: str, streaming: bool = False) -> Request:
        def forbidden(text: str) -> list[list[int]]:
            tokenizer = self.tokenizer
            ways = [tokenizer.encode(form, add_special_tokens=False) for form in (text, f" {text}")]
            return [list(way) for way in dict.fromkeys(map(tuple, ways))]

        request = resolve(self._defaults, options, encode=forbidden, where=where)
        if streaming and (request.beams > 1 or request.samples > 1):
            name = "beams" if request.beams > 1 else "n"
            raise OptionError(
                f"{name} is set for {where}, which yields one text per prompt: use generate, or set it to 1"
            )
        return request

    def _prompt(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text)
        if not ids:
            start = self._defaults.get("bos_token_id")
            if not isinstance(start, int):
                raise OptionError("prompt is empty, and the checkpoint has no start token: expected some text")
            ids = [start]
        return self._check_ids(ids, self._vocab_size, self.max_length, "prompt")

    def _conversation(
        self,
        messages: Messages,
        *,
        tools: Sequence[Any] | None,
        documents: Sequence[Any] | None,
        chat_template: str | None,
        variables: Mapping[str, Any] | None,
        continue_final_message: bool,
        allow_control_tokens: bool,
    ) -> list[int]:
        flag("allow_control_tokens", allow_control_tokens)
        ids = self.tokenizer.encode_chat(
            messages,
            add_generation_prompt=not flag("continue_final_message", continue_final_message),
            tools=tools,
            documents=documents,
            continue_final_message=continue_final_message,
            chat_template=chat_template,
            allow_control_tokens=allow_control_tokens,
            **template.variables(variables),
        )
        return self._check_ids(ids, self._vocab_size, self.max_length, "conversation")

    def _job(self, prompts: Sequence[Sequence[int]], request: Request) -> engine.GenerationJob:
        return engine.GenerationJob(self.core, lambda: self.tokenizer, prompts, request, self.max_length)

    def _generate(
        self, prompts: list[list[int]], request: Request, progress: bool | Callback | None
    ) -> list[Generation]:
        began = time.perf_counter()
        with Progress(progress, len(prompts), "generating") as bar:
            results = engine.run(self._job(prompts, request), bar.reports)
        seconds = time.perf_counter() - began
        return [
            self._generation(prompt, found, request, seconds) for prompt, found in zip(prompts, results, strict=True)
        ]

    def _flow(
        self, prompts: Iterator[str], request: Request, progress: bool | Callback | None
    ) -> Generator[Generation, None, None]:
        """The generation of each prompt, as it comes."""
        Progress(progress, None, "generating")  # raises here, not at the first result

        def finish(_: str, done: engine.Running) -> Generation:
            seconds = time.perf_counter() - done.began
            return self._generation(done.job.prompts[0], done.results()[0], request, seconds)

        feed: Feed[str] = Feed(prompts, is_text, "prompt")
        return engine.flow(feed, lambda text: self._job([self._prompt(text)], request), finish, progress, "generating")

    def _generation(
        self, prompt: Sequence[int], hypotheses: Sequence[Finished], request: Request, seconds: float
    ) -> Generation:
        tokenizer = self.tokenizer
        texts = [
            h.text if h.text is not None else tokenizer.decode(h.ids, skip_special_tokens=True) for h in hypotheses
        ]
        best = hypotheses[0]
        return Generation(
            text=texts[0],
            ids=tuple(best.ids),
            finish_reason=best.reason,
            prompt_tokens=len(prompt),
            seconds=seconds,
            logprobs=tuple(best.logprobs) if request.logprobs is not None else None,
            alternatives=tuple(h.hypothesis(request, text) for h, text in zip(hypotheses[1:], texts[1:], strict=True)),
        )


def _is_messages(value: Any) -> bool:
    """Whether a value is a conversation or a list of conversations."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, Mapping)
