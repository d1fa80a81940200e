"""Every key of generation_config.json and every option of a call: honoured, refused by name, or documented as without
effect."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.models import generation_config as tables
from lapwing.models.options import GenerateOptions

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
BUILTIN = Path(lapwing.__file__).parent / "builtin"

# What transformers 5.24 reads in GenerationConfig.__init__.
KEYS = [
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "early_stopping",
    "max_time",
    "stop_strings",
    "do_sample",
    "num_beams",
    "use_mtp",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "renormalize_logits",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "token_healing",
    "guidance_scale",
    "watermarking_config",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "encoder_no_repeat_ngram_size",
    "decoder_start_token_id",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "assistant_ensemble_weight",
    "speculation_type",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "low_memory",
    "penalty_alpha",
    "dola_layers",
    "diversity_penalty",
    "num_beam_groups",
    "constraints",
    "force_words_ids",
    "prefill_chunk_size",
    "_from_model_config",
    "transformers_version",
]


def test_every_key_of_transformers_is_in_one_table() -> None:
    found = [*tables.HONOURED, *tables.REFUSED, *tables.WITHOUT_EFFECT]
    assert len(found) == len(set(found))
    assert sorted(found) == sorted(KEYS)


def listed(start: str) -> set[str]:
    """The names in backquotes of the paragraph that begins with `start`."""
    paragraph = next(part for part in DOCUMENT.split("\n") if part.startswith(start))
    return set(re.findall(r"`(\w+)`", paragraph))


def test_the_document_lists_the_tables_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", DOCUMENT, re.MULTILINE)
    honoured = {key: text.replace("`", "") for key, text in rows if key in KEYS}
    assert honoured == {key: text.replace("`", "") for key, text in tables.HONOURED.items()}
    assert listed("Refused") == set(tables.REFUSED)
    assert listed("Without effect") == set(tables.WITHOUT_EFFECT)


def load_with(tmp_path: Path, name: str, settings: Mapping[str, Any]) -> Any:
    """A built-in model with another generation_config.json."""
    folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    for file in (BUILTIN / name).iterdir():
        if file.name != "generation_config.json":
            (folder / file.name).symlink_to(file)
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return lapwing.load(folder)


PROMPT = "ROMEO:\nWhat is the"
TEXTS = [
    "A man in a blue shirt is standing on a ladder.",
    "Two young women are playing with a dog.",
    "People are waiting for the train at a station in the evening.",
]
PLAIN: dict[str, dict[str, Any]] = {
    "tiny-shakespeare": {"bos_token_id": 0, "eos_token_id": 0, "max_new_tokens": 24},
    "tiny-en-de": {
        "bad_words_ids": [[7999]],
        "decoder_start_token_id": 7999,
        "eos_token_id": 0,
        "pad_token_id": 7999,
        "max_new_tokens": 40,
    },
}


def outputs_of(model: Any, **options: Any) -> Any:
    """The outputs of a model for fixed inputs, or its error."""
    try:
        if isinstance(model, lapwing.TextGenerator):
            found = model.generate(PROMPT, seed=3, **options)
            return found.text, found.ids, found.finish_reason, found.logprobs, [h.ids for h in found.alternatives]
        several = model.generate_ids([model.tokenizer.encode(text) for text in TEXTS], seed=3, **options)
        return [[(h.ids, h.score, h.finish_reason) for h in hypotheses] for hypotheses in several]
    except lapwing.OptionError as error:
        return str(error)


@cache
def plain(name: str) -> Any:
    return lapwing.load(BUILTIN / name, generation_config={**dict.fromkeys(KEYS), **PLAIN[name]})


@cache
def greedy_ids() -> tuple[int, ...]:
    """The decoder's output without options."""
    return tuple(plain("tiny-shakespeare").generate(PROMPT).ids)


def prompt_length() -> int:
    return len(plain("tiny-shakespeare").tokenizer.encode(PROMPT))


DRAW = {"do_sample": True, "top_k": 0}
DRAWN = {"temperature": 1.0}
Case = tuple[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]]


def case(name: str, config: Mapping[str, Any], call: Mapping[str, Any]) -> Case:
    return name, lambda: (dict(config), dict(call))


