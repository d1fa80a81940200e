"""Results of the models: frozen dataclasses of plain values, nothing lazy.

Ids are token ids without the prompt. Offsets are character positions in the caller's text; ends are
exclusive. Scores and probabilities are Python floats; arrays are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .foreign import missing_result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class Result:
    """The base of all results: names the right attribute for those of other libraries."""

    if not TYPE_CHECKING:  # a type checker would otherwise accept any attribute

        def __getattr__(self, name: str) -> Any:
            kind = type(self)
            more = "" if name.startswith("_") else missing_result(kind, name)
            raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}{more}", name=name, obj=self)

        def __getitem__(self, key: Any) -> Any:
            kind = type(self)
            raise TypeError(f"{kind.__name__!r} object has no items, such as {key!r}{missing_result(kind, key)}")


@dataclass(frozen=True, kw_only=True)
class TokenLogprob(Result):
    """One token and its natural log-probability before temperature and filters.

    ``bytes`` are the bytes that the token adds to the text: joined, they are the UTF-8 of the whole text, but for a
    space at its start and for special tokens, which the text omits. ``text`` is their text; a byte that is not a whole
    character is written as ``\\xe6``. ``top`` holds the most probable tokens at this step, best first, as (id, text,
    log-probability).
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    bytes: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Hypothesis(Result):
    """One candidate of a beam search or one of several samples.

    ``score`` is the sum of log-probabilities divided by the number of generated tokens to the power of the
    length penalty. A beam search sums them after the logits processors (penalties, forbidden tokens); samples
    sum the model's own. ``alignment``, on request, is the attention of each new token to the tokens of the
    source, [new tokens, source tokens]: the cross-attention of the last layer, averaged over heads.
    """

    ids: tuple[int, ...]
    score: float
    text: str | None = None
    finish_reason: str = "stop"
    logprobs: tuple[TokenLogprob, ...] | None = None
    alignment: Floats | None = field(default=None, compare=False)

    def __iter__(self) -> Iterator[Any]:
        """Unpacks as ``ids, score``."""
        return iter((self.ids, self.score))


@dataclass(frozen=True, kw_only=True)
class Timed(Result):
    """The counts and the speed of a result.

    ``prompt_tokens`` are the tokens of the prompt, or of the source; ``seconds`` is the time of the whole call,
    whose prompts are computed together. Results that differ in time alone are equal.
    """

    ids: tuple[int, ...]
    prompt_tokens: int = 0
    seconds: float = field(default=0.0, compare=False)

    @property
    def generated_tokens(self) -> int:
        """The number of new tokens."""
        return len(self.ids)

    @property
    def tokens_per_second(self) -> float:
        """New tokens of this result per second of the call, the time of the prompt included."""
        return len(self.ids) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Generation(Timed):
    """A generated text. ``finish_reason`` is "stop" (an end token, a stop string or ``stopping``), "length" or
    "time"."""

    text: str
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    alternatives: tuple[Hypothesis, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Chunk(Result):
    """A piece of a stream. The concatenated texts of all chunks are the whole text.

    ``finish_reason`` is None until the last chunk; ``index`` is the prompt's position in the list.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    index: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Translation(Timed):
    """A translated, summarized or otherwise generated text: the best of its ``hypotheses``."""

    text: str
    score: float
    finish_reason: str
    hypotheses: tuple[Hypothesis, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Score(Result):
    """Log-probabilities of a given text: of each token given all before it.

    The first token of a decoder has none; the target of an encoder-decoder has one for each token, given the
    source. ``total`` is their sum and ``perplexity`` exp(-total / number of scored tokens), or 1 without scored
    tokens.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    total: float
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class EncoderOutput(Result):
    """``last_hidden_state`` [tokens, hidden] and, where the model has a pooler, ``pooler_output`` [hidden].

    ``hidden_states`` (the embedding, then each layer's output) and ``attentions`` ([heads, tokens, tokens]
    per layer) are set on request.
    """

    ids: tuple[int, ...]
    last_hidden_state: Floats
    pooler_output: Floats | None = None
    hidden_states: tuple[Floats, ...] | None = None
    attentions: tuple[Floats, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Label(Result):
    """A label and its probability (or, on request, its raw logit)."""

    label: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Classification(Result):
    """The best label of a text, and all or the top k ``labels``, best first."""

    label: str
    score: float
    labels: tuple[Label, ...]


@dataclass(frozen=True, kw_only=True)
class Tag(Result):
    """A token or a group of tokens with a label. ``start`` and ``end`` are character offsets in the text."""

    label: str
    score: float
    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Answer(Result):
    """A span of the context. ``start`` and ``end`` are character offsets in it; an empty text means no
    answer.

    ``no_answer_score`` is the lowest probability of "no answer" over all windows.
    """

    text: str
    score: float
    start: int
    end: int
    no_answer_score: float
    alternatives: tuple[Answer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fill(Result):
    """A candidate for a masked token: its text, its probability, and the whole text with it."""

    token: str
    id: int
    score: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Ranked(Result):
    """A document and its position in the input list. A higher score means more relevant."""

    index: int
    score: float
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseEmbedding(Result):
    """The terms of a text: ids of the vocabulary (int64, ascending) and their weights (float32, above zero)."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Hit(Result):
    """An entry of a corpus that a search found, by its position."""

    index: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Pair(Result):
    """Two texts by their positions, the first before the second, and their similarity."""

    score: float
    first: int
    second: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo(Result):
    """Facts about a loaded model. ``weight_types`` maps the name of a type to the bytes stored in it;
    ``kv`` is the type of cached keys and values."""

    id: str
    kind: str
    architecture: str
    task: str | None
    parameters: int
    bytes: int
    weight_types: dict[str, int]
    activations: str
    kv: str
    isa: str
    threads: int
    vocab_size: int
    max_length: int | None
