"""A conversation: its history, its settings, and streamed answers."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import OptionError, short_repr
from .foreign import unknown_option
from .models.options import GenerateOptions
from .results import Chunk, Generation
from .tokenizer.template import items

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .models import TextGenerator


class Chat:
    """A conversation with a `TextGenerator`.

    Each turn renders the whole history with the checkpoint's template, so the prompt equals that of one call
    with all messages.

    Example:
        >>> chat = Chat(model, system="Be brief.")
        >>> print(chat.send("Hello!"))

    Args:
        model: a decoder whose checkpoint has a chat template.
        system: the system message.
        messages: the history to start from.
        tools: JSON schemas or functions that the model may call.
        documents: objects with ``title`` and ``text``, for retrieval templates.
        chat_template: name or text of a template.
        template_variables: additional variables of the template.
        allow_control_tokens: makes control tokens in messages effective.
        options: options of generation for every turn; those of `send` override them.
    """

    _SETTINGS = ("tools", "documents", "chat_template", "template_variables", "allow_control_tokens")

    def __init__(
        self,
        model: TextGenerator,
        *,
        system: str | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        allow_control_tokens: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> None:
        if getattr(model, "kind", None) != "decoder":
            raise OptionError(f"model is {short_repr(model)}: expected a loaded TextGenerator")
        for name, value in options.items():
            if name not in GenerateOptions.__annotations__:
                named = {"system", "messages", *self._SETTINGS, *GenerateOptions.__annotations__}
                raise unknown_option("Chat", name, value, named)
        for name in ("n", "beams"):
            if options.get(name) not in (None, 1):
                raise OptionError(f"{name} is {options.get(name)!r}: a conversation has one answer per turn")
        self.model = model
        self._start: list[dict[str, Any]] = []
        if system is not None:
            self._start.append({"role": "system", "content": system})
        for message in items("messages", messages) or []:
            if not isinstance(message, Mapping):
                raise OptionError(f"messages holds {short_repr(message)}: expected objects with role and content")
            self._start.append(_message(message))
        self._messages = list(self._start)
        self._settings: dict[str, Any] = {
            "tools": tools,
            "documents": documents,
            "chat_template": chat_template,
            "template_variables": template_variables,
            "allow_control_tokens": allow_control_tokens,
        }
        self._options: dict[str, Any] = dict(options)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """A copy of the history."""
        return [dict(message) for message in self._messages]

    def send(self, content: str | Mapping[str, Any], **options: Unpack[GenerateOptions]) -> Generation:
        """Sends a user message (or any message, such as a tool's result) and returns the answer.

        A failed turn leaves the history unchanged.
        """
        messages = [*self._messages, _message(content)]
        answer = self.model.chat(messages, **self._settings, **{**self._options, **options})
        self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer

    def stream(
        self, content: str | Mapping[str, Any], **options: Unpack[GenerateOptions]
    ) -> Generator[Chunk, None, None]:
        """As `send`, yielding the answer as it is generated.

        If the iterator is closed early, the text so far is kept as the answer.
        """
        messages = [*self._messages, _message(content)]
        chunks = self.model.stream_chat(messages, **self._settings, **{**self._options, **options})
        return self._recorded(messages, chunks)

    def _recorded(
        self, messages: list[dict[str, Any]], chunks: Generator[Chunk, None, None]
    ) -> Generator[Chunk, None, None]:
        text = ""
        began = False
        try:
            for chunk in chunks:
                began = True
                text += chunk.text
                yield chunk
        finally:
            chunks.close()
            if began:
                self._messages = [*messages, {"role": "assistant", "content": text}]

    def change(self, **options: Any) -> None:
        """Changes options of generation for the turns that follow, or ``tools``; None restores the default.

        Raises:
            OptionError: an option that cannot be honoured; nothing has changed then.
        """
        tools = {"tools": items("tools", options.pop("tools"))} if "tools" in options else {}
        changed = {name: value for name, value in {**self._options, **options}.items() if value is not None}
        for name in ("n", "beams"):
            if changed.get(name) not in (None, 1):
                raise OptionError(f"{name} is {changed.get(name)!r}: a conversation has one answer per turn")
        self.model._resolve(changed, "chat")
        self._options = changed
        self._settings.update(tools)

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the options of generation for every turn."""
        return dict(self._options)

    def resume(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Replaces the history, for example by one that was saved; `reset` still returns to the initial messages."""
        found = []
        for message in items("messages", messages) or []:
            if not isinstance(message, Mapping):
                raise OptionError(f"messages holds {short_repr(message)}: expected objects with role and content")
            found.append(_message(message))
        self._messages = found

    def undo(self) -> None:
        """Removes the last turn."""
        kept = len(self._start)
        if self._messages[:kept] != self._start:  # another history was resumed
            kept = int(self._messages[0]["role"] == "system") if self._messages else 0
        while len(self._messages) > kept:
            if self._messages.pop()["role"] == "user":
                return

    def reset(self) -> None:
        """Starts over with the initial messages."""
        self._messages = list(self._start)


def _message(content: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "user", "content": content}
    if not isinstance(content, Mapping):
        raise OptionError(f"content is {short_repr(content)}: expected a text, or a message with role and content")
    message = dict(content)
    if not isinstance(message.get("role"), str):
        raise OptionError("a message has no role: expected an object with role and content")
    return message
