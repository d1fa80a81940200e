"""Every checkpoint of ``golden/`` against its recorded outputs, through the public interface.

A folder with an ``expected.json`` that names a task is a fixture with tolerances of its own; new folders are found
automatically.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lapwing

GOLDEN = Path(__file__).parent / "golden"
_TASKS = ("causal", "encoder", "seq2seq")


@cache
def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text(encoding="utf-8"))
    return found


def _folders(*tasks: str) -> list[str]:
    names = sorted(path.parent.name for path in GOLDEN.glob("*/expected.json"))
    return [name for name in names if expected(name).get("task") in tasks]


@cache
def values(name: str) -> dict[str, Any]:
    return dict(load_file(GOLDEN / name / "expected.safetensors"))


@cache
def model(name: str) -> Any:
    return lapwing.load(GOLDEN / name, weights="f32")


def _close(name: str, key: str, got: Any, want: Any) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{name}: {key}"
    np.testing.assert_allclose(got, want, rtol=0, atol=expected(name)["tolerance"][key], err_msg=f"{name}: {key}")


# -- decoders ------------------------------------------------------------------------------------------


def _causal(own: Any, name: str) -> None:
    for key, ids in expected(name)["prompts"].items():
        _close(name, f"{key}.logits", own.logits(ids), values(name)[f"{key}.logits"])


@pytest.mark.parametrize("name", _folders("causal"))
def test_hidden_states_of_decoders(name: str) -> None:
    for key, ids in expected(name)["prompts"].items():
        if f"{key}.hidden_states" in values(name):
            _close(name, f"{key}.hidden_states", model(name).hidden_states(ids), values(name)[f"{key}.hidden_states"])


@pytest.mark.parametrize("name", _folders("causal"))
def test_greedy_ids_and_the_logits_of_the_last_step(name: str) -> None:
    own = model(name)
    for key, greedy in expected(name)["greedy"].items():
        prompt, seen = expected(name)["prompts"][key], {}

        def watch(ids: list[int], logits: Any, seen: dict[int, Any] = seen) -> Any:
            seen[len(ids)] = logits.copy()
            return logits

        steps = len(greedy["ids"])
        options = {"temperature": 0, "ignore_eos": True}
        assert own.generate_ids(prompt, max_tokens=steps + 1, processor=watch, **options)[:steps] == greedy["ids"]
        _close(name, f"{key}.decode_logits", seen[max(seen)], values(name)[f"{key}.decode_logits"])


@pytest.mark.parametrize("name", _folders("causal"))
def test_greedy_ids_of_all_prompts_at_once(name: str) -> None:
    greedy = expected(name)["greedy"]
    prompts = [expected(name)["prompts"][key] for key in greedy]
    steps = max(len(row["ids"]) for row in greedy.values())
    found = model(name).generate_ids(prompts, max_tokens=steps, temperature=0, ignore_eos=True)
    assert found == [row["ids"] for row in greedy.values()]


# -- encoders ------------------------------------------------------------------------------------------


def _rows(inputs: dict[str, Any], name: str) -> list[list[int]] | None:
    """The rows of one input without the padding."""
    rows = inputs.get(name)
    if rows is None:
        return None
    mask = inputs.get("attention_mask") or [[1] * len(row) for row in rows]
    return [[t for t, m in zip(row, keep, strict=True) if m] for row, keep in zip(rows, mask, strict=True)]


def _encoder(own: Any, name: str) -> None:
    stored, checked = values(name), 0
    for key, inputs in expected(name)["inputs"].items():
        ids, segments = _rows(inputs, "input_ids"), _rows(inputs, "token_type_ids")
        assert ids is not None
        found: dict[str, list[Any]] = {}
        if f"{key}.last_hidden_state" in stored:
            found["last_hidden_state"] = own.encode(ids, segments)
        if f"{key}.pooler_output" in stored:
            found["pooler_output"] = list(own.pooled(ids, segments))
        if f"{key}.logits" in stored:
            found["logits"] = own.head_logits(ids, segments)
        if f"{key}.start_logits" in stored:
            both = own.head_logits(ids, segments)
            found["start_logits"], found["end_logits"] = [x[:, 0] for x in both], [x[:, 1] for x in both]
        for what, rows in found.items():
            for want, got, tokens in zip(stored[f"{key}.{what}"], rows, ids, strict=True):
                if want.ndim == got.ndim - 1:  # a discriminator's one output
                    got = got[:, 0]
                if what == "last_hidden_state" or len(want) > len(got):
                    want = want[: len(tokens)]
                _close(name, f"{key}.{what}", got, want)
                checked += 1
    assert checked


@pytest.mark.parametrize("name", _folders("encoder"))
def test_hidden_states_and_attentions_of_encoders(name: str) -> None:
    own, stored = model(name), values(name)
    for key, inputs in expected(name)["inputs"].items():
        rows, kinds = _rows(inputs, "input_ids"), _rows(inputs, "token_type_ids")
        assert rows is not None
        ids, segments = rows[0], None if kinds is None else kinds[0]
        if f"{key}.hidden_states" in stored:
            _close(name, f"{key}.hidden_states", own.hidden_states(ids, segments), stored[f"{key}.hidden_states"])
        for layer in range(len(own.spec.encoder.layers if own.spec.encoder else own.spec.decoder.layers)):
            place = f"{key}.attentions.{layer}"
            if place in stored:
                _close(name, place, own.attentions(ids, layer, segments), stored[place][0])


@pytest.mark.parametrize("name", [n for n in _folders("encoder") if "sentence.embeddings" in values(n)])
def test_sentences_are_embedded(name: str) -> None:
    texts = expected(name)["sentence"]["texts"]
    _close(name, "sentence.embeddings", model(name).embed(texts), values(name)["sentence.embeddings"])


# -- encoder-decoders ----------------------------------------------------------------------------------


def _seq2seq(own: Any, name: str) -> None:
    for key, inputs in expected(name)["inputs"].items():
        sources, targets = _rows(inputs, "input_ids"), inputs["decoder_input_ids"]
        assert sources is not None
        states = own.encode(sources)
        for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
            want = values(name)[f"{key}.encoder_last_hidden_state"][row][: len(source)]
            _close(name, f"{key}.encoder_last_hidden_state", states[row], want)
            if f"{key}.logits" in values(name):
                _close(name, f"{key}.logits", own.decoder_logits(source, target), values(name)[f"{key}.logits"][row])


@pytest.mark.parametrize("name", _folders("seq2seq"))
def test_hidden_states_of_encoder_decoders(name: str) -> None:
    own, stored = model(name), values(name)
    for key, inputs in expected(name)["inputs"].items():
        source, target = inputs["input_ids"][0], inputs["decoder_input_ids"][0]
        if f"{key}.encoder_hidden_states" in stored:
            found = own.hidden_states(source)
            _close(name, f"{key}.encoder_hidden_states", found, stored[f"{key}.encoder_hidden_states"])
        if f"{key}.decoder_hidden_states" in stored:
            found = own.hidden_states(source, target)
            _close(name, f"{key}.decoder_hidden_states", found, stored[f"{key}.decoder_hidden_states"])


_CALL = {
    "early_stopping": "early_stopping",
    "forced_bos_token_id": "forced_bos",
    "length_penalty": "length_penalty",
    "max_new_tokens": "max_tokens",
    "num_beams": "beams",
    "num_return_sequences": "num_hypotheses",
}
"""Arguments of a recorded call, under our names."""


@pytest.mark.parametrize("name", _folders("seq2seq"))
def test_recorded_generations(name: str) -> None:
    own = model(name)
    for key, modes in expected(name).get("generate", {}).items():
        sources = _rows(expected(name)["inputs"][key], "input_ids")
        for mode, call in modes.items():
            options: dict[str, Any] = {"beams": 1, "temperature": 0} if mode == "greedy" else {}
            options |= {ours: call[theirs] for theirs, ours in _CALL.items() if call.get(theirs) is not None}
            found = [one for several in own.generate_ids(sources, **options) for one in several]
            assert len(found) == len(call["ids"])
            for index, (got, want) in enumerate(zip(found, call["ids"], strict=True)):
                length = call["lengths"][index] if "lengths" in call else len(want)
                # The first id is the start token; ids after the end token are padding.
                assert list(got.ids) == want[1:length][: len(got.ids)], f"{name}: {key}, {mode}"
                assert (
                    len(got.ids) >= length - 1
                    if "lengths" in call
                    else got.finish_reason == "stop" or len(got.ids) == len(want) - 1
                )
                if "scores" in call:
                    assert got.score == pytest.approx(call["scores"][index], abs=2e-4)


# -- all -----------------------------------------------------------------------------------------------

_COMPARE = {"causal": _causal, "encoder": _encoder, "seq2seq": _seq2seq}


@pytest.mark.parametrize("name", _folders(*_TASKS))
def test_outputs(name: str) -> None:
    _COMPARE[expected(name)["task"]](model(name), name)


@pytest.mark.parametrize("name", [name for name in _folders(*_TASKS) if (GOLDEN / name / "config.v4.json").is_file()])
def test_outputs_with_a_configuration_of_transformers_4(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    shutil.copy(folder / "config.v4.json", folder / "config.json")
    _COMPARE[expected(name)["task"]](lapwing.load(folder, weights="f32"), name)


@pytest.mark.parametrize("name", [name for name in _folders(*_TASKS) if "tokenizer" in expected(name)])
def test_tokenizers(name: str) -> None:
    tokenizer = model(name).tokenizer
    for row in expected(name)["tokenizer"]["encode"]:
        assert tokenizer.encode(row["text"]) == row["ids"], row["text"]
        assert tokenizer.encode(row["text"], add_special_tokens=False) == row["ids_no_special"], row["text"]
        assert tokenizer.decode(row["ids"], skip_special_tokens=False) == row["decoded"], row["text"]
        assert tokenizer.decode(row["ids"], skip_special_tokens=True) == row["decoded_skip_special"], row["text"]


@pytest.mark.parametrize("name", [name for name in _folders(*_TASKS) if expected(name).get("chat")])
def test_conversations(name: str) -> None:
    tokenizer = model(name).tokenizer
    for row in expected(name)["chat"]:
        options = {key: value for key, value in row.items() if key not in ("messages", "text", "ids", "error")}
        if "error" in row:
            with pytest.raises(lapwing.Error):
                tokenizer.encode_chat(row["messages"], **options)
        else:
            assert tokenizer.encode_chat(row["messages"], **options) == row["ids"]
