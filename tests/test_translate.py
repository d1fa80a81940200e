"""Translation through the public interface, and the names of languages."""

from __future__ import annotations

import numpy as np
import pytest

import lapwing
from lapwing.models import languages, sentences

from .loaded import expected, model


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
