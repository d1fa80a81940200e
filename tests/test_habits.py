"""Calls that people expect: a model as a function, the counts of a result, functions that end a generation, the
beginning of a translation, scores of translations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.__main__ import main

from .loaded import GOLDEN, model
from .refusals import fails

TEXT = "the cat sat"


@pytest.mark.parametrize(
    ("name", "task", "method"),
    [
        ("bert-seqcls", None, "classify"),
        ("bert-tokcls", None, "tag"),
        ("bert-model", None, "features"),
        ("bert-sentence", None, "embed"),
        ("bert-mlm", "encode", "features"),
        ("bert-seqcls", "encode", "features"),
        ("bert-sentence", "encode", "features"),
        ("splade", None, "embed_sparse"),
        ("colbert", None, "embed_tokens"),
        ("llama", None, "generate"),
        ("llama", "score", "score"),
        ("lapwing/tiny-en-de", None, "translate"),
        ("lapwing/tiny-en-de", "summarize", "summarize"),
        ("t5-v1_0", None, "generate"),
    ],
)
def test_a_model_called_does_its_main_task(name: str, task: str | None, method: str) -> None:
    own = model(name) if task is None else lapwing.load(name if "/" in name else GOLDEN / name, task=task)
    if own.kind == "encoder-decoder" or method == "generate":
        assert str(own(TEXT, max_tokens=4)) == str(getattr(own, method)(TEXT, max_tokens=4))
    else:
        assert repr(own(TEXT)) == repr(getattr(own, method)(TEXT))
        assert repr(own([TEXT])) == repr(getattr(own, method)([TEXT]))


def test_a_mask_a_question_and_a_conversation() -> None:
    own = model("bert-mlm")
    text = f"the {own.tokenizer.mask_token} sat"
    assert own(text, top_k=2) == own.fill_mask(text, top_k=2)
    own = model("bert-qa")
    assert own("who sat", TEXT) == own.answer("who sat", TEXT)
    own = lapwing.load(GOLDEN / "qwen3", task="chat")
    messages = [{"role": "user", "content": "hi"}]
    want = own.chat(messages, max_tokens=3)
    assert own("hi", max_tokens=3) == own(messages, max_tokens=3) == want
    assert own(["hi", "hi"], max_tokens=3) == [want, want] == own([messages, messages], max_tokens=3)
    fails(lapwing.OptionError, lambda: own("hi", max_new_tokens=3), "chat has no option max_new_tokens=3")


@pytest.mark.parametrize("name", ["llama", "lapwing/tiny-en-de"])
def test_results_have_counts_and_speed(name: str) -> None:
    found = model(name).generate(TEXT, max_tokens=5)
    other = model(name).generate([TEXT, TEXT + " on it"], max_tokens=5)
    assert found == other[0]  # though the times differ
    ids = model(name).tokenizer.encode(TEXT)
    assert found.prompt_tokens == len(ids)
    assert found.generated_tokens == len(found.ids)
    assert found.seconds > 0 and found.tokens_per_second == found.generated_tokens / found.seconds
    assert other[0].seconds == other[1].seconds


@pytest.mark.parametrize("name", ["lapwing/tiny-shakespeare", "lapwing/tiny-en-de"])
def test_a_function_ends_a_generation(name: str) -> None:
    own = model(name)
    prompt = "A man is riding a bicycle down the street."
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "beams": 1}
    whole = own.generate(prompt, **options)
    seen: list[tuple[list[int], str]] = []

    def three(ids: list[int], text: str) -> bool:
        seen.append((list(ids), text))
        return len(ids) >= 3

    found = own.generate(prompt, stopping=three, **options)
    assert found.ids == whole.ids[:3]
    assert found.finish_reason == "stop"
    assert found.text == own.tokenizer.decode(found.ids, skip_special_tokens=True)
    assert [len(ids) for ids, _ in seen] == [1, 2, 3]
    assert all(found.text.startswith(text) for _, text in seen)
    chunks = list(own.stream(prompt, stopping=three, **options))
    assert "".join(chunk.text for chunk in chunks) == found.text
    assert chunks[-1].finish_reason == "stop"
    # In a batch each text ends for itself, and by its text too.
    word = whole.text.split()[1]
    pair = own.generate([prompt, prompt], stopping=lambda _, text: word in text, **options)
    assert pair[0] == pair[1] and word in pair[0].text and len(pair[0].ids) < len(whole.ids)
    assert own.generate(prompt, stopping=lambda *_: np.bool_(False), **options).ids == whole.ids


def test_refusals_of_the_function() -> None:
    own = model("llama")
    fails(lapwing.OptionError, lambda: own.generate("a", stopping="x"), "the option stop")
    fails(
        lapwing.OptionError, lambda: own.generate("a", stopping=lambda *_: None, max_tokens=3), "stopping returned None"
    )
    fails(lapwing.OptionError, lambda: own.generate("a", stopping=lambda *_: True, beams=2), "set beams to 1")
    with pytest.raises(ZeroDivisionError):
        own.generate("a", stopping=lambda *_: 1 / 0, max_tokens=3)
    assert own.generate("a", max_tokens=3).ids  # the engine goes on


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["lapwing/tiny-en-de", "m2m_100-nllb"])
def test_a_translation_continues_its_prefix(name: str, beams: int) -> None:
    own = model(name)
    options: dict[str, Any] = {"beams": beams, "max_tokens": 10}
    if name == "m2m_100-nllb":
        options["target_lang"] = own.languages[1]
    text = "A man is riding a bicycle."
    whole = own.translate(text, **options)
    # The beginning of a greedy translation has the same continuation.
    prefix = (
        "Ein Mann" if name.startswith("lapwing") else own.tokenizer.decode(whole.ids[1:3], skip_special_tokens=True)
    )
    found = own.translate(text, target_prefix=prefix, **options)
    assert found.text.startswith(prefix.strip())
    if name.startswith("lapwing"):
        assert found.text == whole.text
    other = own.translate([text, text], target_prefix=[prefix, ""], **options)
    assert other[0] == found
    if beams == 1:
        # The forced first token counts as a new one only without a prefix.
        ids = other[1].ids
        assert ids[:9] == whole.ids[-9:] or ids == whole.ids
    if name.startswith("lapwing"):
        far = own.translate(text, target_prefix="Zwei Frauen", **options)
        assert far.text.startswith("Zwei Frauen") and far.text != whole.text
        cut = own.translate(text, target_prefix="Zwei Frauen", stop=["Frauen", "."], **options)
        assert cut.text == far.text.partition(".")[0]


def test_refusals_of_prefixes() -> None:
    own = model("lapwing/tiny-en-de")
    fails(lapwing.OptionError, lambda: own.translate(["a", "b"], target_prefix=["x"]), "1 items for 2 texts")
    fails(lapwing.OptionError, lambda: own.translate("a", target_prefix=3), "target_prefix is 3")
    fails(
        lapwing.OptionError, lambda: own.translate("a", target_prefix="x", split_sentences=True), "exclude each other"
    )


def test_scores_of_translations() -> None:
    own = model("lapwing/tiny-en-de")
    texts = ["A man is riding a bicycle.", "Two dogs run."]
    found = own.translate(texts, beams=1, length_penalty=1.0)
    scores = own.score(texts, [one.text for one in found])
    for one, score in zip(found, scores, strict=True):
        # Greedy: what the search has summed up while it generated.
        assert score.ids[: len(one.ids)] == one.ids
        assert score.total / len(score.logprobs) == pytest.approx(one.score, abs=1e-4)
        assert score.perplexity == pytest.approx(np.exp(-score.total / len(score.logprobs)))
    assert own.score(texts[0], found[0].text) == scores[0]
    assert own.score(texts[0], found[1].text).total < scores[0].total
    fails(lapwing.OptionError, lambda: own.score(texts, ["a"]), "2 sources and 1 targets")
    fails(lapwing.OptionError, lambda: own.score(texts[0], ["a"]), "one for each")


def test_languages() -> None:
    assert model("lapwing/tiny-en-de").languages == ("deu",)
    assert model("lapwing/tiny-en-de").translate("the", target_lang="deu", max_tokens=2) is not None
    own = model("m2m_100-nllb")
    assert len(own.languages) > 1
    for language in own.languages[:2]:
        assert own.translate("the", target_lang=language, max_tokens=2) is not None


def test_the_command_scores_translations(capsys: pytest.CaptureFixture[str]) -> None:
    name = "lapwing/tiny-en-de"
    score = model(name).score("Two dogs run.", "Zwei Hunde rennen.")
    assert main(["score", name, "Two dogs run.\tZwei Hunde rennen."]) == 0
    assert capsys.readouterr().out == (
        f"logprob={score.total:.4f}\tperplexity={score.perplexity:.4f}\ttokens={len(score.logprobs)}\n"
    )
    assert main(["score", name, "Two dogs run."]) == 1
    assert "expected two texts separated by a tab" in capsys.readouterr().err


@pytest.mark.parametrize("beams", [1, 3])
def test_alignments_are_the_cross_attention(beams: int) -> None:
    own = model("lapwing/tiny-en-de")
    text = "A man is riding a bicycle."
    source = own.tokenizer.encode(text)
    options: dict[str, Any] = {"beams": beams, "num_hypotheses": beams, "alignments": True}
    found = own.translate([text, "Two dogs run."], **options)[0]
    assert len(found.hypotheses) == beams
    for one in found.hypotheses:
        assert one.alignment.shape == (len(one.ids), len(source)) and one.alignment.dtype == np.float32
        np.testing.assert_allclose(one.alignment.sum(axis=1), 1, atol=1e-5)
        fed = [own.config["decoder_start_token_id"], *one.ids[:-1]]
        assert np.array_equal(one.alignment, own.attentions(source, -1, fed, cross=True).mean(axis=0))
    # A prefix changes only what is new.
    whole, part = (
        found.hypotheses[0],
        own.translate(text, target_prefix="Ein Mann", beams=1, alignments=True).hypotheses[0],
    )
    if part.ids == whole.ids[-len(part.ids) :]:
        assert np.array_equal(part.alignment, whole.alignment[-len(part.ids) :])
    assert own.translate(text).hypotheses[0].alignment is None
    fails(lapwing.OptionError, lambda: own.translate(text, alignments=True, split_sentences=True), "exclude each other")
    fails(lapwing.OptionError, lambda: own.translate(text, alignments=1), "alignments is 1")
