"""Options of generation: what a call may ask, completed by the checkpoint's defaults, and the JSON for Rust."""

from __future__ import annotations

import inspect
import math
import secrets
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import numpy as np

from ..errors import OptionError, short_repr
from ..foreign import unknown_option
from .arguments import BIG, flag, listed, number
from .generation_config import REFUSED, Defaults

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .generator import TextGenerator

    Processor = Callable[[list[int], NDArray[np.float32]], NDArray[np.float32]]
    Stopping = Callable[[list[int], str], bool]

DEFAULT_MAX_TOKENS = 256
"""Maximum number of new tokens if neither the call nor the checkpoint sets one."""


class SingleOptions(TypedDict, total=False):
    """The options of `GenerateOptions` that give one result per prompt."""

    max_tokens: int | None
    min_tokens: int | None
    ignore_eos: bool | None
    max_time: float | None
    stop: str | Sequence[str] | None
    stop_ids: Sequence[int] | None
    stopping: Stopping | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    top_h: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    seed: int | None
    beams: int | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    repetition_penalty: float | None
    encoder_repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    logit_bias: Mapping[int, float] | None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[tuple[Sequence[int], float]] | None
    bad_words: Sequence[str | Sequence[int]] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    forced_bos: int | None
    forced_eos: int | Sequence[int] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    remove_invalid_values: bool | None
    renormalize_logits: bool | None
    processor: Processor | None
    prompt_lookup: int | None
    draft_model: TextGenerator | None
    draft_tokens: int | None
    logprobs: bool | int | None


class GenerateOptions(SingleOptions, total=False):
    """Options of every generating method, all optional.

    Length: ``max_tokens`` and ``min_tokens`` count new tokens; ``ignore_eos`` continues past end tokens;
    ``stop`` is one or more texts at which generation ends (the text itself is removed); ``stop_ids`` are
    additional end tokens; ``stopping`` is a function of the new ids and the new text so far that returns True
    to end there (called after each token of each sequence; not with beams); no new token starts after
    ``max_time`` seconds.

    Sampling: ``temperature`` 0 is greedy; above 0, tokens are sampled after the filters ``top_k``, ``top_p``
    (Holtzman et al. 2019), ``min_p`` (Nguyen et al. 2024), ``typical_p`` (Meister et al. 2022),
    ``epsilon_cutoff`` and ``eta_cutoff`` (Hewitt et al. 2022) and ``top_h`` (Potraghloo et al. 2025);
    ``seed`` makes samples reproducible; ``n`` is the number of texts, sampled independently.

    Search: ``beams``, ``length_penalty``, ``early_stopping`` (False, True or "never") as in transformers;
    ``num_hypotheses`` is the number of hypotheses to return.

    Logits processors: ``repetition_penalty`` (Keskar et al. 2019), ``encoder_repetition_penalty``,
    ``presence_penalty``, ``frequency_penalty``, ``no_repeat_ngram_size``, ``encoder_no_repeat_ngram_size``,
    ``logit_bias`` (mapping of ids to added values), ``sequence_bias`` (id sequences with a value that is
    added to the logit of the last id when it would follow the others), ``bad_words`` (texts or lists of ids),
    ``suppress_tokens`` (ids), ``begin_suppress_tokens`` (ids, for the first new token), ``forced_bos`` (id,
    encoder-decoders only), ``forced_eos`` (ids), ``processor`` (a function of the ids so far and the logits
    [vocab] that returns new logits; slow, because it is called at each step of each sequence),
    ``exponential_decay_length_penalty`` (a start and a factor: after that many new tokens the logit of the
    end token grows exponentially), ``remove_invalid_values`` (replaces non-finite logits by finite ones),
    ``renormalize_logits`` (normalizes the scores of beams after the other processors).

    Speculative decoding, without effect on the result: ``prompt_lookup`` is the number of tokens to guess
    from the text after an earlier occurrence of the last tokens, in the text or the source (0: none);
    ``draft_model`` is a smaller `TextGenerator` with the same vocabulary that guesses ``draft_tokens`` (4) at
    a time.

    Results: ``logprobs`` is True, or the number of alternatives to report for each token.
    """

    n: int | None
    num_hypotheses: int | None