DECODER, TRANSLATOR = "tiny-shakespeare", "tiny-en-de"
# Per key: settings of generation_config.json, of which those of the key are the difference to the plain
# ones, and the options of a call with the same meaning.
EQUAL: dict[str, Case] = {
    "max_new_tokens": case(DECODER, {"max_new_tokens": 7}, {"max_tokens": 7}),
    "max_length": (
        DECODER,
        lambda: ({"max_new_tokens": None, "max_length": prompt_length() + 5}, {"max_tokens": 5}),
    ),
    "min_new_tokens": (
        DECODER,
        lambda: (
            {"eos_token_id": greedy_ids()[4], "min_new_tokens": 9},
            {"stop_ids": [greedy_ids()[4]], "min_tokens": 9},
        ),
    ),
    "min_length": (
        DECODER,
        lambda: (
            {"eos_token_id": greedy_ids()[4], "min_length": prompt_length() + 9},
            {"stop_ids": [greedy_ids()[4]], "min_tokens": 9},
        ),
    ),
    "eos_token_id": (DECODER, lambda: ({"eos_token_id": [0, greedy_ids()[4]]}, {"stop_ids": [greedy_ids()[4]]})),
    "do_sample": case(DECODER, {"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
    "temperature": case(DECODER, {**DRAW, "temperature": 0.3}, {"temperature": 0.3}),
    "top_k": case(DECODER, {**DRAW, "top_k": 2}, {**DRAWN, "top_k": 2}),
    "top_p": case(DECODER, {**DRAW, "top_p": 0.2}, {**DRAWN, "top_p": 0.2}),
    "min_p": case(DECODER, {**DRAW, "min_p": 0.7}, {**DRAWN, "min_p": 0.7}),
    "typical_p": case(DECODER, {**DRAW, "typical_p": 0.2}, {**DRAWN, "typical_p": 0.2}),
    "top_h": case(DECODER, {**DRAW, "top_h": 0.2}, {**DRAWN, "top_h": 0.2}),
    "epsilon_cutoff": case(DECODER, {**DRAW, "epsilon_cutoff": 0.2}, {**DRAWN, "epsilon_cutoff": 0.2}),
    "eta_cutoff": case(DECODER, {**DRAW, "eta_cutoff": 0.5}, {**DRAWN, "eta_cutoff": 0.5}),
    "max_time": case(DECODER, {"max_time": 0}, {"max_time": 0}),
    "num_beams": case(TRANSLATOR, {"num_beams": 4}, {"beams": 4}),
    "num_return_sequences": case(
        TRANSLATOR, {"num_beams": 4, "num_return_sequences": 3}, {"beams": 4, "num_hypotheses": 3}
    ),
    "length_penalty": case(TRANSLATOR, {"num_beams": 4, "length_penalty": 3.0}, {"beams": 4, "length_penalty": 3.0}),
    "early_stopping": case(
        TRANSLATOR,
        {"num_beams": 6, "num_return_sequences": 6, "early_stopping": True},
        {"beams": 6, "num_hypotheses": 6, "early_stopping": True},
    ),
    "repetition_penalty": case(DECODER, {"repetition_penalty": 1.8}, {"repetition_penalty": 1.8}),
    "encoder_repetition_penalty": case(
        DECODER, {"encoder_repetition_penalty": 3.0}, {"encoder_repetition_penalty": 3.0}
    ),
    "no_repeat_ngram_size": case(DECODER, {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 1}),
    "encoder_no_repeat_ngram_size": case(
        DECODER, {"encoder_no_repeat_ngram_size": 1}, {"encoder_no_repeat_ngram_size": 1}
    ),
    "bad_words_ids": (
        DECODER,
        lambda: ({"bad_words_ids": [list(greedy_ids()[1:3])]}, {"bad_words": [list(greedy_ids()[1:3])]}),
    ),
    "suppress_tokens": (
        DECODER,
        lambda: ({"suppress_tokens": [greedy_ids()[3]]}, {"suppress_tokens": [greedy_ids()[3]]}),
    ),
    "begin_suppress_tokens": (
        DECODER,
        lambda: ({"begin_suppress_tokens": [greedy_ids()[0]]}, {"begin_suppress_tokens": [greedy_ids()[0]]}),
    ),
    "forced_bos_token_id": case(TRANSLATOR, {"forced_bos_token_id": 77}, {"forced_bos": 77}),
    "forced_eos_token_id": case(
        DECODER, {"forced_eos_token_id": 5, "max_new_tokens": 6}, {"forced_eos": 5, "max_tokens": 6}
    ),
    "sequence_bias": (
        DECODER,
        lambda: (
            {"sequence_bias": [[list(greedy_ids()[1:3]), -30.0]]},
            {"sequence_bias": {tuple(greedy_ids()[1:3]): -30.0}},
        ),
    ),
    "exponential_decay_length_penalty": case(
        DECODER, {"exponential_decay_length_penalty": [3, 4.0]}, {"exponential_decay_length_penalty": (3, 4.0)}
    ),
    # If every token is forbidden, the finite values allow one.
    "remove_invalid_values": (
        DECODER,
        lambda: (
            {"bad_words_ids": [[i] for i in range(1, plain(DECODER)._vocab_size)], "min_new_tokens": 3}
            | {"remove_invalid_values": True},
            {"bad_words": [[i] for i in range(1, plain(DECODER)._vocab_size)], "min_tokens": 3}
            | {"remove_invalid_values": True},
        ),
    ),
    "renormalize_logits": case(
        TRANSLATOR,
        {"num_beams": 3, "repetition_penalty": 1.5, "renormalize_logits": True},
        {"beams": 3, "repetition_penalty": 1.5, "renormalize_logits": True},
    ),
    "stop_strings": (
        DECODER,
        lambda: ({"stop_strings": [across_tokens()]}, {"stop": across_tokens()}),
    ),
}


def across_tokens() -> str:
    """Two adjacent characters of the plain answer that belong to different tokens."""
    tokenizer = plain(DECODER).tokenizer
    ids = greedy_ids()
    for end in range(4, len(ids)):
        before, after = tokenizer.decode(ids[:end]), tokenizer.decode(ids[: end + 1])
        if len(after) > len(before) > 1 and after.startswith(before) and after[len(before) - 1 :].strip():
            return after[len(before) - 2 : len(before) + 1]
    raise AssertionError("the plain answer has no such place")


FILTERS = {"top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff"}
OWN_TESTS = {"bos_token_id", "decoder_start_token_id"}


def test_every_honoured_key_has_a_case() -> None:
    assert {*EQUAL, *OWN_TESTS} == set(tables.HONOURED)


@pytest.mark.parametrize("key", EQUAL)
def test_key_equals_option(tmp_path: Path, key: str) -> None:
    name, make = EQUAL[key]
    config, call = make()
    by_file = outputs_of(load_with(tmp_path, name, {**PLAIN[name], **config}))
    assert by_file == outputs_of(plain(name), **call)
    without = {k: v for k, v in config.items() if k != key}
    if key in FILTERS:
        # Sampling from filtered tokens visits them in another order, so the comparison uses a filter that drops none.
        without["top_k"] = plain(name)._vocab_size
    assert outputs_of(load_with(tmp_path, name, {**PLAIN[name], **without})) != by_file


def test_an_empty_prompt_begins_with_the_start_token(tmp_path: Path) -> None:
    for start in (0, 7):
        own = load_with(tmp_path, DECODER, {**PLAIN[DECODER], "bos_token_id": start})
        assert list(own.generate("").ids) == own.generate_ids([start])


def test_the_decoder_begins_with_its_start_token(tmp_path: Path) -> None:
    for start in (7999, 11):
        own = load_with(tmp_path, TRANSLATOR, {**PLAIN[TRANSLATOR], "decoder_start_token_id": start})
        source = own.tokenizer.encode(TEXTS[0])
        found = own.generate_ids(source, max_tokens=1)[0].ids
        logits = own.decoder_logits(source, [start])[-1]
        logits[7999] = -np.inf
        assert list(found) == [int(logits.argmax())]


@pytest.mark.parametrize("key", sorted(tables.REFUSED))
def test_refused_keys_are_named(tmp_path: Path, key: str) -> None:
    own = load_with(tmp_path, DECODER, {**PLAIN[DECODER], key: 2})
    for run in (own.generate, own.stream, lambda text: own.generate_ids([1])):
        with pytest.raises(lapwing.OptionError, match=f"{key} to 2, which is not supported"):
            run("x")
    for neutral in tables.REFUSED[key]:
        own = load_with(tmp_path, DECODER, {**PLAIN[DECODER], key: neutral})
        assert outputs_of(own) == outputs_of(plain(DECODER))


def test_keys_without_effect_have_none(tmp_path: Path) -> None:
    for value in (3, True, "x", {"a": 1}):
        settings = dict.fromkeys(tables.WITHOUT_EFFECT, value)
        assert outputs_of(load_with(tmp_path, DECODER, {**PLAIN[DECODER], **settings})) == outputs_of(plain(DECODER))


def flat(ids: list[int], logits: Any) -> Any:
    """Always selects token 9."""
    logits[:] = 0
    logits[9] = 1
    return logits


# Options without a key: (other options, the value of the option).
CALLS: dict[str, tuple[dict[str, Any], Any]] = {
    "presence_penalty": ({}, 8.0),
    "frequency_penalty": ({}, 8.0),
    "logit_bias": ({}, {9: 50.0}),
    "ignore_eos": ({"logit_bias": {0: 100.0}}, True),
    "stop_ids": ({"logit_bias": {9: 100.0}}, [9]),
    "stopping": ({}, lambda ids, text: len(ids) == 2),
    "seed": ({"temperature": 1.0}, 5),
    "n": ({"temperature": 1.0}, 3),
    "processor": ({}, flat),
    "logprobs": ({}, 2),
}
AS_KEYS = {
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "beams": "num_beams",
    "num_hypotheses": "num_return_sequences",
    "bad_words": "bad_words_ids",
    "forced_bos": "forced_bos_token_id",
    "forced_eos": "forced_eos_token_id",
    "stop": "stop_strings",
}


@pytest.mark.parametrize("option", CALLS)
def test_option_changes_the_answer(option: str) -> None:
    rest, value = CALLS[option]
    own = plain(DECODER)
    rest = {"seed": 3, **rest}
    with_it = own.generate(PROMPT, **{**rest, option: value})
    assert with_it != own.generate(PROMPT, **{k: v for k, v in rest.items() if k != option} | {"seed": 3})
    assert with_it == own.generate(PROMPT, **{**rest, option: value})


# They reduce the work and do not change the answer.
SPEED = {
    "prompt_lookup": "test_a_text_that_repeats_itself_saves_steps",
    "draft_model": "test_a_perfect_draft_saves_most_steps",
    "draft_tokens": "test_a_perfect_draft_saves_most_steps",
}


def test_every_option_has_a_case() -> None:
    source = (Path(__file__).parent / "test_speculation.py").read_text(encoding="utf-8")
    assert all(f"def {test}(" in source for test in SPEED.values())
    assert {AS_KEYS.get(name, name) for name in GenerateOptions.__annotations__} == (
        {*EQUAL, *CALLS, *SPEED} - {"max_length", "min_length", "eos_token_id", "do_sample"}
    )


def test_the_document_names_the_place_and_the_test_of_every_option() -> None:
    """Rows of the form: option, file, test."""
    rows = re.findall(r"^\| `(\w+)` \| `([\w/.]+)` \| `test_generation_keys.py::(\w+)\[(\w+)\]` \|$", DOCUMENT, re.M)
    assert [row[0] for row in rows] == sorted(set(GenerateOptions.__annotations__) - set(SPEED))
    for option, test in SPEED.items():
        assert f"| `{option}` | `rust/decode/speculate.rs` | `test_speculation.py::{test}` |" in DOCUMENT
    for option, file, test, parameter in rows:
        known = {"test_key_equals_option": EQUAL, "test_option_changes_the_answer": CALLS}[test]
        assert parameter in known and parameter == AS_KEYS.get(option, option)
        assert test in globals()
        text = (ROOT / file).read_text(encoding="utf-8")
        fields = {"n": "samples", "stop": "stop", "beams": "beams", "bad_words": "bad_words_ids"}
        assert re.search(rf"\b{fields.get(option, option)}", text), (option, file)


def test_penalties_of_a_sampling_checkpoint_do_not_apply_to_greedy_calls(tmp_path: Path) -> None:
    settings = {**PLAIN[DECODER], "do_sample": True, "repetition_penalty": 1.8}
    own = load_with(tmp_path, DECODER, settings)
    assert outputs_of(own, temperature=0) == outputs_of(plain(DECODER))
    assert outputs_of(own, temperature=0, repetition_penalty=1.8) == outputs_of(plain(DECODER), repetition_penalty=1.8)


def test_time_that_is_up_ends_the_text() -> None:
    own = plain(DECODER)
    found = own.generate(PROMPT, max_time=0)
    assert found.finish_reason == "time" and len(found.ids) == 1
    assert own.generate(PROMPT, max_time=1000) == own.generate(PROMPT)
    assert [chunk.finish_reason for chunk in own.stream(PROMPT, max_time=0)][-1] == "time"
    several = plain(TRANSLATOR).generate_ids(plain(TRANSLATOR).tokenizer.encode(TEXTS[0]), beams=3, max_time=0)
    assert len(several[0].ids) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_time": -1},
        {"max_time": float("nan")},
        {"top_h": 1.5},
        {"epsilon_cutoff": 1},
        {"eta_cutoff": -0.1},
        {"sequence_bias": [[1, 2, 3]]},
        {"sequence_bias": {"(1, x)": 1.0}},
        {"exponential_decay_length_penalty": 3},
        {"renormalize_logits": "yes"},
        {"renormalize_logits": True},
        {"top_h": 0.5},
        {"max_length": 7},
    ],
    ids=str,
)
def test_wrong_values_are_named(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(lapwing.OptionError, match=name):
        plain(DECODER).generate(PROMPT, **options)
