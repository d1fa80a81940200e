"""Chat templates: finding them in a folder, rendering them, and protecting against control tokens in
messages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint import read_object
from ..errors import CheckpointError, Error, OptionError, short_repr
from .files import read_text

Message = Mapping[str, Any]

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
_MAX_DEPTH = 100
_MAX_DIGITS = 4000
_REASONING = ("reasoning_content", "thinking", "reasoning")


def find(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """All templates of a folder by name; the unnamed one is "default".

    ``chat_template.jinja`` overrides tokenizer_config.json, which overrides chat_template.json; additional
    named templates are in ``additional_chat_templates/``.
    """
    found: dict[str, str] = {}
    legacy = read_object(folder / "chat_template.json").get("chat_template")
    for value in (legacy, config.get("chat_template")):
        if isinstance(value, str):
            found["default"] = value
        elif isinstance(value, list):
            for entry in value:
                if not (
                    isinstance(entry, dict)
                    and isinstance(entry.get("name"), str)
                    and isinstance(entry.get("template"), str)
                ):
                    raise CheckpointError(f"{folder} has a chat template without a name or a text: {short_repr(entry)}")
                found[entry["name"]] = entry["template"]
        elif isinstance(value, dict):
            found.update({str(key): str(text) for key, text in value.items()})
        elif value is not None:
            raise CheckpointError(f"the chat_template of {folder} is {type(value).__name__}: expected a text or a list")
    path = folder / "chat_template.jinja"
    if path.is_file():
        found["default"] = read_text(path)
    extra = folder / "additional_chat_templates"
    if extra.is_dir():
        for path in sorted(extra.glob("*.jinja")):
            found[path.stem] = read_text(path)
    return found


def choose(templates: Mapping[str, str], name: str | None, tools: bool) -> str:
    """The template to use: the named one, else "tool_use" if tools are given, else the default."""
    if name is not None:
        if not isinstance(name, str):
            raise OptionError(f"chat_template is {short_repr(name)}: expected the name or the text of a template")
        if name in templates:
            return templates[name]
        if "{" in name:
            return name
        raise OptionError(
            f"chat_template is {short_repr(name)}: expected one of {', '.join(sorted(templates)) or 'none'} "
            "or the text of a template"
        )
    if tools and "tool_use" in templates:
        return templates["tool_use"]
    if "default" in templates:
        return templates["default"]
    if templates:
        raise OptionError(
            "the checkpoint has no default chat template: "
            f"select one of {', '.join(sorted(templates))} with chat_template"
        )
    raise OptionError(
        "the checkpoint has no chat template: use generate with a prompt, or pass a template as chat_template"
    )


_OWN = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template")


def variables(given: Any) -> dict[str, Any]:
    """Additional variables of a template; the names of arguments are refused."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"template_variables is {type(given).__name__}: expected a mapping of names to values")
    for name in _OWN:
        if name in given:
            raise OptionError(f"template_variables holds {name}: pass it as the argument {name}")
    return dict(given)


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` converted to JSON types; raises OptionError if that is impossible."""
    if depth > _MAX_DEPTH:
        raise OptionError(f"a chat template's values are nested more than {_MAX_DEPTH} deep")
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(f"a chat template takes numbers that JSON can represent: got {value}")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_MAX_DIGITS:
        raise OptionError(f"a chat template takes whole numbers of at most {_MAX_DIGITS} digits")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {check_text(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), depth + 1)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return plain(dump(), depth + 1)
    items = getattr(value, "tolist", None)  # NumPy scalars and arrays
    if callable(items):
        return plain(items(), depth + 1)
    raise OptionError(f"a chat template takes text, numbers, lists and objects: got {type(value).__name__}")


def check_text(text: str) -> str:
    """Returns the text if it can be encoded in UTF-8."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise OptionError(
                f"the text has a lone surrogate at character {error.start}: expected text that UTF-8 can encode"
            ) from error
    return text


def items(name: str, value: Any) -> list[Any] | None:
    """The items of a list, or None."""
    if value is None:
        return None
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise OptionError(f"{name} is {short_repr(value)}: expected a list or None")
    return list(value)


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as plain objects without null values."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        way = ""
        if isinstance(messages, str):
            way = '; a text is [{"role": "user", "content": text}]'
        elif isinstance(messages, Mapping):
            way = "; one message is a list with it"
        kind = type(messages).__name__
        raise OptionError(f"messages is {kind}: expected a list of objects with role and content{way}")
    if not messages:
        raise OptionError("messages is empty: expected at least one")
    checked = []
    for index, message in enumerate(messages):
        if isinstance(message, str | bytes):
            raise OptionError(f"message {index} is {short_repr(message)}: expected an object with role and content")
        try:
            value = plain(message)
        except OptionError as error:
            raise OptionError(f"message {index}: {error}") from error
        if not isinstance(value, dict) or not isinstance(value.get("role"), str):
            raise OptionError(f"message {index} has no role: expected an object with role and content")
        value = {key: item for key, item in value.items() if item is not None}
        content = value.get("content", "")
        # Templates silently omit content of other types.
        if not isinstance(content, str | dict) and not (
            isinstance(content, list) and all(isinstance(part, str | dict) for part in content)
        ):
            raise OptionError(
                f"the content of message {index} is {short_repr(content)}: expected a text, or a list of parts "
                "(for the result of a tool: its text)"
            )
        reasoning = next((value[key] for key in _REASONING if key in value), None)
        if reasoning is not None:
            value = {"thinking": reasoning, **value, "reasoning_content": reasoning}
        checked.append(value)
    return checked


@dataclass(frozen=True)
class Request:
    """The variables of a template."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None
    documents: list[Any] | None
    add_generation_prompt: bool
    continue_final_message: bool
    variables: dict[str, Any]


def render(source: str, request: Request, specials: Mapping[str, str]) -> str:
    """The text of a conversation.

    Raises:
        OptionError: the template rejects the messages, or the last message cannot be continued.
    """
    from .. import _core

    messages = request.messages
    final = ""
    if request.continue_final_message:
        if request.add_generation_prompt:
            raise OptionError("continue_final_message and add_generation_prompt exclude each other")
        messages, final = _tag_final(messages, source)
    variables = {
        **specials,
        **request.variables,
        "messages": messages,
        "tools": request.tools,
        "documents": request.documents,
        "add_generation_prompt": request.add_generation_prompt,
    }
    try:
        text = _core.render_template(source, json.dumps(_tag_integers(variables), ensure_ascii=False))
    except Error as error:
        raise OptionError(f"the chat template cannot be rendered: {error}") from error
    if request.continue_final_message:
        text = _cut_final(text, final)
    return text


def _tag_integers(value: Any) -> Any:
    """Whole numbers beyond 64 bits as the objects that the renderer takes for them."""
    if isinstance(value, dict):
        return {key: _tag_integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tag_integers(item) for item in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return {"\0integer": str(value)}
    return value


def _tag_final(messages: list[dict[str, Any]], source: str) -> tuple[list[dict[str, Any]], str]:
    last = dict(messages[-1])
    content = last.get("content")
    if isinstance(content, str):
        final = content
        last["content"] = content + _CONTINUE
    elif isinstance(content, list):
        blocks = [dict(block) if isinstance(block, dict) else block for block in content]
        texts = [block for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str)]
        if not texts:
            raise OptionError("continue_final_message: the last message has no text to continue")
        final = texts[-1]["text"]
        texts[-1]["text"] = final + _CONTINUE
        last["content"] = blocks
    else:
        raise OptionError("continue_final_message: the last message has no content to continue")
    return [*messages[:-1], last], final


def _cut_final(text: str, final: str) -> str:
    at = text.rfind(_CONTINUE.strip())
    if at < 0 or final.strip() not in text:
        raise OptionError("continue_final_message: the chat template omits or changes the last message")
    if text[at : at + len(_CONTINUE)] == _CONTINUE:
        return text[:at]
    return text[:at].rstrip()  # the template strips its messages


class ControlTokenGuard:
    """Inserts a private-use character into every text of a message that may become a control token.

    That is a spelled-out token, in any case (templates may change it), and a prefix of one at the end of a
    text, ignoring white space, since the next text may complete it. The mark follows the first character.
    """

    def __init__(self, tokens: Sequence[str], source: str, request: Request) -> None:
        # A character that does not occur in the template or in any of the untrusted texts.
        written = json.dumps([source, asdict(request)], ensure_ascii=False)
        self._mark = next(mark for mark in map(chr, range(0x10FFFD, 0x10FF00, -1)) if mark not in written)
        self._whole = re.compile(f"(?={'|'.join(re.escape(token) for token in tokens)})", re.IGNORECASE)
        self._prefixes = {token[:size].lower() for token in tokens for size in range(1, len(token))}
        self._longest = max(map(len, tokens))

    def text(self, text: str, *, open_end: bool = True) -> str:
        """A text with marks; ``open_end`` means that another text may follow it."""
        places = {found.start() for found in self._whole.finditer(text)}
        if open_end:
            end = len(text.rstrip())
            starts = range(max(end - self._longest + 1, 0), end)
            places |= {start for start in starts if text[start:end].lower() in self._prefixes}
        for place in sorted(places, reverse=True):
            text = text[: place + 1] + self._mark + text[place + 1 :]
        return text

    def request(self, request: Request) -> Request:
        """The request with marks; equal to ``request`` if nothing needs one."""
        return replace(
            request,
            messages=self.all(request.messages),
            tools=self.all(request.tools),
            documents=self.all(request.documents),
            variables=self.all(request.variables),
        )

    def all(self, value: Any) -> Any:
        """``value`` with marks in all of its strings."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key, open_end=False): self.all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.all(item) for item in value]
        return value

    def split(self, text: str) -> tuple[str, list[int]]:
        """The text without marks, and the positions of the marked characters."""
        parts = text.split(self._mark)
        positions = []
        length = 0
        for part in parts[:-1]:
            length += len(part)
            positions.append(length - 1)
        return "".join(parts), positions