Method = TypeVar("Method", bound="Callable[..., Any]")


def spelled_out(method: Method) -> Method:
    """Lets ``help`` show every option of a method that takes those of `GenerateOptions`."""
    signature = inspect.signature(method)
    named = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    listed = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=getattr(kind, "__forward_arg__", kind)
        )
        for name, kind in GenerateOptions.__annotations__.items()
    ]
    method.__signature__ = signature.replace(parameters=[*named, *listed])  # type: ignore[attr-defined]
    text = inspect.cleandoc(GenerateOptions.__doc__ or "").partition("\n\n")[2]
    method.__doc__ = f"{inspect.cleandoc(method.__doc__ or '')}\n\nOptions:\n{textwrap.indent(text, '    ')}"
    return method


@dataclass(frozen=True)
class Request:
    """The validated options of one call, except those that depend on the length of a prompt."""

    core: dict[str, Any]
    """Fields of the JSON for Rust."""
    max_tokens: int | None
    """Maximum number of new tokens, if set."""
    max_length: int | None
    """Maximum length including the prompt (or the decoder's start token), if set."""
    explicit_length: bool
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    processor: Processor | None = field(default=None, compare=False)
    stopping: Stopping | None = field(default=None, compare=False)
    draft: Any = field(default=None, compare=False)
    """The core of the draft model."""

    @property
    def beams(self) -> int:
        return int(self.core["beams"])

    @property
    def samples(self) -> int:
        return int(self.core["samples"])


