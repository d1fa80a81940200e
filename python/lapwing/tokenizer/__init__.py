"""Text to ids and back: the tokenizer of a checkpoint, its special tokens and its chat templates."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .. import foreign
from ..errors import CheckpointError, OptionError, short_repr
from . import pieces, template
from .encoding import Encoding
from .files import build, guarded, read_config, special_tokens
from .marian import Marian
from .sentencepiece import SPACE
from .stream import StreamDecoder

__all__ = ["Encoding", "StreamDecoder", "Tokenizer"]


class Tokenizer:
    """The tokenizer of a checkpoint folder.

    ``bos_token``, ``eos_token`` ... are the texts of the special tokens, ``bos_token_id`` ... their ids; None
    if the checkpoint has none. ``chat_templates`` maps names to templates.

    ``lowercase`` puts texts into lower case before anything else, but not the special tokens in them.

    Raises:
        CheckpointError: the folder has no tokenizer, or it is damaged.
    """

    def __init__(self, folder: str | Path, *, lowercase: bool = False) -> None:
        folder = Path(folder)
        self.folder = folder
        self.config: dict[str, Any] = read_config(folder)
        self.specials = special_tokens(folder, self.config)
        marian = (folder / "source.spm").is_file() and not (folder / "tokenizer.json").is_file()
        self._marian = Marian(folder, self.config, self.specials) if marian else None
        self._backend = cast(Any, None if marian else build(folder, self.config, self.specials))
        if lowercase:
            self._lowercase()
        self._plain: Any = None
        self.chat_templates = template.find(folder, self.config)
        self._clean_up = False
        if self._marian is not None:
            self._special_ids = self._marian.special_ids
        else:
            added = self._backend.get_added_tokens_decoder()
            self._special_ids = frozenset(index for index, token in added.items() if token.special)
            self._added = frozenset(added)
            self._writing = pieces.Writing.of(self._backend.decoder)
            self._control = [token.content for token in added.values() if token.special]
            kind = type(self._backend.model).__name__
            self._clean_up = bool(self.config.get("clean_up_tokenization_spaces")) and kind != "BPE"

    bos_token: str | None
    bos_token_id: int | None
    cls_token: str | None
    cls_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    mask_token: str | None
    mask_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None
    sep_token: str | None
    sep_token_id: int | None
    unk_token: str | None
    unk_token_id: int | None

    if not TYPE_CHECKING:  # a type checker would accept any name

        def __getattr__(self, name: str) -> Any:
            key = name.removesuffix("_id")
            if key.endswith("_token") and not name.startswith("_"):
                text = self.specials.get(key)
                if name == key or text is None:
                    return text
                return self.token_to_id(text)
            if name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            raise foreign.missing_attribute(self, name, table=foreign.TOKENIZER)

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.folder)!r}, vocab_size={self.vocab_size})"

    def _lowercase(self) -> None:
        from tokenizers import normalizers

        if self._backend is None:
            raise CheckpointError(f"{self.folder}: do_lower_case is set, which Marian's tokenizer does not support")
        first, found = normalizers.Lowercase(), self._backend.normalizer
        self._backend.normalizer = first if found is None else normalizers.Sequence([first, found])

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including added ones."""
        if self._marian is not None:
            return self._marian.vocab_size()
        return int(self._backend.get_vocab_size(True))

    @property
    def max_length(self) -> int | None:
        """``model_max_length`` of the configuration, or None if it is a placeholder."""
        value = self.config.get("model_max_length")
        if isinstance(value, int | float) and 0 < value < 1 << 40:
            return int(value)
        return None

    @property
    def truncation_side(self) -> str:
        """The side at which a text loses the tokens that are too many: "right", or "left"."""
        side = self.config.get("truncation_side") or "right"
        if side not in ("left", "right"):
            raise CheckpointError(
                f"tokenizer_config.json has truncation_side {short_repr(side)}: expected left or right"
            )
        return str(side)

    @property
    def word_pieces(self) -> bool:
        """Whether continuation pieces are marked in their text (WordPiece)."""
        return self._backend is not None and bool(getattr(self._backend.model, "continuing_subword_prefix", None))

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that ``skip_special_tokens`` omits."""
        return self._special_ids

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, by its exact text in the vocabulary."""
        if not isinstance(token, str):
            raise OptionError(f"a token is {short_repr(token)}: expected a text")
        if self._marian is not None:
            return self._marian.token_to_id(token)
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def id_to_token(self, index: int) -> str | None:
        """The text of an id in the vocabulary."""
        try:
            index = operator.index(index)
        except TypeError as error:
            raise OptionError(f"an id is {short_repr(index)}: expected a whole number") from error
        if self._marian is not None:
            return self._marian.id_to_token(index)
        try:
            found = self._backend.id_to_token(index)
        except OverflowError:
            return None
        return None if found is None else str(found)

    def token_bytes(self, index: int) -> bytes:
        """The bytes that a token adds to a text: a piece of a character for a byte token, the space before a word
        that starts with one; for a special token, its name."""
        text = self.id_to_token(index)
        if text is None:
            return b""
        if self._marian is not None or index in self._added:
            plain = text if self._marian is None or index in self._special_ids else text.replace(SPACE, " ")
            return plain.encode("utf-8", "replace")
        return pieces.to_bytes(text, self._writing)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text, with the special tokens that the checkpoint adds."""
        return self.encoding(text, add_special_tokens=add_special_tokens).ids

    def encode_pair(self, text: str, pair: str, *, add_special_tokens: bool = True) -> Encoding:
        """Two texts as one sequence, such as a question and its context."""
        return self.encoding(text, pair, add_special_tokens=add_special_tokens)

    def encoding(
        self,
        text: str,
        pair: str | None = None,
        *,
        add_special_tokens: bool = True,
        target: bool = False,
    ) -> Encoding:
        """Ids, segments and offsets of a text or pair. ``target`` uses the target vocabulary (Marian)."""
        for value in (text,) if pair is None else (text, pair):
            if not isinstance(value, str):
                raise OptionError(f"a text is {short_repr(value)}: expected str")
            template.check_text(value)
        if self._marian is not None:
            return self._marian.encode(text, pair, add_special_tokens, target)
        return self._encode(self._backend, text, pair, add_special_tokens)

    def _encode(self, backend: Any, text: str, pair: str | None, add_special_tokens: bool) -> Encoding:
        found = guarded(
            "the text cannot be encoded",
            lambda: backend.encode(text, pair, add_special_tokens=add_special_tokens),
        )
        return Encoding(
            found.ids,
            found.type_ids,
            found.offsets,
            found.sequence_ids,
            found.special_tokens_mask,
            found.word_ids,
        )

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """The ids of many texts."""
        if isinstance(texts, str | bytes):
            raise OptionError(f"texts is one text, {short_repr(texts)}: expected a list of texts; encode takes one")
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ids; invalid UTF-8 becomes U+FFFD."""
        if isinstance(ids, int):
            ids = [ids]
        if isinstance(ids, str | bytes):
            raise OptionError(f"ids are {short_repr(ids)}: expected a list of whole numbers")
        try:
            values = [operator.index(index) for index in ids]
        except TypeError as error:
            raise OptionError(f"ids cannot be decoded: {error}: expected a list of whole numbers") from error
        if any(not 0 <= index < 1 << 32 for index in values):
            raise OptionError("ids contain a number outside 0 to 4294967295: expected token ids")
        if self._marian is not None:
            return self._marian.decode(values, skip_special_tokens)
        text = guarded(
            "the ids cannot be decoded",
            lambda: self._backend.decode(values, skip_special_tokens=skip_special_tokens),
        )
        return clean_up(text) if self._clean_up else str(text)

    def language_prefixes(self) -> list[str]:
        """Target language tokens such as ``>>fra<<`` (Marian)."""
        marian = self._marian
        vocab = marian.vocab() if marian is not None else self._backend.get_vocab(True)
        return [text for text in vocab if text.startswith(">>") and text.endswith("<<")]

    def decode_pieces(self, ids: Iterable[int]) -> str:
        """The text of ids according to the target's SentencePiece model alone (Marian); otherwise as
        `decode`."""
        if self._marian is not None:
            return self._marian.decode_pieces(list(ids))
        return self.decode(ids)

    def stream(self, *, skip_special_tokens: bool = True) -> StreamDecoder:
        """An incremental decoder, which returns only complete characters."""

        def decode(ids: Sequence[int]) -> str:
            return self.decode(ids, skip_special_tokens=skip_special_tokens)

        skip = self._special_ids if skip_special_tokens else frozenset()
        return StreamDecoder(decode, self.id_to_token, skip, self._clean_up)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation, rendered with the checkpoint's template.

        Args:
            messages: objects with ``role`` and ``content`` (and other keys of the template).
            add_generation_prompt: appends the header of the assistant's next message.
            tools: JSON schemas of functions, or Python functions with type hints and a docstring.
            documents: objects with ``title`` and ``text``, for retrieval templates.
            continue_final_message: leaves the last message open, so that the model continues it.
            chat_template: name of one of ``chat_templates``, or the text of a template.
            variables: additional variables of the template, such as ``enable_thinking``.
        """
        tools, documents = template.items("tools", tools), template.items("documents", documents)
        request = self._request(messages, add_generation_prompt, tools, documents, continue_final_message, variables)
        return template.render(self._template(chat_template, tools), request, self.specials)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        allow_control_tokens: bool = False,
        **variables: Any,
    ) -> list[int]:
        """The ids of a conversation.

        Control tokens spelled out in messages stay text unless ``allow_control_tokens``; only the template
        itself produces control tokens.
        """
        tools, documents = template.items("tools", tools), template.items("documents", documents)
        source = self._template(chat_template, tools)
        request = self._request(messages, add_generation_prompt, tools, documents, continue_final_message, variables)
        tokens = [] if allow_control_tokens or self._marian is not None else self._control
        guard = template.ControlTokenGuard(tokens, source, request) if tokens else None
        marked = request if guard is None else guard.request(request)
        text = template.render(source, marked, self.specials)
        if guard is None or marked == request:
            return self.encode(text, add_special_tokens=False)
        return self._encode_spelled(*guard.split(text), sorted(tokens, key=len, reverse=True))

    def _encode_spelled(self, text: str, spelled: Sequence[int], tokens: Sequence[str]) -> list[int]:
        """Encodes ``text``; the control tokens at the positions ``spelled`` stay text.

        Spans between the template's control tokens are encoded by a copy of the backend without control
        tokens if they contain a spelled-out one, otherwise as usual.
        """
        keep = set(spelled)
        spans: list[tuple[int, int, bool]] = []
        start = at = 0
        dirty = False
        while at < len(text):
            token = next((token for token in tokens if text.startswith(token, at)), None)
            if token is None:
                at += 1
            elif at in keep:
                dirty = True
                at += len(token)
            else:
                spans.append((start, at, dirty))
                spans.append((at, at + len(token), False))
                at += len(token)
                start, dirty = at, False
        spans.append((start, at, dirty))
        ids: list[int] = []
        clean_from = 0
        for first, last, plain in spans:
            if plain:
                ids += self.encode(text[clean_from:first], add_special_tokens=False)
                ids += self._encode(self._plain_backend(first == 0), text[first:last], None, False).ids
                clean_from = last
        ids += self.encode(text[clean_from:], add_special_tokens=False)
        return ids

    def _plain_backend(self, first: bool) -> Any:
        if self._plain is None:
            from tokenizers import Tokenizer as Backend

            description = json.loads(self._backend.to_str())
            tokens = description.get("added_tokens", [])
            description["added_tokens"] = [token for token in tokens if not token["special"]]
            description["post_processor"] = None
            later = json.dumps(description).replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
            self._plain = (Backend.from_str(json.dumps(description)), Backend.from_str(later))
        return self._plain[0 if first else 1]

    def _template(self, name: str | None, tools: Sequence[Any] | None) -> str:
        return template.choose(self.chat_templates, name, bool(tools))

    def _request(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
        tools: Sequence[Any] | None,
        documents: Sequence[Any] | None,
        continue_final_message: bool,
        variables: Mapping[str, Any],
    ) -> template.Request:
        from .schema import describe

        return template.Request(
            messages=template.check_messages(messages),
            tools=None if tools is None else [template.plain(describe(tool)) for tool in tools],
            documents=None if documents is None else [template.plain(document) for document in documents],
            add_generation_prompt=bool(add_generation_prompt),
            continue_final_message=bool(continue_final_message),
            variables={key: template.plain(value) for key, value in variables.items()},
        )


foreign.check_methods(Tokenizer)


def clean_up(text: str) -> str:
    """Removes the spaces before punctuation and contractions that WordPiece decoding leaves."""
    for found, put in (
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ):
        text = text.replace(found, put)
    return text
