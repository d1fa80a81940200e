"""Contributions of input tokens to a label, a filled mask, a continuation or a translation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import explain as results
from ..errors import OptionError, short_repr
from ..explain import methods
from ..progress import Callback, Progress
from ..tokenizer import Encoding
from .arguments import choice, whole
from .base import DEFAULT_BATCH_TOKENS, LOGIT_BYTES, BaseModel
from .probabilities import log_softmax, logprobs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Values = NDArray[np.float64]

METHODS = ("occlusion", "shapley", "rollout")
REMOVALS = ("auto", "mask", "unk", "delete")


@dataclass(frozen=True)
class Options:
    """How to explain; `checked` validates them."""

    method: str = "occlusion"
    removal: str = "auto"
    samples: int = 16
    seed: int = 0
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    progress: bool | Callback | None = None

    def checked(self) -> Options:
        """These options, if they are valid."""
        choice("method", self.method, METHODS)
        choice("removal", self.removal, REMOVALS)
        if whole("samples", self.samples, 2, 1 << 20) % 2:
            raise OptionError(f"samples is {self.samples}: expected an even number, since samples come in pairs")
        whole("seed", self.seed, 0)
        whole("batch_tokens", self.batch_tokens)
        return self


@dataclass(frozen=True)
class Subject:
    """A prediction to explain.

    Attributes:
        texts: the text, or both texts of a pair.
        encoding: the input tokens.
        fixed: whether a token is always kept, for each token.
        target: the name of what is explained.
        evaluate: the values [inputs, targets] of some inputs with tokens removed, as their tokens and the original
            positions of these.
        rollout: the share of each input token in each target, [targets, tokens].
        target_ids: the tokens of a continuation or translation.
    """

    texts: tuple[str, ...]
    encoding: Encoding
    fixed: Sequence[bool]
    target: str
    evaluate: Callable[[list[Encoding], list[list[int]]], Values]
    rollout: Callable[[], Values]
    target_ids: Sequence[int] = ()


def explained(model: BaseModel, subject: Subject, options: Options, *, masks: bool) -> results.Explanation:
    """Explains a prediction; ``masks``: removed tokens are masked by default, if there is a mask token.

    Raises:
        OptionError: the text has no token that could be removed, or the tokenizer lacks the token to put instead.
    """
    encoding, tokenizer = subject.encoding, model.tokenizer
    value = baseline = errors = None
    if options.method == "rollout":
        contributions = subject.rollout()
    else:
        players = np.array([place for place, fixed in enumerate(subject.fixed) if not fixed], np.int64)
        if not len(players):
            raise OptionError("text has no tokens of its own: expected some text to attribute the prediction to")
        remove = _remover(model, subject, options.removal, masks, players)
        total = methods.evaluations(options.method, len(players), options.samples)
        with Progress(options.progress, total, "explaining") as bar:

            def evaluate(coalitions: NDArray[np.bool_]) -> Values:
                found = []
                for at in range(0, len(coalitions), 64):
                    inputs = [remove(row) for row in coalitions[at : at + 64]]
                    found.append(subject.evaluate([one for one, _ in inputs], [places for _, places in inputs]))
                    bar.advance(len(inputs))
                return np.concatenate(found)

            if options.method == "occlusion":
                result = methods.occlusion(evaluate, len(players))
            else:
                result = methods.shapley(evaluate, len(players), options.samples, options.seed)
        contributions = np.zeros((len(result.contributions), len(encoding)))
        contributions[:, players] = result.contributions
        value = float(result.value.sum())
        baseline = None if result.baseline is None else float(result.baseline.sum())
        if result.errors is not None:
            wide = np.zeros(len(encoding))
            wide[players] = result.errors
            errors = tuple(map(float, wide))
    # The share in several targets is their mean.
    scores = contributions.mean(axis=0) if options.method == "rollout" else contributions.sum(axis=0)
    parts = tuple(None if special else part for part, special in zip(encoding.sequences, encoding.special, strict=True))
    return results.Explanation(
        texts=subject.texts,
        method=options.method,
        target=subject.target,
        tokens=token_texts(model, subject.texts, encoding, parts),
        offsets=tuple(encoding.offsets),
        parts=parts,
        scores=tuple(map(float, scores)),
        value=value,
        baseline=baseline,
        errors=errors,
        target_tokens=tuple(tokenizer.decode([index]) for index in subject.target_ids),
        matrix=tuple(tuple(map(float, row)) for row in contributions) if len(subject.target_ids) else (),
    )


def token_texts(
    model: BaseModel, texts: Sequence[str], encoding: Encoding, parts: Sequence[int | None]
) -> tuple[str, ...]:
    """The text of each token: its characters, or for added ones and those without, its name in the vocabulary."""
    found = []
    for index, (start, end), part in zip(encoding.ids, encoding.offsets, parts, strict=True):
        text = "" if part is None else texts[part][start:end]
        found.append(text or model.tokenizer.id_to_token(index) or str(index))
    return tuple(found)


def _remover(
    model: BaseModel, subject: Subject, removal: str, masks: bool, players: NDArray[np.int64]
) -> Callable[[NDArray[np.bool_]], tuple[Encoding, list[int]]]:
    """A function from the players kept to the input without the others, and the original positions of its tokens."""
    tokenizer, encoding = model.tokenizer, subject.encoding
    if removal == "auto":
        removal = "mask" if masks and tokenizer.mask_token_id is not None else "delete"
    if removal != "delete":
        put = tokenizer.mask_token_id if removal == "mask" else tokenizer.unk_token_id
        if put is None:
            raise OptionError(
                f"removal is {removal!r}, but the tokenizer of {model.info().id} has no such token: use 'delete'"
            )

        def replaced(kept: NDArray[np.bool_]) -> tuple[Encoding, list[int]]:
            found = encoding.select(range(len(encoding)))
            for place in players[~kept]:
                found.ids[place] = put
            return found, list(range(len(encoding)))

        return replaced
    start = None
    if len(players) == len(encoding):
        start = _start_id(model)

    def deleted(kept: NDArray[np.bool_]) -> tuple[Encoding, list[int]]:
        gone = set(players[~kept].tolist())
        places = [place for place in range(len(encoding)) if place not in gone]
        if places:
            return encoding.select(places), places
        assert start is not None  # some tokens are fixed otherwise
        found = encoding.select([0])
        found.ids[0] = start
        return found, [0]

    return deleted


def _start_id(model: BaseModel) -> int:
    """What stands for an input without tokens: the start token, or the end token."""
    for name in ("bos_token_id", "eos_token_id"):
        for value in (model.config.get(name), getattr(model.tokenizer, name)):
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return value
    raise OptionError(
        f"removal is 'delete', but {model.info().id} has no start or end token to stand for an empty text: use 'unk'"
    )


def target_index(names: Sequence[str], target: Any, best: int) -> int:
    """The output with this name; None is the best."""
    if target is None:
        return best
    if not isinstance(target, str) or target not in names:
        shown = ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")
        raise OptionError(f"target is {short_repr(target)}: expected one of the labels {shown}")
    return list(names).index(target)


def token_name(model: BaseModel, index: int) -> str:
    """The text of a token; its name in the vocabulary if it has none."""
    return model.tokenizer.decode([index]) or model.tokenizer.id_to_token(index) or str(index)


def _rows_at_once(model: BaseModel) -> int:
    """The number of rows whose logits in float64 stay within `LOGIT_BYTES`."""
    stack = model.spec.decoder or model.spec.encoder
    return max(1, LOGIT_BYTES // (12 * (stack.stem.vocab_size if stack else 1)))


def logprobs(model: BaseModel, states: Floats, targets: Sequence[int]) -> Values:
    """The log-probability of a target after each final state [rows, hidden], with bounded memory."""
    size, found = _rows_at_once(model), []
    for at in range(0, len(states), size):
        rows = model.core.state_logits(np.ascontiguousarray(states[at : at + size]), True)
        found.append(logprobs_of(rows, targets[at : at + size]))
    return np.concatenate(found)


def lens(model: BaseModel, layers: list[Floats], tokens: tuple[str, ...], top: int) -> results.LogitLens:
    """The top tokens of each layer's states; the last are final states."""
    vocabulary = (model.spec.decoder or model.spec.encoder).stem.vocab_size  # type: ignore[union-attr]
    whole("top", top, 1, vocabulary)
    size = _rows_at_once(model)
    texts: dict[int, str] = {}

    def named(index: int) -> str:
        if index not in texts:
            texts[index] = token_name(model, index)
        return texts[index]

    found = []
    for number, states in enumerate(layers):
        rows: list[tuple[results.LensToken, ...]] = []
        for at in range(0, len(states), size):
            part = np.ascontiguousarray(states[at : at + size])
            values = log_softmax(model.core.state_logits(part, number == len(layers) - 1))
            for row in values:
                least = np.partition(row, -top)[-top]
                # Ties are in the order of ids.
                best = sorted(np.flatnonzero(row >= least), key=lambda index: (-row[index], index))[:top]
                rows.append(
                    tuple(results.LensToken(id=int(i), text=named(int(i)), logprob=float(row[i])) for i in best)
                )
        found.append(tuple(rows))
    return results.LogitLens(tokens=tokens, layers=tuple(found))