_SEARCH = {"length_penalty": 1, "early_stopping": False, "renormalize_logits": False}
"""Options that only apply to beam search, with their neutral values."""
_NEUTRAL = {
    "top_k": (0,),
    "top_p": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "top_h": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
_BELOW_ONE = math.nextafter(1.0, 0.0)


_RANGES: dict[str, tuple[str, float, float, bool, bool, Any]] = {
    # option: (key of generation_config.json, low, high, integer, low excluded, neutral value)
    "top_k": ("top_k", 0, BIG, True, False, 0),
    "top_p": ("top_p", 0, 1, False, True, 1.0),
    "min_p": ("min_p", 0, 1, False, False, 0.0),
    "typical_p": ("typical_p", 0, 1, False, True, 1.0),
    "top_h": ("top_h", 0, 1, False, False, 0.0),
    "epsilon_cutoff": ("epsilon_cutoff", 0, _BELOW_ONE, False, False, 0.0),
    "eta_cutoff": ("eta_cutoff", 0, _BELOW_ONE, False, False, 0.0),
    "repetition_penalty": ("repetition_penalty", 1e-3, 1e3, False, False, 1.0),
    "encoder_repetition_penalty": ("encoder_repetition_penalty", 1e-3, 1e3, False, False, 1.0),
    "presence_penalty": ("", -100, 100, False, False, 0.0),
    "frequency_penalty": ("", -100, 100, False, False, 0.0),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", 0, BIG, True, False, 0),
    "encoder_no_repeat_ngram_size": ("encoder_no_repeat_ngram_size", 0, BIG, True, False, 0),
    "length_penalty": ("length_penalty", -100, 100, False, False, 1.0),
}


def resolve(
    defaults: Defaults,
    options: Mapping[str, Any],
    *,
    encode: Callable[[str], list[list[int]]],
    where: str,
) -> Request:
    """Validates a call's options, fills in the checkpoint's defaults, and builds the JSON for Rust.

    If the checkpoint samples by default and the call sets temperature to 0, the checkpoint's penalties do not
    apply unless the call sets them.

    ``encode`` returns the ids of a forbidden text, for each way to tokenize it; ``where`` names the method.

    Raises:
        OptionError: an unknown option, a value out of range, or options that exclude each other.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in GenerateOptions.__annotations__:
            raise unknown_option(where, name, options[name], GenerateOptions.__annotations__)
    _refuse(defaults)
    core: dict[str, Any] = {}
    # The penalties of a checkpoint that samples are tuned for sampling: a greedy call ignores them.
    bare = bool(defaults.get("do_sample")) and given.get("temperature") == 0
    for name, (key, low, high, whole, open_low, neutral) in _RANGES.items():
        value = given.get(name)
        what = name
        if value is None and key and not bare and defaults.get(key) is not None:
            value, what = defaults.get(key), f"{key} of {defaults.source}"
        if value is None:
            value = neutral
        core[name] = number(what, value, low, high, whole=whole, open_low=open_low)
    _choice(core, given, defaults)
    _tokens(core, given, defaults, encode)
    early = given.get("early_stopping", defaults.get("early_stopping"))
    if not (early is None or isinstance(early, bool) or (isinstance(early, str) and early == "never")):
        raise OptionError(f"early_stopping is {short_repr(early)}: expected False, True or 'never'")
    given_names = [name for name, neutral in _SEARCH.items() if given.get(name, neutral) != neutral]
    if given_names and core["beams"] == 1:
        raise OptionError(f"{given_names[0]} applies only to beam search: set beams above 1, or remove it")
    core["early_stopping"] = early or False
    logprobs = given.get("logprobs")
    if isinstance(logprobs, bool):
        logprobs = 0 if logprobs else None
    if logprobs is not None:
        logprobs = number("logprobs", logprobs, 0, 1000, whole=True)
    # Translations and samples always carry a score.
    scored = logprobs is not None or defaults.encoder_decoder or core["samples"] > 1
    core["logprobs"], core["top_logprobs"] = scored, logprobs or 0
    draft = _speculation(core, given)
    max_tokens, max_length = _lengths(core, given, defaults)
    processor = given.get("processor")
    if processor is not None and not callable(processor):
        raise OptionError(f"processor is {short_repr(processor)}: expected a function")
    stopping = given.get("stopping")
    if stopping is not None and not callable(stopping):
        raise OptionError(
            f"stopping is {short_repr(stopping)}: expected a function of the new ids and the new text; texts that end "
            "a generation are the option stop"
        )
    if stopping is not None and core["beams"] > 1:
        raise OptionError(f"stopping is set with beams {core['beams']}: set beams to 1, or remove it")
    return Request(
        core=core,
        max_tokens=max_tokens,
        max_length=max_length,
        explicit_length="max_tokens" in given,
        stop=_stops(given.get("stop", defaults.get("stop_strings"))),
        logprobs=logprobs,
        processor=processor,
        stopping=stopping,
        draft=draft,
    )


def _speculation(core: dict[str, Any], given: Mapping[str, Any]) -> Any:
    """Resolves the options of speculative decoding; returns the compiled draft model, if any."""
    for name, low, value in (("prompt_lookup", 0, 0), ("draft_tokens", 1, 4)):
        core[name] = number(name, given.get(name, value), low, 64, whole=True)
    draft = given.get("draft_model")
    if draft is None and "draft_tokens" in given:
        raise OptionError("draft_tokens is set without draft_model: set both, or remove it")
    if draft is not None and getattr(draft, "kind", None) != "decoder":
        raise OptionError(f"draft_model is {short_repr(draft)}: expected a TextGenerator")
    named = "draft_model" if draft is not None else "prompt_lookup" if core["prompt_lookup"] else None
    if named is not None and core["beams"] > 1:
        raise OptionError(
            f"{named} is set with beams {core['beams']}: speculative decoding does not support beam search; "
            "set beams to 1"
        )
    return None if draft is None else draft.core


def _refuse(defaults: Defaults) -> None:
    for key, neutral in REFUSED.items():
        value = defaults.get(key)
        if value not in neutral:
            raise OptionError(
                f"{defaults.source} sets {key} to {short_repr(value)}, which is not supported: "
                f"load the model with generation_config={{{key!r}: None}} to remove it"
            )


def _choice(core: dict[str, Any], given: Mapping[str, Any], defaults: Defaults) -> None:
    """Resolves how tokens are chosen: greedy, sampling or beam search."""
    beams = given.get("beams", defaults.get("num_beams") or 1)
    core["beams"] = number("beams", beams, 1, 256, whole=True)
    if "temperature" in given:
        core["temperature"] = number("temperature", given["temperature"], 0, 1e6)
        if core["temperature"] > 0 and core["beams"] > 1:
            if "beams" in given:
                raise OptionError(
                    f"temperature is {core['temperature']:g} with beams {core['beams']}: beam search does not sample; "
                    "set temperature to 0, or beams to 1"
                )
            core["beams"] = 1
    elif defaults.get("do_sample") and core["beams"] == 1:
        value = defaults.get("temperature")
        what = f"temperature of {defaults.source}"
        core["temperature"] = 1.0 if value is None else number(what, value, 0, 1e6)
        if "top_k" not in given and defaults.get("top_k") is None:
            core["top_k"] = 50  # transformers' default for checkpoints that sample
    elif defaults.get("do_sample") and "beams" not in given:
        raise OptionError(
            f"{defaults.source} requests beam search with sampling, which is not supported: set temperature or beams"
        )
    else:
        core["temperature"] = 0.0
        given_names = [name for name, neutral in _NEUTRAL.items() if given.get(name, neutral[0]) not in neutral]
        if given_names and core["beams"] == 1:
            raise OptionError(
                f"{', '.join(given_names)} filters sampled tokens, but decoding is greedy: set temperature above 0"
            )
    if core["temperature"] == 0:
        core.update({name: _RANGES[name][5] for name in _NEUTRAL})
    several = defaults.get("num_return_sequences") or 1
    beam_search = core["beams"] > 1
    hypotheses = given.get("num_hypotheses", several if beam_search else 1)
    samples = given.get("n", 1 if beam_search or core["temperature"] == 0 else several)
    core["num_hypotheses"] = number("num_hypotheses", hypotheses, 1, 256, whole=True)
    core["samples"] = number("n", samples, 1, 1024, whole=True)
    if core["num_hypotheses"] > core["beams"]:
        raise OptionError(
            f"num_hypotheses is {core['num_hypotheses']} with beams {core['beams']}: expected at most one per beam"
        )
    if core["samples"] > 1 and core["temperature"] == 0:
        way = "set num_hypotheses" if beam_search else "set temperature above 0"
        raise OptionError(f"n is {core['samples']}, but without sampling all texts would be equal: {way}")
    seed = given.get("seed")
    # Without a seed every call samples anew.
    core["seed"] = secrets.randbits(64) if seed is None else number("seed", seed, 0, (1 << 64) - 1, whole=True)


def _tokens(
    core: dict[str, Any],
    given: Mapping[str, Any],
    defaults: Defaults,
    encode: Callable[[str], list[list[int]]],
) -> None:
    core["ignore_eos"] = flag("ignore_eos", given.get("ignore_eos", False))
    core["eos_ids"] = list(dict.fromkeys(defaults.end_ids))
    core["stop_ids"] = list(dict.fromkeys([*defaults.end_ids, *_ids("stop_ids", given.get("stop_ids"))]))
    bias = given.get("logit_bias", {})
    if not isinstance(bias, Mapping):
        raise OptionError(f"logit_bias is {short_repr(bias)}: expected a mapping of ids to numbers")
    core["logit_bias"] = {
        str(_ids("logit_bias", [index])[0]): number("logit_bias", value, -1e9, 1e9) for index, value in bias.items()
    }
    core["sequence_bias"] = _sequence_bias(*_named("sequence_bias", given, defaults))
    words: list[list[int]] = []
    for word in _items("bad_words", given.get("bad_words", defaults.get("bad_words_ids"))):
        found = encode(word) if isinstance(word, str) else [_ids("bad_words", word)]
        if not all(found):
            raise OptionError("bad_words holds an empty text: expected at least one token")
        words += found
    # As in transformers: min_tokens forbids the end token, bad_words does not.
    ends = [[index] for index in core["eos_ids"]]
    core["bad_words_ids"] = [word for word in words if word not in ends]
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        core[name] = _ids(name, given.get(name, defaults.get(name)))
    if "forced_bos" in given and not defaults.encoder_decoder:
        raise OptionError("forced_bos applies only to encoder-decoders: add the token to the prompt instead")
    first = _ids("forced_bos", given.get("forced_bos", defaults.get("forced_bos_token_id")))
    if len(first) > 1:
        raise OptionError(f"forced_bos is {first}: expected one id")
    core["forced_bos_token_id"] = first[0] if first else None
    core["forced_eos_token_ids"] = _ids("forced_eos", given.get("forced_eos", defaults.get("forced_eos_token_id")))
    core["exponential_decay_length_penalty"] = _decay(*_named("exponential_decay_length_penalty", given, defaults))
    for name in ("remove_invalid_values", "renormalize_logits"):
        what, value = _named(name, given, defaults)
        core[name] = value is not None and flag(what, value)
    what, seconds = _named("max_time", given, defaults)
    core["max_time"] = None if seconds is None else number(what, seconds, 0, BIG)


def _named(name: str, given: Mapping[str, Any], defaults: Defaults) -> tuple[str, Any]:
    """An option that the checkpoint may set under the same name: its name for errors, and its value."""
    if name in given:
        return name, given[name]
    return f"{name} of {defaults.source}", defaults.get(name)


def _ids(name: str, value: Any) -> list[int]:
    if value is None:
        return []
    items = [value] if isinstance(value, int | np.integer) else listed(name, value, "an id or a list of ids")
    found = []
    for index in items:
        if not isinstance(index, int | np.integer) or isinstance(index, bool) or not 0 <= index < 1 << 31:
            raise OptionError(f"{name} holds {short_repr(index)}: expected ids from 0")
        found.append(int(index))
    return found


def _items(name: str, value: Any) -> list[Any]:
    return [] if value is None else listed(name, value, "a list")


def _sequence_bias(name: str, value: Any) -> list[list[Any]]:
    """In the format of transformers: a list of [ids, bias], or an object whose keys are ids or tuples of
    ids."""
    pairs = list(value.items()) if isinstance(value, Mapping) else _items(name, value)
    found = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise OptionError(f"{name} holds {short_repr(pair)}: expected [ids, bias]")
        ids, bias = pair
        if isinstance(ids, str):
            texts = ids.strip("()[] ").replace(",", " ").split()
            ids = [int(text) if text.isdigit() else text for text in texts]
        found.append([_ids(name, ids), number(name, bias, -1e9, 1e9)])
        if not found[-1][0]:
            raise OptionError(f"{name} holds an empty sequence: expected at least one id")
    return found


def _decay(name: str, value: Any) -> list[Any] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 2:
        raise OptionError(f"{name} is {short_repr(value)}: expected a start and a factor")
    return [number(name, value[0], 0, BIG, whole=True), number(name, value[1], 1e-3, 1e3)]


def _lengths(core: dict[str, Any], given: Mapping[str, Any], defaults: Defaults) -> tuple[int | None, int | None]:
    core["min_tokens"] = core["min_length"] = 0
    if "min_tokens" in given:
        core["min_tokens"] = number("min_tokens", given["min_tokens"], 0, BIG, whole=True)
    elif defaults.get("min_new_tokens") is not None:
        what = f"min_new_tokens of {defaults.source}"
        core["min_tokens"] = number(what, defaults.get("min_new_tokens"), 0, BIG, whole=True)
    elif defaults.get("min_length"):
        what = f"min_length of {defaults.source}"
        core["min_length"] = number(what, defaults.get("min_length"), 0, BIG, whole=True)
    if "max_tokens" in given:
        value = number("max_tokens", given["max_tokens"], 1, BIG, whole=True)
        if core["min_tokens"] > value:
            if "min_tokens" in given:
                raise OptionError(
                    f"min_tokens is {core['min_tokens']} with max_tokens {value}: expected at most max_tokens"
                )
            core["min_tokens"] = value
        return value, None
    for key in ("max_new_tokens", "max_length"):
        found = defaults.get(key)
        if found is not None:
            found = number(f"{key} of {defaults.source}", found, 1, BIG, whole=True)
            return (found, None) if key == "max_new_tokens" else (None, found)
    return max(DEFAULT_MAX_TOKENS, core["min_tokens"]), None


def _stops(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else _items("stop", value)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise OptionError(f"stop holds {short_repr(text)}: expected texts of at least one character")
    return tuple(texts)
