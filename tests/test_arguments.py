"""Bad arguments: the exact exception, and a message with the argument, the expected and the actual value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.models.options import GenerateOptions

from .refusals import GOLDEN, fails, model

# -- values of options -----------------------------------------------------------------------------------

_STRANGE: dict[str, Any] = {
    "text": "x",
    "bytes": b"x",
    "list": [[]],
    "mapping": {"a": 1},
    "object": object(),
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "array": np.zeros(3),
}
_NUMBERS: dict[str, dict[str, Any]] = {
    # option: values out of range
    "max_tokens": {"0": 0, "-1": -1, "half": 0.5, "true": True, "huge": 10**30},
    "min_tokens": {"-1": -1, "half": 0.5, "true": True},
    "temperature": {"-1": -1, "-0.1": -0.1, "1e9": 1e9, "true": True},
    "top_k": {"-1": -1, "half": 0.5, "true": True, "huge": 10**30},
    "top_p": {"0": 0, "-1": -1, "1.1": 1.1, "true": True},
    "min_p": {"-1": -1, "1.1": 1.1, "true": True},
    "typical_p": {"0": 0, "1.1": 1.1, "true": True},
    "seed": {"-1": -1, "half": 0.5, "2**64": 2**64, "true": True},
    "n": {"0": 0, "-1": -1, "half": 0.5, "10**6": 10**6, "true": True},
    "beams": {"0": 0, "-1": -1, "half": 0.5, "257": 257, "true": True},
    "num_hypotheses": {"0": 0, "-1": -1, "257": 257, "true": True},
    "length_penalty": {"101": 101, "-101": -101, "true": True},
    "repetition_penalty": {"0": 0, "-1": -1, "1e4": 1e4, "true": True},
    "encoder_repetition_penalty": {"0": 0, "-1": -1, "1e4": 1e4, "true": True},
    "presence_penalty": {"101": 101, "-101": -101, "true": True},
    "frequency_penalty": {"101": 101, "-101": -101, "true": True},
    "no_repeat_ngram_size": {"-1": -1, "half": 0.5, "true": True},
    "encoder_no_repeat_ngram_size": {"-1": -1, "half": 0.5, "true": True},
    "logprobs": {"-1": -1, "half": 0.5, "1001": 1001},
    "max_time": {"-1": -1, "true": True},
    "top_h": {"-1": -1, "1.1": 1.1, "true": True},
    "epsilon_cutoff": {"-1": -1, "1": 1, "true": True},
    "eta_cutoff": {"-1": -1, "1": 1, "true": True},
    "prompt_lookup": {"-1": -1, "half": 0.5, "true": True},
    "draft_tokens": {"0": 0, "-1": -1, "half": 0.5, "true": True},
}
_OTHERS: dict[str, dict[str, Any]] = {
    "ignore_eos": {"1": 1, "0": 0, "none of them": "yes"},
    "early_stopping": {"1": 1, "always": "always"},
    "stop": {"empty": "", "empty in a list": ["a", ""], "number": 3, "numbers": [3]},
    "stop_ids": {"-1": [-1], "half": [0.5], "true": [True], "text": ["a"], "2**31": [2**31], "outside": [400]},
    "suppress_tokens": {"-1": [-1], "half": [0.5], "true": [True], "mapping": {1: 2}, "outside": [400]},
    "begin_suppress_tokens": {"-1": [-1], "half": [0.5], "true": [True], "outside": [400]},
    "forced_eos": {"-1": -1, "half": 0.5, "true": True, "outside": 400},
    "logit_bias": {"list": [1], "nan": {1: math.nan}, "text": {"a": 1}, "text value": {1: "a"}, "outside": {400: 1.0}},
    "bad_words": {"text": "x", "number": [3.5], "empty": [""], "outside": [[400]]},
    "processor": {"text": "x", "number": 3},
    "stopping": {"text": "x", "number": 3},
    "sequence_bias": {
        "flat": [1],
        "no value": [[[1]]],
        "nan": [[[1], math.nan]],
        "empty": [[[], 1.0]],
        "outside": [[[400], 1.0]],
    },
    "exponential_decay_length_penalty": {
        "one": [1],
        "start": [-1, 1.5],
        "half": [0.5, 1.5],
        "factor": [1, 0],
        "nan": [1, math.nan],
    },
    "remove_invalid_values": {"1": 1, "0": 0},
    "renormalize_logits": {"1": 1, "0": 0},
    "draft_model": {"number": 3, "other shape": model("bert-mlm")},
}
_LISTS = ("stop", "stop_ids", "suppress_tokens", "begin_suppress_tokens", "forced_eos", "bad_words")
_NOT_STRANGE = {("stop", "text"), ("processor", "object"), ("stopping", "object"), ("bad_words", "list")}


def _options() -> list[Any]:
    cases = []
    for table in (_NUMBERS, _OTHERS):
        for option, values in table.items():
            strange = {k: v for k, v in _STRANGE.items() if k not in values and (option, k) not in _NOT_STRANGE}
            for name, value in {**strange, **values}.items():
                cases.append(pytest.param(option, value, id=f"{option}-{name}"))
    return cases


@pytest.mark.parametrize(("option", "value"), _options())
def test_values_of_generating_options(option: str, value: Any) -> None:
    """Each option refuses wrong types and values out of range, by name."""
    generator = model("llama")
    options = {"max_tokens": 2, option: value}
    for call in (lambda: generator.generate("the", **options), lambda: list(generator.stream("the", **options))):
        fails(lapwing.OptionError, call, option.split("_tokens")[0], "expected")


def test_every_option_has_bad_values() -> None:
    assert {*_NUMBERS, *_OTHERS, "forced_bos"} == set(GenerateOptions.__annotations__)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_tokens": 5, "max_tokens": 2}, ("min_tokens is 5", "max_tokens 2")),
        ({"beams": 2, "temperature": 1.0}, ("temperature is 1", "beams 2", "set temperature to 0")),
        ({"top_k": 5}, ("top_k", "greedy", "set temperature above 0")),
        ({"top_p": 0.5, "min_p": 0.1}, ("top_p, min_p", "greedy")),
        ({"num_hypotheses": 3}, ("num_hypotheses is 3", "beams 1")),
        ({"n": 4}, ("n is 4", "set temperature above 0")),
        ({"length_penalty": 2.0}, ("length_penalty", "set beams above 1")),
        ({"early_stopping": True}, ("early_stopping", "set beams above 1")),
        ({"forced_bos": 3}, ("forced_bos", "add the token to the prompt")),
        ({"suppress_tokens": range(400)}, ("forbid every token", "suppress_tokens")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_options_that_exclude_each_other(options: dict[str, Any], words: tuple[str, ...]) -> None:
    fails(lapwing.OptionError, lambda: model("llama").generate("the", **{"max_tokens": 3, **options}), *words)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("repetion_penalty", "repetition_penalty"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "stream", "generate_ids"])
def test_unknown_options_name_the_nearest(method: str, option: str, meant: str) -> None:
    words = (f"{method} has no option {option}", f"did you mean {meant}")
    what: Any = [1, 2] if method == "generate_ids" else "the"
    fails(lapwing.OptionError, lambda: getattr(model("llama"), method)(what, **{option: 1}), *words)


def test_an_option_like_no_other_lists_all() -> None:
    with pytest.raises(lapwing.OptionError, match="has no option zzzz=1: expected bad_words, beams") as caught:
        model("llama").generate("the", zzzz=1)
    assert all(option in str(caught.value) for option in GenerateOptions.__annotations__)


def test_a_bound_is_named_once_it_is_passed() -> None:
    call = model("llama").generate
    fails(lapwing.OptionError, lambda: call("the", max_tokens=0), "max_tokens is 0: expected a whole number from 1")
    for option, low, high in (("max_tokens", 1, 2**53 - 1), ("seed", 0, 2**64 - 1)):
        words = f"{option} is {high + 1}: expected a whole number from {low} to {high}"
        fails(lapwing.OptionError, lambda option=option, over=high + 1: call("the", **{option: over}), words)


def test_a_processor_s_own_exception_reaches_the_caller() -> None:
    def raises(ids: list[int], logits: Any) -> Any:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        model("llama").generate("the", max_tokens=2, processor=raises)


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        (lambda logits: None, lapwing.OptionError, "float32 array"),
        (lambda logits: logits.astype(np.float64), lapwing.OptionError, "float32 array"),
        (lambda logits: logits[:3], lapwing.OptionError, "3 values: expected 400"),
        (lambda logits: logits[None], lapwing.OptionError, "one dimension"),
        (lambda logits: logits * np.float32(np.nan), lapwing.NumericalError, "not a number"),
    ],
)
def test_what_a_processor_may_return(change: Any, kind: type[Exception], word: str) -> None:
    fails(kind, lambda: model("llama").generate("the", max_tokens=2, processor=lambda _, x: change(x)), word)


# -- ids and texts ---------------------------------------------------------------------------------------

_IDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "negative": ([3, -1], ("holds -1 at position 1", "expected ids from 0 to")),
    "outside": ([3, 4_000_000], ("holds 4000000 at position 1", "expected ids from 0 to")),
    "2**31": ([2**31], ("holds 2147483648",)),
    "2**64": ([2**64], ("holds 18446744073709551616",)),
    "float": ([1.0], ("holds 1.0 at position 0", "expected whole numbers")),
    "nan": ([math.nan], ("holds nan", "expected whole numbers")),
    "bool": ([1, True], ("holds True at position 1", "expected whole numbers")),
    "none inside": ([1, None], ("holds None", "expected whole numbers")),
    "text inside": ([1, "x"], ("holds 'x' at position 1", "expected whole numbers")),
    "none": (None, ("is None", "expected a list of ids")),
    "number": (3, ("is 3", "expected a list of ids")),
    "text": ("12", ("is '12'", "expected a list of ids")),
    "bytes": (b"12", ("expected a list of ids",)),
    "set": ({1, 2}, ("expected a list of ids",)),
    "mapping": ({1: 2}, ("expected a list of ids",)),
    "empty array": (np.zeros(0, np.int64), ("is empty", "at least one token")),
    "array of floats": (np.zeros(3), ("float64 [3]", "expected whole numbers in one dimension")),
    "array of bools": (np.zeros(3, bool), ("bool [3]", "expected whole numbers")),
    "array of objects": (np.array([1, None], dtype=object), ("object [2]", "expected whole numbers")),
    "array without dimensions": (np.array(3), ("[]", "in one dimension")),
}
_TAKES_IDS = {
    "logits": ("llama", lambda m, ids: m.logits(ids)),
    "hidden_states": ("llama", lambda m, ids: m.hidden_states(ids)),
    "attentions": ("llama", lambda m, ids: m.attentions(ids, 0)),
    "generate_ids": ("llama", lambda m, ids: m.generate_ids(ids, max_tokens=2)),
    "generate_ids of lists": ("llama", lambda m, ids: m.generate_ids([[1, 2], ids], max_tokens=2)),
    "encoder states": ("bert-seqcls", lambda m, ids: m.encode([[3], ids])),
    "encoder attentions": ("bert-seqcls", lambda m, ids: m.attentions(ids, 0)),
    "pooled": ("bert-model", lambda m, ids: m.pooled([[3], ids])),
    "head_logits": ("bert-seqcls", lambda m, ids: m.head_logits([[3], ids])),
    "source": ("marian", lambda m, ids: m.encode([[3], ids])),
    "generate_ids of sources": ("marian", lambda m, ids: m.generate_ids([[3], ids], max_tokens=2)),
    "target": ("marian", lambda m, ids: m.decoder_logits([3, 0], ids)),
}


@pytest.mark.parametrize("where", _TAKES_IDS)
@pytest.mark.parametrize("what", _IDS)
def test_ids(where: str, what: str) -> None:
    (name, call), (value, words) = _TAKES_IDS[where], _IDS[what]
    fails(lapwing.OptionError, lambda: call(model(name), value), *words)


@pytest.mark.parametrize("where", set(_TAKES_IDS) - {"generate_ids"})
def test_no_ids(where: str) -> None:
    name, call = _TAKES_IDS[where]
    fails(lapwing.OptionError, lambda: call(model(name), []), "is empty", "at least one token")


@pytest.mark.parametrize("where", _TAKES_IDS)
def test_too_many_ids(where: str) -> None:
    name, call = _TAKES_IDS[where]
    limit = model(name).max_length
    words = (f"has {limit + 1} tokens", f"at most {limit}")
    fails(lapwing.ContextLengthError, lambda: call(model(name), [3] * (limit + 1)), *words)


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([[-1, 0]], ("segment_ids holds -1", "0 to 1")),
        ([[0, 2]], ("segment_ids holds 2", "0 to 1")),
        ([[0]], ("segment_ids and ids differ in length",)),
        ([[0, 0], [0, 0]], ("segment_ids and ids differ in length",)),
        ([[0, 0.5]], ("segment_ids holds 0.5",)),
        (0, ("segment_ids is 0", "expected a list")),
        ([None], ("segment_ids holds None", "whole numbers")),
        ("01", ("segment_ids is '01'",)),
    ],
)
def test_segments(segments: Any, words: tuple[str, ...]) -> None:
    fails(lapwing.OptionError, lambda: model("bert-seqcls").encode([[3, 4]], segment_ids=segments), *words)


@pytest.mark.parametrize("layer", [2, -3, 1.0, "0", None, True, 10**30])
@pytest.mark.parametrize("name", ["llama", "bert-seqcls", "marian"])
def test_layers(name: str, layer: Any) -> None:
    fails(lapwing.OptionError, lambda: model(name).attentions([3, 4], layer), f"layer is {layer!r}", "expected 0 to 1")


_TAKES_TEXT = {
    "generate": ("llama", lambda m, x: m.generate(x, max_tokens=2)),
    "stream": ("llama", lambda m, x: list(m.stream(x, max_tokens=2))),
    "score": ("llama", lambda m, x: m.score(x)),
    "call": ("bert-seqcls", lambda m, x: m(x)),
    "classify": ("bert-seqcls", lambda m, x: m.classify(x)),
    "tag": ("bert-tokcls", lambda m, x: m.tag(x)),
    "question": ("bert-qa", lambda m, x: m.answer(x, "the cat")),
    "context": ("bert-qa", lambda m, x: m.answer("the", x)),
    "fill_mask": ("bert-mlm", lambda m, x: m.fill_mask(x)),
    "embed": ("bert-sentence", lambda m, x: m.embed(x)),
    "rank": ("xlm-roberta-rerank", lambda m, x: m.rank("the", x)),
    "translate": ("marian", lambda m, x: m.translate(x, max_tokens=2)),
    "summarize": ("marian", lambda m, x: m.summarize(x, max_tokens=2)),
    "text to text": ("marian", lambda m, x: m.generate(x, max_tokens=2)),
    "stream of a translation": ("marian", lambda m, x: list(m.stream(x, max_tokens=2))),
}
_TEXTS: dict[str, Any] = {
    "number": 3,
    "none": None,
    "bytes": b"x",
    "mapping": {"a": "b"},
    "set": {"a"},
    "nested": [["a"]],
    "number inside": ["the [MASK]", 3],
    "none inside": [None],
}


@pytest.mark.parametrize("where", _TAKES_TEXT)
@pytest.mark.parametrize("what", _TEXTS)
def test_texts(where: str, what: str) -> None:
    (name, call), value = _TAKES_TEXT[where], _TEXTS[what]
    fails(lapwing.OptionError, lambda: call(model(name), value), "expected a text")


@pytest.mark.parametrize("where", _TAKES_TEXT)
def test_a_lone_surrogate(where: str) -> None:
    name, call = _TAKES_TEXT[where]
    text = "the [MASK] \ud800" if where == "fill_mask" else "a \ud800"
    value = [text] if where == "rank" else text
    fails(lapwing.OptionError, lambda: call(model(name), value), "lone surrogate at character")


@pytest.mark.parametrize("where", sorted({*_TAKES_TEXT} - {"embed", "context", "rank"}))
def test_a_text_longer_than_the_model(where: str) -> None:
    name, call = _TAKES_TEXT[where]
    text = "[MASK] the " * 500 if where == "fill_mask" else "the " * 500
    value = [text] if where == "rank" else text
    fails(lapwing.ContextLengthError, lambda: call(model(name), value), "tokens", "expected")


def test_a_prompt_and_new_tokens_longer_than_the_model() -> None:
    words = ("the prompt has 2 tokens and max_tokens is 127", "at most 128 together")
    fails(lapwing.ContextLengthError, lambda: model("llama").generate_ids([1, 2], max_tokens=127), *words)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, ("messages is NoneType", "expected a list of objects with role and content")),
        ("hello", ("messages is str",)),
        (3, ("messages is int",)),
        ({"role": "user", "content": "x"}, ("messages is dict",)),
        ({1, 2}, ("messages is set",)),
        ([], ("messages is empty", "at least one")),
        (["hello"], ("message 0 is 'hello'",)),
        ([{"content": "x"}], ("message 0 has no role",)),
        ([{"role": 3, "content": "x"}], ("message 0 has no role",)),
        ([{"role": "user", "content": object()}], ("got object",)),
    ],
)
def test_messages(messages: Any, words: tuple[str, ...]) -> None:
    fails(lapwing.OptionError, lambda: model("qwen3").chat(messages, max_tokens=2), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chat_template": 3}, ("chat_template is 3", "expected the name or the text")),
        ({"chat_template": "nosuch"}, ("chat_template is 'nosuch'", "expected one of default")),
        ({"chat_template": "{% if %}"}, ("cannot be rendered",)),
        ({"chat_template": "{{ raise_exception('no') }}"}, ("cannot be rendered", "no")),
        ({"template_variables": 3}, ("template_variables is int", "expected a mapping")),
        ({"template_variables": {"messages": []}}, ("template_variables holds messages",)),
        ({"template_variables": {"x": object()}}, ("got object",)),
        ({"continue_final_message": 1}, ("continue_final_message is 1", "True or False")),
        ({"allow_control_tokens": 1}, ("allow_control_tokens is 1", "True or False")),
        ({"tools": [3]}, ("expected",)),
    ],
    ids=str,
)
def test_options_of_a_chat(options: dict[str, Any], words: tuple[str, ...]) -> None:
    messages = [{"role": "user", "content": "x"}]
    fails(lapwing.OptionError, lambda: model("qwen3").chat(messages, max_tokens=2, **options), *words)


def test_a_message_that_holds_itself() -> None:
    content: list[Any] = []
    content.append(content)
    words = ("nested more than 100 deep",)
    fails(lapwing.OptionError, lambda: model("qwen3").chat([{"role": "user", "content": content}]), *words)


# -- options of the other methods ------------------------------------------------------------------------

_FLAG = ("True or False", [0, 1, "yes", None, 0.5, []])
_OPTIONAL_FLAG = ("True or False", [0, 1, "yes", 0.5, []])
_COUNT = ("a whole number from 1", [0, -1, 1.5, True, "x", None, math.nan, [], b"x"])
_OPTIONAL_COUNT = ("whole number from 1", [0, -1, 1.5, True, "x", math.nan, []])
_TEXT = ("a string or None", [3, 1.5, True, [], b"x", {}])
_TEXT_LIST = ("texts", [3, None, "O", [3], {"O"}, b"x"])
_PROGRESS = ("a function", [3, "x", [], 0.5])
_METHODS: dict[str, tuple[str, Callable[..., Any], dict[str, tuple[str, list[Any]]]]] = {
    "score": (
        "llama",
        lambda m, **o: m.score("the", **o),
        {"add_special_tokens": _FLAG, "batch_tokens": _COUNT, "progress": _PROGRESS},
    ),
    "call": ("bert-model", lambda m, **o: m("the", **o), {"hidden_states": _FLAG, "attentions": _FLAG}),
    "classify": (
        "bert-seqcls",
        lambda m, **o: m.classify("the", **o),
        {
            "truncate": _FLAG,
            "scores": ("auto, softmax, sigmoid or none", ["x", 3, None, []]),
            "batch_tokens": _COUNT,
            "progress": _PROGRESS,
        },
    ),
    "tag": (
        "bert-tokcls",
        lambda m, **o: m.tag("the", **o),
        {
            "aggregation": ("none, simple", ["x", 3, None, True, ["none"], np.array(["none", "none"])]),
            "ignore_labels": _TEXT_LIST,
            "stride": ("a whole number from 0", [-1, 1.5, True, "x", math.nan]),
            "batch_tokens": _COUNT,
        },
    ),
    "answer": (
        "bert-qa",
        lambda m, **o: m.answer("the", "the cat sat", **o),
        {
            "top_k": _COUNT,
            "max_answer_tokens": _COUNT,
            "window": _COUNT,
            "stride": ("a whole number from 0", [-1, 1.5, True, "x", None]),
            "allow_no_answer": _FLAG,
            "align_to_words": _FLAG,
        },
    ),
    "fill_mask": (
        "bert-mlm",
        lambda m, **o: m.fill_mask("the [MASK]", **o),
        {"top_k": _COUNT, "targets": ("texts", [3, "cat", [3], {"a": 1}]), "batch_tokens": _COUNT},
    ),
    "embed": (
        "bert-sentence",
        lambda m, **o: m.embed("the", **o),
        {
            "normalize": _OPTIONAL_FLAG,
            "truncate": _OPTIONAL_FLAG,
            "prompt": _TEXT,
            "prompt_name": _TEXT,
            "max_tokens": _OPTIONAL_COUNT,
            "truncate_dim": _OPTIONAL_COUNT,
            "batch_tokens": _COUNT,
        },
    ),
    "rank": (
        "xlm-roberta-rerank",
        lambda m, **o: m.rank("the", ["a", "b"], **o),
        {
            "top_k": _OPTIONAL_COUNT,
            "truncate": _OPTIONAL_FLAG,
            "scores": ("auto, sigmoid or none", ["softmax", 3, None, np.array(["none", "none"])]),
            "query_prompt": _TEXT,
            "document_prompt": _TEXT,
        },
    ),
    "translate": (
        "marian",
        lambda m, **o: m.translate("the", **{"max_tokens": 2, **o}),
        {
            "split_sentences": _FLAG,
            "source_lang": _TEXT,
            "target_lang": _TEXT,
            "progress": _PROGRESS,
            "forced_bos": ("expected", [-1, 0.5, True, "x", 172]),
            "beams": ("expected", [0, "x", True]),
        },
    ),
    "cross-attention": (
        "marian",
        lambda m, **o: m.attentions([3, 0], 0, **o),
        {"cross": ("True or False", [0, 1, "yes", None])},
    ),
    "load": (
        "llama",
        lambda m, **o: lapwing.load(GOLDEN / "llama", **o),
        {
            "weights": ("auto, stored", ["q5", 3, None, b"q8", [], np.array(["f32", "q8"])]),
            "activations": ("int16, int8 or bf16", ["int4", 3, None, np.array(["int8", "int8"])]),
            "kv_cache": ("auto, f32", ["q4", 3, None, ["f32"]]),
            "threads": ("a whole number from 1 to 256", [0, -1, 257, 10**30, 1.5, True, "2", math.nan]),
            "task": ("answer, chat", ["x", 3, True, ["chat"], {"chat": 1}]),
            "revision": ("None", [3, "main"]),
            "local_files_only": _FLAG,
            "packed_cache": ("True or False", [0, 1, "yes", "off"]),
            "generation_config": ("a mapping", [3, "x", [("top_p", 1)]]),
            "progress": _PROGRESS,
        },
    ),
}


@pytest.mark.parametrize(("method", "option"), [(m, o) for m, (_, _, table) in _METHODS.items() for o in table])
def test_options_of_methods(method: str, option: str) -> None:
    name, call, table = _METHODS[method]
    expected, values = table[option]
    for value in values:
        fails(lapwing.OptionError, lambda value=value: call(model(name), **{option: value}), option, expected)


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("bert-seqcls", lambda m: m.tag("x"), ("for whole texts", "tag")),
        ("bert-tokcls", lambda m: m.classify("x"), ("for each token", "classify")),
        ("bert-seqcls", lambda m: m.answer("x", "y"), ("for whole texts", "answer")),
        ("bert-tokcls", lambda m: m.answer("x", "y"), ("is for token-classification", "use tag")),
        ("bert-seqcls", lambda m: m.fill_mask("[MASK]"), ("no language head", "fill_mask")),
        ("bert-seqcls", lambda m: m.embed("x"), ("not an embedding model", "modules.json")),
        ("bert-model", lambda m: m.classify("x"), ("no task head", "classify")),
        ("bert-seqcls", lambda m: m.rank("x", ["y"]), ("one output", "use classify")),
        ("bert-mlm", lambda m: m.fill_mask("no mask"), ("text 0 has no mask", "[MASK]")),
        ("bert-mlm", lambda m: m.fill_mask("[MASK]", targets=["the cat"]), ("'the cat'", "expected one")),
        ("llama", lambda m: m.embed("x"), ("not an embedding model",)),
        ("marian", lambda m: m.translate("x", target_lang="fr"), ("target_lang is 'fr'", "from en to de")),
        ("marian", lambda m: list(m.stream("x", beams=2)), ("beams", "use generate")),
        ("bert-sentence", lambda m: m.embed("x", prompt_name="nosuch"), ("prompt_name is 'nosuch'",)),
        ("bert-sentence", lambda m: m.embed("x", prompt="a", prompt_name="b"), ("exclude each other",)),
        ("xlm-roberta-rerank", lambda m: m.rank("x", "y"), ("documents is one text", "a list")),
        ("xlm-roberta-rerank", lambda m: m.rank(3, ["y"]), ("query is 3", "one text")),
        ("xlm-roberta-rerank", lambda m: m.rank("x", ["y"], query_prompt="a"), ("query_prompt", "no prompts")),
        ("bert-qa", lambda m: m.answer(["a", "b"], ["c"]), ("2 questions and 1 contexts",)),
        ("bert-qa", lambda m: m.answer("a", ""), ("context is empty",)),
    ],
)
def test_what_a_checkpoint_cannot_do(name: str, call: Callable[[Any], Any], words: tuple[str, ...]) -> None:
    fails(lapwing.OptionError, lambda: call(model(name)), *words)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: t.decode(None), ("ids", "whole numbers")),
        (lambda t: t.decode("ab"), ("ids", "whole numbers")),
        (lambda t: t.decode([1.5]), ("ids", "whole numbers")),
        (lambda t: t.decode([-1]), ("outside 0",)),
        (lambda t: t.decode([2**40]), ("outside 0",)),
        (lambda t: t.decode(""), ("ids", "whole numbers")),
        (lambda t: t.decode(b"ab"), ("ids", "whole numbers")),
        (lambda t: t.encode(3), ("is 3", "expected str")),
        (lambda t: t.encode(None), ("is None", "expected str")),
        (lambda t: t.encode("x\ud800"), ("a lone surrogate at character 1",)),
        (lambda t: t.encode_pair("a", 3), ("is 3", "expected str")),
        (lambda t: t.encode_batch("ab"), ("one text, 'ab'", "a list of texts")),
        (lambda t: t.token_to_id(3), ("a token is 3",)),
        (lambda t: t.id_to_token("a"), ("an id is 'a'", "whole number")),
    ],
)
@pytest.mark.parametrize("name", ["llama", "bert-seqcls", "marian"])
def test_arguments_of_a_tokenizer(name: str, call: Callable[[Any], Any], words: tuple[str, ...]) -> None:
    fails(lapwing.OptionError, lambda: call(model(name).tokenizer), *words)


def test_whole_numbers_of_numpy_are_taken() -> None:
    with lapwing.load(GOLDEN / "llama", threads=np.int64(2), prefix_cache=np.int32(1 << 20)) as own:
        assert own.info().threads == 2
        assert len(own.generate_ids(np.array([3, 4]), max_tokens=np.int64(2), temperature=np.float32(0))) == 2
    vectors = model("bert-sentence").embed(["a"], truncate_dim=np.int64(8))
    assert vectors.shape == (1, 8)
    assert model("bert-tokcls").tag("the " * 100, stride=np.int8(4)) is not None


class _Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("value", [10**5000, _Unshowable(), "x" * 10**6, list(range(10**6))], ids=type)
def test_messages_are_short_whatever_was_passed(value: Any) -> None:
    for call in (
        lambda: model("llama").generate("the", max_tokens=value),
        lambda: model("marian").translate("the", target_lang=value),
        lambda: model("bert-sentence").embed("the", prompt_name=value),
        lambda: lapwing.load(value),
        lambda: lapwing.load(GOLDEN / "llama", weights=value),
        lambda: model("qwen3").chat(value),
    ):
        with pytest.raises(lapwing.Error) as caught:
            call()
        assert len(str(caught.value)) < 600


USER: dict[str, Any] = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.chat([b"Hello"]), ("message 0 is b'Hello'", "role and content")),
        (lambda m: m.chat([USER, {"role": "user", "content": 3}]), ("content of message 1 is 3", "a text, or a list")),
        (lambda m: m.chat([{"role": "tool", "content": True}]), ("content of message 0 is True", "its text")),
        (lambda m: m.chat([{"role": "user", "content": [3]}]), ("content of message 0 is [3]", "a list of parts")),
        (lambda m: m.chat([{"role": "user", "content": np.zeros(2)}]), ("content of message 0 is [0.0, 0.0]",)),
        (lambda m: m.chat([{"role": "user", "content": b"Hello"}]), ("message 0", "got bytes")),
        (lambda m: m.chat([{**USER, "weight": math.nan}]), ("message 0", "JSON", "got nan")),
        (lambda m: m.chat([{"role": "user", "content": "x\ud800"}]), ("message 0", "lone surrogate at character 1")),
        (lambda m: m.chat([{**USER, "x\udfff": 1}]), ("message 0", "lone surrogate at character 1")),
        (lambda m: m.chat([USER], template_variables={"x": "\ud800"}), ("lone surrogate at character 0",)),
        (lambda m: m.chat([USER], tools=3), ("tools is 3", "a list")),
        (lambda m: m.chat([USER], tools={"name": "add"}), ("tools is {'name': 'add'}", "a list")),
        (lambda m: m.chat([USER], documents="text"), ("documents is 'text'", "a list")),
        (lambda m: lapwing.Chat("lapwing/tiny-shakespeare"), ("model is 'lapwing/tiny-shakespeare'", "TextGenerator")),
        (lambda m: lapwing.Chat(m, system=3).send("Hello"), ("content of message 0 is 3",)),
        (lambda m: lapwing.Chat(m, messages="Hello"), ("messages is 'Hello'", "a list")),
        (lambda m: lapwing.Chat(m, messages=["Hello"]), ("messages holds 'Hello'", "role and content")),
        (lambda m: lapwing.Chat(m).send(3), ("content is 3", "a text")),
        (lambda m: lapwing.Chat(m).send(b"Hello"), ("content is b'Hello'", "a text")),
        (lambda m: lapwing.Chat(m).send([USER]), ("content is [{", "a text")),
    ],
)
def test_arguments_of_chats(call: Callable[[Any], Any], words: tuple[str, ...]) -> None:
    fails(lapwing.OptionError, lambda: call(model("qwen3")), *words)


def test_lists_of_a_chat_may_be_any_iterable() -> None:
    own = model("qwen3")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    options: dict[str, Any] = {"max_tokens": 2, "temperature": 0}
    assert own.chat([USER], tools=iter([tool]), **options) == own.chat([USER], tools=[tool], **options)
    assert own.chat([USER], tools=(), **options) == own.chat([USER], **options)
