"""Common to all loaded models: information, closing, pickling, errors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.architectures import families, family, task_of
from lapwing.checkpoint import Config
from lapwing.tasks import TASKS, head_of

from .loaded import GOLDEN, minilm, model


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
        with pytest.raises(lapwing.ModelClosedError, match="closed"):
            copy.info()
    with pytest.raises(lapwing.ModelClosedError, match="closed"):
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
    assert issubclass(lapwing.ModelClosedError, lapwing.Error)
    assert issubclass(lapwing.ModelClosedError, RuntimeError)


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


@pytest.mark.parametrize(("weights", "minimum"), [("q8", 0.9997), ("q4", 0.95)])
def test_quantized_weights_stay_near_the_stored_ones(weights: str, minimum: float) -> None:
    # The cosines of 8 and 4 bits (1 - c is about the sum of the squared relative errors of the
    # layers: 0.5 % and 9 %), with a margin of a third.
    own = minilm()
    texts = ["A dog runs on the beach.", "The stock market fell by four percent.", "Two children play chess in a park."]
    with lapwing.load(own._parts.folder, weights=weights) as model:
        assert {weights} <= set(model.info().weight_types) <= {weights, "f32"} | ({"q6"} if weights == "q4" else set())
        cosines = (model.embed(texts, normalize=True) * own.embed(texts, normalize=True)).sum(axis=1)
    assert cosines.min() >= minimum


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "q5"}, "weights is 'q5'"),
        ({"activations": "int4"}, "activations is 'int4'"),
        ({"activations": "int8", "weights": "f32"}, "activations='int8' needs weights='q8'"),
        ({"activations": "bf16", "weights": "q8"}, "activations='bf16' needs weights='bf16'"),
        ({"activations": "bf16", "weights": "f32"}, "this model has weights='f32'"),
        ({"activations": "int8", "weights": "bf16"}, "activations='int8' needs weights='q8'"),
        ({"kv_cache": "q4"}, "kv_cache is 'q4'"),
    ],
)
def test_types_that_do_not_exist_are_refused_by_name(options: dict[str, str], words: str) -> None:
    with pytest.raises(lapwing.OptionError, match=words):
        lapwing.load("lapwing/tiny-en-de", **options)


@pytest.mark.parametrize("name", ["bert-mlm", "bert-sentence", "t5-encoder"])
def test_what_a_decoder_caches_is_refused_of_encoders(name: str) -> None:
    for kv in ("q8", "f16"):
        with pytest.raises(lapwing.OptionError, match=f"kv_cache='{kv}' sets the type of a decoder's cache"):
            lapwing.load(GOLDEN / name, kv_cache=kv)
    for options in ({}, {"kv_cache": "f32"}, {"weights": "bf16"}, {"weights": "q8"}):
        with lapwing.load(GOLDEN / name, **options) as own:
            assert own.info().kv == "f32"


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
    assert np.array_equal(own.hidden_states(source)[-1], own.encode(source))
    assert len(own.hidden_states(source, target)) == 5
    with pytest.raises(lapwing.OptionError, match="layer"):
        own.attentions(source, 4)


@pytest.mark.parametrize("name", ["llama", "bert-model", "bart"])
def test_hidden_states_are_all_layers_and_encode_gives_the_last(name: str) -> None:
    own = model(name)
    ids, other = [3, 4, 5, 2], [6, 7, 2]
    stack = own.spec.encoder or own.spec.decoder
    layers = own.hidden_states(ids)
    assert len(layers) == len(stack.layers) + 1
    states = own.encode(ids)
    assert states.shape == (len(ids), stack.hidden_size)
    assert np.array_equal(layers[-1], states)
    for one, alone in zip(own.encode([ids, other]), (states, own.encode(other)), strict=True):
        assert np.array_equal(one, alone)


def test_the_end_of_a_class_name_gives_the_head() -> None:
    heads = {
        "BertForSequenceClassification": "sequence-classification",
        "GPT2LMHeadModel": "generation",
        "T5WithLMHeadModel": "text-to-text",
        "MarianMTModel": "text-to-text",
        "T5EncoderModel": "features",
        "BertModel": "features",
        "Unknown": None,
    }
    assert {name: head_of(name) for name in heads} == heads
    # The base class of an encoder-decoder generates with its shared table; the encoder alone does not.
    for model_type, name, task in (
        ("bart", "BartModel", "text-to-text"),
        ("umt5", "UMT5Model", "text-to-text"),
        ("t5", "T5EncoderModel", "features"),
        ("bert", "BertModel", "features"),
    ):
        assert task_of(Config({"model_type": model_type, "architectures": [name]})) == task


def test_every_family_is_described_by_known_names() -> None:
    for name in families():
        found = family(Config({"model_type": name}))
        assert found.languages in ("tokens", "words")
        assert found.head_start in ("start token", "last token")
        assert found.bare_head in {task.head for task in TASKS.values()}
