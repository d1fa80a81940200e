"""What the small files around a checkpoint say: padding, lengths, sides, stop strings, texts of tokens."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

import lapwing
from lapwing.models.tasks import windows
from lapwing.tokenizer import Tokenizer

from .loaded import GOLDEN, model

PADDING: list[dict[str, Any]] = json.loads((GOLDEN / "padding.json").read_text(encoding="utf-8"))


def fixture(name: str, target: Path, **config: Any) -> Path:
    """A copy of a fixture with changes to its tokenizer_config.json."""
    for path in (GOLDEN / name).iterdir():
        if not path.name.startswith("expected"):
            shutil.copy(path, target)
    place = target / "tokenizer_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text(encoding="utf-8")), **config}), encoding="utf-8")
    return target


@pytest.mark.parametrize("row", PADDING, ids=lambda row: f"{row['fixture']}-{len(row['ids'])}")
def test_padding_inside_a_sequence_takes_up_no_position(row: dict[str, Any]) -> None:
    states = model(row["fixture"]).encode([row["ids"]])[0]
    np.testing.assert_allclose(states[:, 0], row["first"], atol=2e-5)
    np.testing.assert_allclose(states.sum(axis=1), row["sums"], atol=2e-4)


@given(
    st.integers(0, 12),
    st.none() | st.integers(0, 12),
    st.integers(3, 16),
    st.sampled_from(["left", "right"]),
)
def test_texts_and_pairs_are_truncated_as_by_the_library(first: int, second: int | None, limit: int, side: str) -> None:
    words = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter != "i"]
    text, pair = " ".join(words[:first]), None if second is None else " ".join(words[12 : 12 + second])
    backend = Backend.from_file(str(GOLDEN / "bert-model" / "tokenizer.json"))
    backend.no_padding()
    backend.enable_truncation(limit, direction=side)
    own = Tokenizer(GOLDEN / "bert-model").encoding(text, pair).truncated(limit, side)
    found = backend.encode(text, pair)
    assert (own.ids, own.type_ids, own.offsets) == (found.ids, found.type_ids, found.offsets)


def test_windows_of_the_left_side_end_at_the_end() -> None:
    encoding = Tokenizer(GOLDEN / "bert-model").encoding("a b c d e f g")
    ids = encoding.ids
    found = [one.ids for one in windows.split(encoding, 5, 1, side="left")]
    assert found == [
        [ids[0], ids[1], ids[2], ids[3], ids[-1]],
        [ids[0], ids[3], ids[4], ids[5], ids[-1]],
        [ids[0], ids[5], ids[6], ids[7], ids[-1]],
    ]
    encoding = Tokenizer(GOLDEN / "bert-model").encoding("a b c d")
    found = [one.ids[1:-1] for one in windows.split(encoding, 5, 1, side="left")]
    assert found == [encoding.ids[1:3], encoding.ids[2:5]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_follows_the_tokenizers_length_and_side(side: str, tmp_path: Path) -> None:
    own = lapwing.load(fixture("bert-seqcls", tmp_path, model_max_length=12, truncation_side=side))
    text = " ".join(["the quick brown fox"] * 4)
    whole = own.tokenizer.encode(text)
    kept = [whole[0], *(whole[1:11] if side == "right" else whole[-11:-1]), whole[-1]]
    scores = [label.score for label in own.classify(text, truncate=True, scores="none").labels]
    assert sorted(scores) == sorted(map(float, own.head_logits([kept])[0]))
    # Without the option, the whole text is read: it fits into the model.
    assert own.classify(text) != own.classify(text, truncate=True)


def test_side_that_is_neither_is_named(tmp_path: Path) -> None:
    folder = fixture("bert-seqcls", tmp_path, model_max_length=8, truncation_side="middle")
    with pytest.raises(lapwing.CheckpointError, match="truncation_side"):
        lapwing.load(folder).classify("the quick brown fox jumps over it", truncate=True)


def test_tags_of_truncated_texts(tmp_path: Path) -> None:
    own = lapwing.load(fixture("bert-tokcls", tmp_path, model_max_length=8, truncation_side="left"))
    text = "the quick brown fox jumps over the lazy dog"
    found = own.tag(text, truncate=True, ignore_labels=(), aggregation="none")
    assert len(found) == 6
    assert found[-1].end == len(text)
    with pytest.raises(lapwing.OptionError, match="stride and truncate"):
        own.tag(text, truncate=True, stride=1)


class Stub:
    """A model whose head gives nothing."""

    _head: ClassVar[Any] = staticmethod(lambda batch: [np.zeros((len(one), 2), np.float32) for one in batch])

    @staticmethod
    def _map(items: list[Any], size: Any, run: Any, **_: Any) -> list[Any]:
        return list(run(items))


def test_windows_of_many_texts_take_linear_time() -> None:
    encoding = Tokenizer(GOLDEN / "bert-model").encoding("a b")
    took = []
    for count in (5_000, 40_000):
        start = time.perf_counter()
        found = windows.read(Stub(), [[encoding]] * count, batch_tokens=1, progress=None, what="")  # type: ignore[arg-type]
        took.append(time.perf_counter() - start)
        assert len(found) == count
    assert took[1] < 40 * took[0] + 1  # 8 times the texts; with the square, 64 times


SPELLED = [314, 72, 73]
"""<|im_start|>, which is special and no end token, and two pieces of text."""


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    ("stop", "count", "text"),
    [
        ("<|im_start|>", 1, ""),
        ("im_st", 1, ""),
        ("{0}<|im", 4, ""),
        ("{0}{1}<|im_start|>{0}", 5, ""),
        ("{1}<|", 4, "{0}"),
    ],
)
def test_stop_strings_may_spell_special_tokens(stop: str, count: int, text: str, beams: int) -> None:
    own = model("qwen2")
    pieces = [own.tokenizer.decode([index]) for index in SPELLED[1:]]
    stop, text = stop.format(*pieces), text.format(*pieces)
    if stop.startswith(pieces[0] + "<"):
        stop = pieces[1] + stop[len(pieces[0]) :]
        text = pieces[0]
    size = len(own.tokenizer.encode("Hello"))

    def forced(seen: Any, logits: Any) -> Any:
        logits = np.full_like(logits, -1e9)
        logits[SPELLED[(len(seen) - size) % 3]] = 0
        return logits

    found = own.generate("Hello", max_tokens=9, processor=forced, stop=stop, beams=beams)
    assert found.finish_reason == "stop"
    assert found.text == text
    if beams == 1:
        assert list(found.ids) == (SPELLED * 3)[:count]
        chunks = list(own.stream("Hello", max_tokens=9, processor=forced, stop=stop))
        assert "".join(chunk.text for chunk in chunks) == text
        assert chunks[-1].finish_reason == "stop"


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "t5-v1_1", "marian", "gemma2", "bloom"])
def test_bytes_of_tokens_join_to_the_text(name: str) -> None:
    own = Tokenizer(GOLDEN / name)
    for text in ("Hello world, it is new", "caf\u00e9 \u4f60\u597d", "a  b"):
        ids = own.encode(text, add_special_tokens=False)
        joined = b"".join(own.token_bytes(index) for index in ids)
        assert joined.decode("utf-8").replace("<unk>", "").strip(" ") == own.decode(ids).replace("<unk>", "").strip(" ")


def test_logprobs_distinguish_spaces_and_bytes() -> None:
    own = model("llama")
    first, second = (own.tokenizer.token_to_id(text) for text in ("\u2581in", "in"))
    found = own.generate("O Romeo", max_tokens=2, logit_bias={first: 1000.0, second: 999.9}, logprobs=1).logprobs
    assert [token.text for token in found] == [" in", "in"]
    half = own.tokenizer.token_to_id("<0xE6>")
    (token,) = own.generate("O", max_tokens=1, logit_bias={half: 1000.0}, logprobs=0).logprobs
    assert (token.text, token.bytes) == ("\\xe6", b"\xe6")


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"min_new_tokens": 6}, [72, 220, 220, 72, 72, 72, 72, 72]),
        ({"encoder_no_repeat_ngram_size": 1}, [72, 220, 220, 72, 72, 72, 72, 72]),
        ({"forced_eos_token_id": 3}, [72, 220, 220, 72, 72, 72, 72, 3]),
    ],
)
def test_length_decay_leaves_a_forbidden_end_forbidden(options: dict[str, int], ids: list[int], tmp_path: Path) -> None:
    folder = fixture("bart", tmp_path)
    ends = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0, "max_new_tokens": 8}
    config = {**ends, "exponential_decay_length_penalty": [2, 1.5], **options}
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert list(lapwing.load(folder).generate_ids([20, 30, 40, 2])[0].ids) == ids


NUMBERS = {"id": 123456789012345678901, "lr": 1e-05, "big": 1e16, "tiny": 2.5e-7, "n": 10**60, "half": 0.5, "one": 1.0}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ a | tojson }}", json.dumps(NUMBERS)),
        ("{{ a }}", str(NUMBERS)),
        ("{% for k, v in a.items() %}{{ k }}={{ v }} {% endfor %}", "".join(f"{k}={v} " for k, v in NUMBERS.items())),
        ("{{ [a.lr, a.n, a.half] | join('|') }} {{ a.tiny | string }}", f"1e-05|{10**60}|0.5 2.5e-07"),
    ],
)
def test_numbers_in_templates_are_written_as_python_writes_them(template: str, text: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    own = Tokenizer(GOLDEN / "qwen2")
    assert own.apply_chat_template(messages, chat_template=template, a=NUMBERS) == text
