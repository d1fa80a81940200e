"""Generation through the public interface, and its options."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.models import transcript
from lapwing.models.generation_config import HONOURED, REFUSED, WITHOUT_EFFECT, Defaults
from lapwing.models.options import GenerateOptions, resolve

from .loaded import expected, model, tensors


def test_text_equals_transformers_greedy() -> None:
    own = model("lapwing/tiny-shakespeare")
    for index, entry in enumerate(expected("tiny-shakespeare")["prompts"]):
        assert own.tokenizer.encode(entry["text"]) == entry["ids"]
        assert own.generate_ids(entry["ids"], max_tokens=64, temperature=0) == entry["greedy"]
        result = own.generate(entry["text"], max_tokens=64, temperature=0)
        assert result.text == entry["greedy_text"]
        assert result.prompt_tokens == len(entry["ids"])
        logits = own.logits(entry["ids"])
        tolerance = expected("tiny-shakespeare")["tolerance"]
        np.testing.assert_allclose(logits, tensors("tiny-shakespeare")[f"p{index}.logits"], atol=tolerance)


def test_stream_joins_to_the_text() -> None:
    own = model("lapwing/tiny-shakespeare")
    options = {"max_tokens": 40, "seed": 3}
    chunks = list(own.stream("ROMEO:\n", **options))
    whole = own.generate("ROMEO:\n", **options)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert tuple(i for chunk in chunks for i in chunk.ids) == whole.ids
    assert [chunk.finish_reason for chunk in chunks][-1] == whole.finish_reason
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])


def test_stream_of_several_prompts_carries_their_index() -> None:
    own = model("lapwing/tiny-shakespeare")
    prompts = ["ROMEO:\n", "JULIET:\nO "]
    texts = ["", ""]
    for chunk in own.stream(prompts, max_tokens=12, temperature=0):
        texts[chunk.index] += chunk.text
    assert texts == [r.text for r in own.generate(prompts, max_tokens=12, temperature=0)]


def test_closed_stream_leaves_the_model_usable() -> None:
    own = model("lapwing/tiny-shakespeare")
    stream = own.stream("ROMEO:\n", max_tokens=400, temperature=0)
    next(stream)
    stream.close()
    assert own.generate("ROMEO:\n", max_tokens=4, temperature=0).finish_reason == "length"


@pytest.mark.parametrize("stop", ["man", " a m", "\nKING", ["zzz", "be so"]])
def test_stop_strings_match_across_tokens(stop: Any) -> None:
    own = model("lapwing/tiny-shakespeare")
    whole = own.generate("ROMEO:\n", max_tokens=64, temperature=0).text
    wanted = whole[: min(whole.index(s) for s in ([stop] if isinstance(stop, str) else stop) if s in whole)]
    result = own.generate("ROMEO:\n", max_tokens=64, temperature=0, stop=stop)
    assert result.text == wanted
    assert result.finish_reason == "stop"
    chunks = list(own.stream("ROMEO:\n", max_tokens=64, temperature=0, stop=stop))
    assert "".join(chunk.text for chunk in chunks) == wanted
    assert chunks[-1].finish_reason == "stop"


def test_stop_string_that_never_comes_changes_nothing() -> None:
    own = model("lapwing/tiny-shakespeare")
    plain = own.generate("ROMEO:\n", max_tokens=20, temperature=0)
    assert own.generate("ROMEO:\n", max_tokens=20, temperature=0, stop="@@") == plain


def test_held_back_is_the_longest_possible_beginning() -> None:
    assert transcript.held_back("abc<|en", ["<|end|>", "|en?"]) == 4
    assert transcript.held_back("abc", ["xyz"]) == 0
    assert transcript.held_back("ab", ["ab"]) == 0
    assert transcript.first_stop("a stop b", ["b", "stop"]) == 2


def test_seed_repeats_and_batches_do_not_matter() -> None:
    own = model("lapwing/tiny-shakespeare")
    first = own.generate("ROMEO:\n", max_tokens=20, seed=5, temperature=1.0)
    assert own.generate("ROMEO:\n", max_tokens=20, seed=5, temperature=1.0) == first
    assert own.generate("ROMEO:\n", max_tokens=20, seed=6, temperature=1.0) != first
    unseeded = {own.generate("ROMEO:\n", max_tokens=20, temperature=1.5).text for _ in range(3)}
    assert len(unseeded) > 1


def test_what_is_forbidden_to_one_of_very_many_prompts_is_its_own() -> None:
    own = model("lapwing/tiny-shakespeare")
    # More than one batch; the last sequences have other tokens than the first.
    prompts = ["abcd"] * 512 + ["To be, or not", "ROMEO:", "Speak, speak."]
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "no_repeat_ngram_size": 1}
    alone = [own.generate(prompt, **options) for prompt in prompts[-3:]]
    assert own.generate(prompts, **options)[-3:] == alone


def test_several_samples_are_alternatives() -> None:
    own = model("lapwing/tiny-shakespeare")
    result = own.generate("ROMEO:\n", max_tokens=10, temperature=1.2, n=3, seed=1)
    assert len({result.text, *(other.text for other in result.alternatives)}) == 3


def test_logprobs_agree_with_logits() -> None:
    own = lapwing.load("lapwing/tiny-shakespeare", weights="f32")
    result = own.generate("ROMEO:\n", max_tokens=6, temperature=0, logprobs=2)
    assert len(result.logprobs) == 6
    for token in result.logprobs:
        assert token.top[0][0] == token.id  # greedy takes the most probable
        assert token.top[0][2] == token.logprob
        assert token.top[0][2] >= token.top[1][2]
    ids = [*own.tokenizer.encode("ROMEO:\n"), *result.ids]
    rows = own.logits(ids)[2:-1].astype(np.float64)
    exact = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    wanted = exact[np.arange(6), result.ids]
    np.testing.assert_allclose([t.logprob for t in result.logprobs], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["lapwing/tiny-shakespeare", "lapwing/tiny-en-de"])
def test_every_hypothesis_has_log_probabilities(name: str) -> None:
    """For beam search, samples and top tokens, they equal those of one pass over the result."""
    own = lapwing.load(name, weights="f32")
    decoder = own.kind == "decoder"
    text = "ROMEO:\n" if decoder else "A man is riding a bicycle."
    source = own.tokenizer.encode(text)
    prompt = source if decoder else [own.config["decoder_start_token_id"]]
    draws = {"n": 3, "temperature": 1.0, "seed": 1}
    # With this penalty the processed scores of beams differ from the model's own.
    beams = {"beams": 4, "num_hypotheses": 3, "length_penalty": 0.5}
    for options in (beams, draws, {**beams, "repetition_penalty": 1.5}):
        # Long enough to end before the bound, where the checkpoint forces an end token.
        found = own.generate_ids(source, max_tokens=9 if decoder else 60, logprobs=3, **options)
        assert len(found) == 3
        for one in found:
            given = [*prompt, *one.ids[:-1]]
            logits = own.logits(given) if decoder else own.decoder_logits(source, given)
            rows = logits[len(prompt) - 1 :].astype(np.float64)
            exact = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
            assert [token.id for token in one.logprobs] == list(one.ids)
            np.testing.assert_allclose(
                [t.logprob for t in one.logprobs], exact[np.arange(len(rows)), one.ids], atol=1e-5
            )
            for token, row in zip(one.logprobs, exact, strict=True):
                assert [index for index, _, _ in token.top] == np.argsort(-row, kind="stable")[:3].tolist()
            if "repetition_penalty" not in options:
                total = sum(token.logprob for token in one.logprobs) / len(one.ids) ** options.get(
                    "length_penalty", 1.0
                )
                assert one.score == pytest.approx(total, abs=1e-4)


def test_translations_have_scores_without_beams() -> None:
    own = lapwing.load("lapwing/tiny-en-de")
    found = own.translate("A dog runs. A cat sleeps.", beams=1, split_sentences=True, logprobs=0)
    parts = own.translate(["A dog runs.", "A cat sleeps."], beams=1)
    assert [one.score < 0 for one in parts] == [True, True]
    assert [token.id for token in found.logprobs] == [index for one in parts for index in one.ids]
    assert found.score == pytest.approx(np.mean([one.score for one in parts]))


def test_score_sums_log_probabilities() -> None:
    own = model("lapwing/tiny-shakespeare")
    texts = ["First Citizen:\nWe are", "I am", "A"]
    found = own.score(texts)
    assert found == [own.score(text) for text in texts]
    assert found[0].total == pytest.approx(sum(found[0].logprobs))
    assert found[0].perplexity == pytest.approx(math.exp(-found[0].total / len(found[0].logprobs)))


def test_options_are_honoured_or_refused_by_name() -> None:
    own = model("lapwing/tiny-shakespeare")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"max_new_tokens": 3}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop_ids": [-1]}, "stop_ids"),
        ({"beams": 2, "temperature": 0.5}, "beams"),
        ({"beams": 2, "num_hypotheses": 3}, "num_hypotheses"),
        ({"n": 2, "temperature": 0}, "n is 2"),
        ({"early_stopping": "soon"}, "early_stopping"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words": 3}, "bad_words"),
        ({"stop": 3}, "stop"),
        ({"seed": -1}, "seed"),
        ({"processor": 3}, "processor"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"suppress_tokens": [99999999]}, "suppress_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"forced_bos": 7}, "forced_bos"),
    ]
    for options, name in bad:
        with pytest.raises(lapwing.OptionError, match=name):
            own.generate("ROMEO:", **options)
    with pytest.raises(lapwing.OptionError, match="beams"):
        own.stream("ROMEO:", beams=2)


def test_first_token_can_be_forced() -> None:
    own = model("lapwing/tiny-en-de")
    plain = own.translate("A dog runs.", beams=1)
    other = own.translate("A dog runs.", beams=1, forced_bos=39)
    assert (plain.ids[0], other.ids[0]) == (9, 39)


ODD: list[Any] = [
    *(True, False, 0, -1, 1, 3, 10**30, 1.5, 1e308, "", "x", [], [1], [[1]], [[]], [None], ["a"]),
    *({}, {"a": 1}, {"content": 5}, [{}], [["a", "b"]], None),
]


@pytest.mark.parametrize("name", ["lapwing/tiny-en-de", "lapwing/tiny-shakespeare"])
def test_odd_values_are_honoured_or_refused(name: str) -> None:
    own = model(name)
    run = own.translate if name == "lapwing/tiny-en-de" else own.generate
    for value in ODD:
        for option in GenerateOptions.__annotations__:
            try:
                run("A.", **{"max_tokens": 2, option: value})
            except lapwing.Error as error:
                assert str(error)
        for key in (*HONOURED, *REFUSED):
            try:
                changed = Defaults.read({key: value}, own.config, encoder_decoder=name == "lapwing/tiny-en-de")
                resolve(changed, {"max_tokens": 2}, encode=lambda text: [[1]], where="test")
            except lapwing.Error as error:
                assert str(error)


def test_sampling_option_with_greedy_decoding_is_refused() -> None:
    own = model("lapwing/tiny-en-de")
    with pytest.raises(lapwing.OptionError, match="top_p"):
        own.generate_ids([[7, 19, 0]], beams=1, top_p=0.5)


def test_generation_options_change_the_text() -> None:
    own = model("lapwing/tiny-shakespeare")
    options = {"max_tokens": 24, "temperature": 0}
    plain = own.generate("ROMEO:\n", **options)
    first = plain.ids[0]
    assert first not in own.generate("ROMEO:\n", suppress_tokens=[first], **options).ids
    assert own.generate("ROMEO:\n", begin_suppress_tokens=[first], **options).ids[0] != first
    assert own.generate("ROMEO:\n", forced_eos=0, **options).ids[-1] == 0
    assert own.generate("ROMEO:\n", logit_bias={77: 1e4}, **options).ids == (77,) * 24
    assert own.generate("ROMEO:\n", bad_words=["man"], **options).text.find("man") < 0
    ended = own.generate("ROMEO:\n", stop_ids=[plain.ids[5]], **options)
    assert (ended.ids, ended.finish_reason) == (plain.ids[:6], "stop")
    grams = own.generate("ROMEO:\n", no_repeat_ngram_size=2, **options).ids
    pairs = list(itertools.pairwise(grams))
    assert len(set(pairs)) == len(pairs)
    assert own.generate("ROMEO:\n", repetition_penalty=1.5, **options).ids != plain.ids
    assert own.generate("ROMEO:\n", presence_penalty=50, frequency_penalty=50, **options).ids != plain.ids


def test_processor_sees_ids_and_changes_logits() -> None:
    own = model("lapwing/tiny-shakespeare")
    seen: list[list[int]] = []

    def only(ids: list[int], logits: Any) -> Any:
        seen.append(list(ids))
        changed = np.full_like(logits, -1e9)
        changed[100 + len(seen)] = 0
        return changed

    prompt = own.tokenizer.encode("ROMEO:\n")
    assert own.generate_ids(prompt, max_tokens=3, temperature=0, processor=only) == [101, 102, 103]
    assert seen == [prompt, [*prompt, 101], [*prompt, 101, 102]]

    def fail(ids: list[int], logits: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises((KeyError, lapwing.OptionError)):
        own.generate_ids(prompt, max_tokens=3, temperature=0, processor=fail)
    assert len(own.generate_ids(prompt, max_tokens=3, temperature=0)) == 3


def test_too_long_prompts_say_so() -> None:
    own = model("lapwing/tiny-shakespeare")
    with pytest.raises(lapwing.ContextLengthError, match="512"):
        own.generate("word " * 600)
    with pytest.raises(lapwing.ContextLengthError, match="together"):
        own.generate("ROMEO:", max_tokens=511)
    with pytest.raises(lapwing.OptionError, match="empty"):
        own.generate_ids([[]])
    with pytest.raises(lapwing.OptionError, match="2048"):
        own.generate_ids([[2048]])


def test_generation_config_keys_are_honoured_or_refused() -> None:
    assert not set(HONOURED) & set(REFUSED)
    assert not (set(HONOURED) | set(REFUSED)) & WITHOUT_EFFECT
    name = "lapwing/tiny-shakespeare"
    with lapwing.load(name, generation_config={"max_new_tokens": 3, "do_sample": False}) as own:
        assert len(own.generate("ROMEO:").ids) == 3
    with (
        lapwing.load(name, generation_config={"guidance_scale": 2.0}) as own,
        pytest.raises(lapwing.OptionError, match="guidance_scale"),
    ):
        own.generate("ROMEO:")
    with lapwing.load(name, generation_config={"do_sample": None, "max_length": 8}) as own:
        assert len(own.generate_ids([1, 2, 3])) == 5
        with pytest.raises(lapwing.ContextLengthError, match="max_length"):
            own.generate_ids(list(range(1, 10)))
    with lapwing.load(name, generation_config={"stop_strings": ["man"]}) as own:
        assert own.generate("ROMEO:\n", temperature=0, max_tokens=30).finish_reason == "stop"


def test_every_option_and_key_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "generation.md").read_text(encoding="utf-8")
    names = [*GenerateOptions.__annotations__, *HONOURED, *REFUSED, *WITHOUT_EFFECT]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_penalties_of_a_sampling_recipe_do_not_bend_greedy_decoding() -> None:
    config = {"do_sample": True, "repetition_penalty": 1.5}
    with lapwing.load("lapwing/tiny-shakespeare", generation_config=config) as own:
        plain = model("lapwing/tiny-shakespeare").generate("ROMEO:\n", max_tokens=24, temperature=0)
        assert own.generate("ROMEO:\n", max_tokens=24, temperature=0) == plain
        asked = own.generate("ROMEO:\n", max_tokens=24, temperature=0, repetition_penalty=1.5)
        assert asked.ids != plain.ids
